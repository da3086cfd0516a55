//! What is kept of a container, in a directory of its own:
//!
//! ```text
//!   record.json   what it is; written once            status.json   the helper: it runs since
//!   log.N         what it wrote; by the helper        exit.json     the helper: how it ended
//! ```
//!
//! The helper writes its files whether or not a daemon is there, so a daemon that comes back knows everything.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nexus_sandbox::{Ended, Run, Started};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process;
use crate::{ExitInfo, Info, State};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub name: String,
    pub image: String,
    /// Of the image; empty for that of the host.
    pub digest: String,
    pub labels: BTreeMap<String, String>,
    pub created_ms: u64,
    pub run: Run,
    #[serde(skip)]
    pub dir: PathBuf,
}

/// What its files say, in order of weight.
#[derive(Debug)]
pub enum Life {
    Created,
    Running(Box<Started>),
    Exited(Ended),
    /// Its helper was killed and could not write how it ended.
    Lost(Box<Started>),
}

const RECORD: &str = "record.json";
const STATUS: &str = "status.json";
const EXIT: &str = "exit.json";

impl Record {
    pub fn load(dir: &Path) -> io::Result<Option<Record>> {
        let record: Option<Record> = read(&dir.join(RECORD))?;
        Ok(record.map(|record| Record {
            dir: dir.into(),
            ..record
        }))
    }

    /// Makes the directory, for this user alone.
    pub fn save(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(&self.dir)?;
        write(&self.dir, RECORD, self)
    }

    /// Of its latest life, however that ended.
    pub fn started(&self) -> io::Result<Option<Started>> {
        read(&self.dir.join(STATUS))
    }

    pub fn life(&self) -> io::Result<Life> {
        // In this order: one that ends in between is seen as ended.
        let started = self.started()?;
        let alive = started.as_ref().is_some_and(|started| process::alive(started.monitor));
        let ended: Option<Ended> = read(&self.dir.join(EXIT))?;
        Ok(match (started.map(Box::new), ended) {
            (_, Some(ended)) => Life::Exited(ended),
            (Some(started), None) if alive => Life::Running(started),
            (Some(started), None) => Life::Lost(started),
            (None, None) => Life::Created,
        })
    }

    /// A new life: what the last one left is gone, but for the log.
    pub fn forget_life(&self) -> io::Result<()> {
        for name in [STATUS, EXIT] {
            match fs::remove_file(self.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub fn write_exit(&self, ended: &Ended) -> io::Result<()> {
        write(&self.dir, EXIT, ended)
    }

    pub fn info(&self) -> io::Result<Info> {
        let life = self.life()?;
        let (state, exit) = match &life {
            Life::Created => (State::Created, None),
            Life::Running(_) => (State::Running, None),
            Life::Exited(ended) => (State::Exited, Some(exit_info(ended))),
            Life::Lost(_) => (State::Exited, Some(LOST)),
        };
        let exited = match &life {
            Life::Exited(ended) => Some(time(ended.at_ms)),
            _ => None,
        };
        let status = fs::metadata(self.dir.join(STATUS));
        Ok(Info {
            id: self.id.clone(),
            name: self.name.clone(),
            image: self.image.clone(),
            state,
            labels: self.labels.clone(),
            created: Some(time(self.created_ms)),
            started: status.and_then(|status| status.modified()).ok(),
            exited,
            exit,
            healthy: None,
            ports: Vec::new(),
        })
    }
}

/// Everything in it is killed with the helper.
pub const LOST: ExitInfo = ExitInfo { code: 137, oom: false };

pub fn exit_info(ended: &Ended) -> ExitInfo {
    ExitInfo {
        code: ended.code,
        oom: ended.oom,
    }
}

pub fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole or not at all, and not for others to read.
pub fn write(dir: &Path, name: &str, what: &impl Serialize) -> io::Result<()> {
    let partial = dir.join(format!(".{name}.new"));
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(&serde_json::to_vec(what)?)?;
    fs::rename(&partial, dir.join(name))
}
