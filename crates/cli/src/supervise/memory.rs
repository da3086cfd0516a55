//! What a supervisor leaves to its successor: which processes are which service, and what was wanted.
//!
//! A process is named by its id, its start time and the boot it belongs to, so that a number which means somebody else
//! by now is never taken for a daemon. A file that cannot be read is no memory: then the sockets tell.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::PathBuf,
};

use nexus_config::Root;
use serde::{Deserialize, Serialize};

use crate::supervise::{model::boot_id, process};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub boot_id: Option<String>,
    pub services: BTreeMap<String, Remembered>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub wanted: bool,
    pub pid: Option<i32>,
    pub start_time: Option<u64>,
    #[serde(default)]
    pub restarts: u32,
}

/// Which services are disabled outlives a boot.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Disabled {
    pub disabled: Vec<String>,
}

fn file(root: &Root) -> PathBuf {
    root.run_dir().join("supervisor.json")
}

pub fn disabled_file(root: &Root) -> PathBuf {
    root.state().join("nexus/services.json")
}

impl Memory {
    /// Of this boot; else there is none.
    pub fn read(root: &Root) -> Memory {
        let read: Memory = fs::read(file(root))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        if read.boot_id == boot_id() {
            read
        } else {
            Memory::default()
        }
    }

    pub fn write(&self, root: &Root) -> io::Result<()> {
        replace(&file(root), &serde_json::to_vec(self)?)
    }

    /// Whether one of its processes still runs.
    pub fn has_survivors(&self) -> bool {
        let runs = |before: &Remembered| match (before.pid, before.start_time) {
            (Some(pid), Some(start_time)) => process::start_time(pid) == Some(start_time),
            _ => false,
        };
        self.services.values().any(runs)
    }

    pub fn forget(root: &Root) {
        let _absent = fs::remove_file(file(root));
    }
}

impl Disabled {
    /// # Errors
    /// The file is there and says nothing that can be understood: nobody guesses what was meant.
    pub fn read(root: &Root) -> io::Result<Disabled> {
        match fs::read(disabled_file(root)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Disabled::default()),
            Err(error) => Err(error),
        }
    }

    pub fn write(&self, root: &Root) -> io::Result<()> {
        replace(&disabled_file(root), &serde_json::to_vec_pretty(self)?)
    }
}

/// Whole or not at all.
fn replace(path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().expect("the file lies in the tree");
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
