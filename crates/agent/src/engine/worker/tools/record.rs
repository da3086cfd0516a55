//! What is kept of a process, so that the next worker finds it: one file for each, written whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nexus_proto::agent::v1::Task;
use prost::Message as _;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub number: u64,
    /// By which its output is found.
    pub call_id: String,
    pub task_id: String,
    /// The task that started it, encoded, in hex; empty once its result was told.
    pub task: String,
    pub engine: String,
    /// Empty until it is made.
    pub container: String,
    /// Its beginning, for lists.
    pub command: String,
    pub started_ms: u64,
    pub deadline_ms: u64,
    pub tty: bool,
    pub stdin: bool,
    /// How much of its output was told already.
    pub told_bytes: u64,
    pub end: Option<End>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub code: i32,
    pub oom: bool,
    pub timed_out: bool,
    pub killed: bool,
    /// Its helper was killed: how the command ended is not known.
    pub lost: bool,
    /// Everything that it wrote, and how much of that is kept.
    pub bytes: u64,
    pub newlines: u64,
    pub kept: u64,
    pub at_ms: u64,
}

impl Record {
    pub fn task(&self) -> Option<Task> {
        let bytes = hex::decode(&self.task).ok().filter(|bytes| !bytes.is_empty())?;
        Task::decode(bytes.as_slice()).ok()
    }

    pub fn encoded(task: &Task) -> String {
        hex::encode(task.encode_to_vec())
    }
}

fn file(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number}.json"))
}

/// Whole or not at all. Not flushed: what a power cut takes away, it takes away from the process too.
pub fn save(dir: &Path, record: &Record) -> io::Result<()> {
    let partial = dir.join(format!(".{}.new", record.number));
    fs::write(&partial, serde_json::to_vec(record)?)?;
    fs::rename(partial, file(dir, record.number))
}

pub fn remove(dir: &Path, number: u64) {
    let _ = fs::remove_file(file(dir, number));
}

/// Those that can be read, by their numbers.
pub fn load(dir: &Path) -> Vec<Record> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"));
    let read = |path: PathBuf| {
        fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
    };
    let mut records: Vec<Record> = files.filter_map(|entry| read(entry.path())).collect();
    records.sort_by_key(|record| record.number);
    records
}

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// From now until then; nothing if that is over.
pub fn left(until_ms: u64) -> Duration {
    Duration::from_millis(until_ms.saturating_sub(now_ms()))
}
