//! What a backup says about itself: its first entry.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

pub const NAME: &str = "manifest.json";
/// The version of this shape.
pub const SHAPE: u32 = 1;
/// The longest manifest that is believed to be one.
pub const LONGEST: u64 = 256 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u32,
    /// RFC 3339; the databases are as of then or shortly after.
    pub created_at: String,
    /// The version that made it.
    pub nexus: String,
    pub root: PathBuf,
    /// Keys and other secrets are in it.
    pub with_keys: bool,
    pub files: Vec<Entry>,
    /// What was there and was left out, with the reason.
    pub left_out: Vec<LeftOut>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Below the archive: `state/db/orchestrator.db`.
    pub path: String,
    pub bytes: u64,
    pub mode: u32,
    pub sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,
    /// Where it was, for a file that does not lie in `state/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Database {
    pub schema: u32,
    pub newest: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    pub path: PathBuf,
    pub reason: String,
}

impl Manifest {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub fn find(&self, path: &str) -> Option<&Entry> {
        self.files.iter().find(|file| file.path == path)
    }

    /// What makes it unfit to be read.
    pub fn objection(&self) -> Option<String> {
        if self.schema > SHAPE {
            return Some(format!(
                "it has shape {}, and this program knows up to {SHAPE}; nexus {} made it",
                self.schema, self.nexus
            ));
        }
        let bad = self.files.iter().find(|file| !is_plain(&file.path));
        bad.map(|file| format!("it names {:?}, which is no place below state/", file.path))
    }
}

/// Whether a name stays below the directory it is unpacked in.
fn is_plain(path: &str) -> bool {
    let path = Path::new(path);
    let inside = path.starts_with("state") || path.starts_with("elsewhere");
    inside && path.components().count() > 1 && path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn nothing_is_unpacked_outside() {
        assert!(is_plain("state/db/x.db") && is_plain("elsewhere/orchestrator.database"));
        for bad in ["state", "/state/x", "state/../x", "etc/passwd", "../state/x", ""] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
