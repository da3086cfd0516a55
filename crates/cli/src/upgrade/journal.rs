//! The progress of an upgrade, written to disk before each step, so that an interrupted upgrade can be resumed.

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::failure::{Exit, Failure};

const SHAPE: u32 = 1;

/// In their order. Up to `Backup` nothing that counts has changed, and a killed upgrade is undone; from `Switch` on it
/// is finished, or goes back if the new version does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    Unpack,
    Check,
    Backup,
    Switch,
    Restart,
    Finish,
    /// Back to the version before.
    Return,
}

/// A service as it was before anything was touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    pub id: String,
    /// In the words of `nexus services status`.
    pub state: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Journal {
    pub schema: u32,
    pub step: Step,
    pub from: String,
    /// Not known before it is unpacked.
    pub to: String,
    /// The folder of `to` was made by this upgrade.
    pub fresh: bool,
    pub root: PathBuf,
    pub services: Vec<Before>,
    pub backup: Option<PathBuf>,
    pub keep: usize,
    pub wait_ms: u64,
    #[serde(default)]
    pub stay_ms: u64,
    pub began: String,
    /// Why it goes back.
    pub why: Option<String>,
}

impl Journal {
    pub fn new(from: &str, root: PathBuf, keep: usize, (wait_ms, stay_ms): (u64, u64)) -> Journal {
        Journal {
            schema: SHAPE,
            step: Step::Unpack,
            from: from.to_owned(),
            to: String::new(),
            fresh: false,
            root,
            services: Vec::new(),
            backup: None,
            keep,
            wait_ms,
            stay_ms,
            began: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            why: None,
        }
    }

    pub fn read(layout: &Layout) -> Result<Option<Journal>, Failure> {
        let path = file(layout);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::file("read", &path, &error)),
        };
        let unknown = || {
            Failure::new(
                Exit::Failed,
                format!("{} was written by another version of nexus", path.display()),
            )
            .hint("finish that upgrade with the version that began it")
        };
        let journal: Journal = serde_json::from_slice(&text).map_err(|_| unknown())?;
        match journal.schema {
            SHAPE => Ok(Some(journal)),
            _ => Err(unknown()),
        }
    }

    /// On disk when it returns.
    pub fn write(&self, layout: &Layout) -> Result<(), Failure> {
        let path = file(layout);
        let failed = |error: io::Error| Failure::file("write", &path, &error);
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        nexus_walk::write_file(&path, &text, 0o600).map_err(failed)
    }

    pub fn remove(layout: &Layout) -> Result<(), Failure> {
        let path = file(layout);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::file("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    pub fn word(&self) -> String {
        let word = serde_json::to_value(self.step).expect("a step is a word");
        word.as_str().unwrap_or_default().to_owned()
    }
}

fn file(layout: &Layout) -> PathBuf {
    layout.home().join("upgrade.json")
}
