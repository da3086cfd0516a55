//! Where usage outlives a restart: one small file, replaced whole. A write that fails loses nothing but its own moment;
//! the next one carries everything. A file that is not ours to understand stops the start: beginning at zero would
//! hand out a spent budget again.

pub mod books;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::domain::usage::Usage;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("usage file {path} is damaged ({reason}): move it away to start counting again")]
    Damaged { path: PathBuf, reason: String },
    #[error("failed to {what} usage file {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

#[derive(Debug, Clone)]
pub struct UsageFile {
    path: PathBuf,
}

impl UsageFile {
    pub fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("llm-usage.json"),
        }
    }

    pub fn load(&self) -> Result<Usage, Error> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::Damaged {
                path: self.path.clone(),
                reason: error.to_string(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Usage::default()),
            Err(source) => Err(self.io("read", source)),
        }
    }

    pub fn save(&self, usage: &Usage) -> Result<(), Error> {
        let bytes = serde_json::to_vec(usage).expect("maps of text to numbers are always JSON");
        nexus_walk::write_file(&self.path, &bytes, 0o600).map_err(|source| self.io("write", source))
    }

    fn io(&self, what: &'static str, source: io::Error) -> Error {
        Error::Io {
            what,
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::answer::Tokens;

    #[test]
    fn usage_survives_and_damage_is_told() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = UsageFile::new(dir.path());
        let mut usage = file.load().expect("absent is empty");
        usage.record(3, "anthropic", Tokens { input: 5, output: 7 });
        file.save(&usage).expect("save");
        assert_eq!(UsageFile::new(dir.path()).load().expect("load"), usage);
        fs::write(&file.path, "{\"day\":").expect("write");
        assert!(matches!(file.load(), Err(Error::Damaged { .. })));
    }
}
