//! The state of a container, and of the engine that runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nexus_sandbox::collect;

use crate::Limit;

/// What an engine is and can do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `docker`, `podman`, `sandbox` or `host-unsafe`.
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

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, and never started.
    Created,
    /// Its first process lives.
    Running,
    /// Its processes are held still.
    Paused,
    /// The engine starts it again.
    Restarting,
    /// Ended, however it did.
    Exited,
    /// The engine takes it away.
    Removing,
}

/// A container as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What the engine knows it by.
    pub id: String,
    /// As its spec names it.
    pub name: String,
    /// As its spec names it.
    pub image: String,
    /// What it is doing.
    pub state: State,
    /// As its spec gave them.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When its first process was started last.
    pub started: Option<SystemTime>,
    /// When that ended last.
    pub exited: Option<SystemTime>,
    /// Once it has ended.
    pub exit: Option<ExitInfo>,
    /// What the image says of its health, if it says anything: `None` where it has no check.
    pub healthy: Option<bool>,
    /// Ports as they were bound.
    pub ports: Vec<crate::Port>,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitInfo {
    /// That of the first process; 128 and the signal where one ended it.
    pub code: i32,
    /// Whether the kernel killed for lack of memory.
    pub oom: bool,
}

/// Where output was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it was written to.
    pub source: Source,
    /// At most as large as the engine read it at once.
    pub bytes: Bytes,
}

/// A piece of input for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// As it was typed.
    Data(Bytes),
    /// There is no more.
    Close,
}

/// Where an engine itself collects the output of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// What was written, up to the bound.
    pub output: PathBuf,
    /// The newest of what came after the bound, once the container has ended; not there if nothing did.
    pub tail: PathBuf,
    counts: PathBuf,
}

/// How much was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes of output in all.
    pub bytes: u64,
    /// Newlines in it.
    pub newlines: u64,
    /// Bytes of it that were kept.
    pub kept: u64,
}

impl Collected {
    /// The files in a directory.
    pub fn of(dir: &Path) -> Self {
        Collected {
            output: dir.join(collect::OUTPUT),
            tail: dir.join(collect::TAIL),
            counts: dir.join(collect::COUNTS),
        }
    }

    /// `None` while the container runs, or if its helper was killed.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn written(&self) -> std::io::Result<Option<Written>> {
        let bytes = match std::fs::read(&self.counts) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let counts: collect::Counts = serde_json::from_slice(&bytes)?;
        Ok(Some(Written {
            bytes: counts.bytes,
            newlines: counts.newlines,
            kept: counts.kept,
        }))
    }
}

/// Which of what was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Goes on until the container ends.
    pub follow: bool,
    /// Only what was written after.
    pub since: Option<SystemTime>,
    /// Only the newest N lines.
    pub tail: Option<usize>,
}

/// One more command for a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Beside the environment of the container.
    pub env: BTreeMap<String, String>,
    /// Empty: that of the container.
    pub working_dir: String,
    /// Empty: that of the container.
    pub user: String,
    /// All of its standard input; `None`: it has none.
    pub stdin: Option<Bytes>,
    /// Output beyond this many bytes, of both together, is read and dropped; zero: 1 MiB.
    pub max_output: usize,
    /// Killed after this.
    pub timeout: Option<Duration>,
}

impl ExecSpec {
    /// [`ExecSpec::max_output`] with its default, in bytes.
    pub fn output_limit(&self) -> usize {
        if self.max_output == 0 { 1 << 20 } else { self.max_output }
    }
}

/// What came of an [`ExecSpec`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// That of the command; 128 and the signal where one ended it.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: Bytes,
    /// What it wrote to standard error.
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
    /// Bytes of memory that its processes use now.
    pub memory_bytes: u64,
    /// Bytes; zero: none.
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes received.
    pub network_rx: u64,
    /// Bytes sent.
    pub network_tx: u64,
    /// Bytes read from disks.
    pub block_read: u64,
    /// Bytes written to disks.
    pub block_write: u64,
}

/// Something happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of the container.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// Of the container.
    pub labels: BTreeMap<String, String>,
}

/// What happened to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was made.
    Created,
    /// Its first process was started.
    Started,
    /// Its memory was not enough; its end may follow.
    Oom,
    /// Its first process ended.
    Exited {
        /// That of the process; 128 and the signal where one ended it.
        code: i32,
    },
    /// It is gone.
    Removed,
}
