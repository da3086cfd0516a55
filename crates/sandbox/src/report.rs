//! What the helper says: one JSON object a line on its status descriptor, and in the files of its state directory.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The helper's own exit code where nothing was run. Otherwise it is that of the command, or 128 and the signal.
pub const FAILED: u8 = 125;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The command was executed.
    Started(Started),
    /// Nothing runs, and nothing is left behind.
    Failed(Failed),
    Exited(Ended),
    /// The answer to [`Request::Access`](crate::Request::Access).
    Allowed,
}

/// Kept as `status.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The helper that watches over it.
    pub monitor: Process,
    /// Pid 1 inside, as the host sees it. Killing it kills everything; other signals reach the command.
    pub init: Process,
    /// Descriptors of the monitor that stand for the namespaces: `user`, `mnt`, `pid`, ...
    pub namespaces: BTreeMap<String, i32>,
    /// Directories of its control groups, by controller.
    pub cgroups: BTreeMap<String, String>,
    /// Limits that were asked for and are not enforced.
    pub unenforced: Vec<String>,
    /// Zero: this kernel has none.
    pub landlock: u32,
}

/// A process that is not mistaken for a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks from boot, field 22 of `/proc/<pid>/stat`.
    pub start: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What was being done: `namespaces`, `mount`, `exec`, ...
    pub step: String,
    pub why: String,
    /// The number of the system's error; zero: it was none.
    pub errno: i32,
    /// What to install, allow or change. May be empty.
    pub hint: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.why)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

/// Kept as `exit.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its own, or 128 and the signal.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed something in it for lack of memory.
    pub oom: bool,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// What works here for this user: the answer to `nexus-sandbox --probe`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub version: String,
    pub uid: u32,
    /// Why nothing can be run here; absent: `true` was run in a sandbox just now.
    pub failure: Option<Failed>,
    /// The version of the kernel's Landlock; zero: none.
    pub landlock: u32,
    pub seccomp: bool,
    /// The control groups that can be used here, by controller: `v1` or `v2`.
    pub cgroups: BTreeMap<String, String>,
    /// `memory`, `cpu`, `pids`: whether a limit holds.
    pub enforced: BTreeMap<String, bool>,
}
