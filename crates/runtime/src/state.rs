//! What there is to know of a container, and of the engine that runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::Limit;

/// What an engine is and can do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub engine: &'static str,
    /// As it names itself: `20.10.24`.
    pub version: String,
    /// Where it was found: a socket, or a path.
    pub place: String,
    /// Limits that this host cannot enforce: they are taken and have no effect.
    pub unenforced: BTreeSet<Limit>,
    /// Whether it runs without the rights of root.
    pub rootless: bool,
    /// Whether anything keeps a container from the host. False for `host-unsafe` alone.
    pub isolates: bool,
    /// Whether [`crate::NetworkMode::Bridge`] works.
    pub network: bool,
    /// Whether [`ExitInfo::oom`] can be relied on. Without it, one that ran out of memory was just killed.
    pub tells_oom: bool,
    /// What a careful user should know, in sentences.
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, and never started.
    Created,
    Running,
    Paused,
    Restarting,
    /// Ended, however it did.
    Exited,
    Removing,
}

/// A container as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub id: String,
    pub name: String,
    pub image: String,
    pub state: State,
    pub labels: BTreeMap<String, String>,
    pub created: Option<SystemTime>,
    pub started: Option<SystemTime>,
    pub exited: Option<SystemTime>,
    /// Once it has ended.
    pub exit: Option<ExitInfo>,
    /// What the image says of its health, if it says anything: `None` where it has no check.
    pub healthy: Option<bool>,
    /// Ports as they were bound.
    pub ports: Vec<crate::Port>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitInfo {
    /// That of the first process; 128 and the signal where one ended it.
    pub code: i32,
    /// Whether the kernel killed for lack of memory.
    pub oom: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
}

/// A piece of what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub source: Source,
    pub bytes: Bytes,
}

/// Which of what was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Goes on until the container ends.
    pub follow: bool,
    /// Only what was written after.
    pub since: Option<SystemTime>,
    /// Only so many of the newest lines.
    pub tail: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Empty: that of the container.
    pub working_dir: String,
    /// Empty: that of the container.
    pub user: String,
    pub stdin: Option<Bytes>,
    /// Output beyond this many bytes, of both together, is read and dropped; zero: 1 MiB.
    pub max_output: usize,
    /// Killed after this.
    pub timeout: Option<Duration>,
}

impl ExecSpec {
    pub fn output_limit(&self) -> usize {
        if self.max_output == 0 { 1 << 20 } else { self.max_output }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    pub code: i32,
    pub stdout: Bytes,
    pub stderr: Bytes,
    /// Whether output was dropped.
    pub truncated: bool,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
}

/// What a container uses. Counters count from its start. What an engine cannot tell is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Time on a core, of all its processes. Two samples give a share.
    pub cpu: Duration,
    pub memory_bytes: u64,
    /// Zero: none.
    pub memory_limit: u64,
    pub pids: u64,
    pub network_rx: u64,
    pub network_tx: u64,
    pub block_read: u64,
    pub block_write: u64,
}

/// Something happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub kind: EventKind,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Created,
    Started,
    /// Its memory was not enough; its end may follow.
    Oom,
    Exited {
        code: i32,
    },
    Removed,
}
