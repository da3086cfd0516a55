//! Calls of tools, of a run's step or of `ExecuteTool`.
//!
//! ```text
//!  PROPOSED ──policy──▶ ALLOWED ──locks and a worker──▶ STARTED ──worker took it──▶ RUNNING ──▶ DONE, FAILED, TIMEOUT
//!      │ │                ▲  ▲                             │                           │
//!      │ └─▶ ASKED ───────┘  └──worker lost before it──────┘                           ├──cancel──▶ CANCELLED
//!      │       │                 took the call, or the call may run twice ◀────────────┤
//!      └───────┴─▶ REFUSED                                                             └──no record──▶ UNKNOWN
//! ```
//!
//! Each attempt is a task of its own: whatever an older attempt says comes to a task that is over, and goes nowhere.

mod end;
mod execute;
mod locks;
mod lost;
mod policy;
mod propose;
mod work;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use nexus_proto::llm::v1::{Block, block};
use nexus_proto::orchestrator::v1::{CallState, RunCall};
use nexus_tools::Code;

use super::{Error, Time, ids};

pub use execute::ExecuteCall;
pub use nexus_tools::lock::Lock;
pub(super) use work::takes_tasks;

/// Calls of one session that run at once.
pub const AT_ONCE: usize = 8;
/// Calls of one step; a model that asks for more is told so.
pub const IN_STEP: usize = 128;
/// How long an allowed call waits for a worker that can execute it.
pub const WORKER_PATIENCE: Time = 30 * 1_000_000_000;
/// How long a worker that holds its stream may take to confirm a call.
pub const CONFIRM_PATIENCE: Time = 30 * 1_000_000_000;
/// How long a worker may take to end a call that it was told to cancel.
pub const CANCEL_PATIENCE: Time = 2 * 1_000_000_000;
/// How long looking at the file of an edit may take.
pub const LOOK_PATIENCE: Time = 10 * 1_000_000_000;
/// Attempts of a call that may run twice, after a worker was lost in the middle of it.
pub const ATTEMPTS: i32 = 2;
/// Attempts of a call that no worker confirmed.
pub const UNCONFIRMED_ATTEMPTS: i32 = 5;
/// Bytes of output that are kept to tell the model where a lost call stood.
pub const TAIL: usize = 2 << 10;

#[derive(Clone, Debug)]
pub struct Call {
    pub key: u64,
    /// 0 for a call of `ExecuteTool` without a session.
    pub session: u64,
    pub session_id: Arc<str>,
    /// The message and the step that it belongs to; `None` for a call of `ExecuteTool`.
    pub step: Option<(u64, i32)>,
    pub wire: RunCall,
    pub lock: Lock,
    /// Running it twice is the same as once.
    pub idempotent: bool,
    /// It changes one file: the hashes before and after say whether it was done.
    pub edit: bool,
    pub hashes: Option<(String, String)>,
    /// Of the tool's definition when the call was asked for.
    pub definition_digest: String,
    /// What ends a task that its worker does not end.
    pub timeout: i64,
    /// The task of the present attempt.
    pub task: Option<u64>,
    /// A cancel was decided: the worker was told.
    pub cancelled: Option<String>,
    /// When the patience with its present state ends.
    pub due: Option<Time>,
    /// Its worker is lost: what became of it is decided at `due`, unless it is heard of again.
    pub lost: bool,
    /// It is an edit, and its file is being looked at; not on disk.
    pub looked_at: bool,
    /// The plan that was approved; what is launched has to be the same.
    pub approved: Option<String>,
    /// Hashes of the files that it names, by their paths, and those that are not covered.
    pub files: Vec<(String, String)>,
    pub not_covered: Vec<String>,
    /// The files are being hashed, or were for what is decided next; not on disk.
    pub hashing: bool,
    pub hashed: bool,
    /// Who called `ExecuteTool`, and what it named.
    pub caller: Arc<str>,
    pub correlation_id: String,
    /// The end of its output; not on disk.
    pub tail: Vec<u8>,
    /// Bytes of output that were passed on; not on disk.
    pub written: u64,
}

/// Calls that are not over, and those of the last step of each open run.
#[derive(Debug, Default)]
pub struct Calls {
    by_key: BTreeMap<u64, Call>,
    /// Calls of a session that are not over, in the order in which they were asked for.
    open: HashMap<u64, BTreeSet<u64>>,
    /// Calls that wait for a worker.
    pub(super) waiting: BTreeSet<u64>,
    retired: Vec<u64>,
}

impl Calls {
    pub fn get(&self, key: u64) -> Option<&Call> {
        self.by_key.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Call> {
        self.by_key.get_mut(&key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Call> {
        self.by_key.values()
    }

    /// Takes in a call, a new one or one from disk.
    pub fn insert(&mut self, call: Call) {
        if !call.is_over() {
            self.open.entry(call.session).or_default().insert(call.key);
        }
        self.by_key.insert(call.key, call);
    }

    /// Calls of a session that are not over, oldest first.
    pub fn open_of(&self, session: u64) -> impl Iterator<Item = &Call> {
        let keys = self.open.get(&session).into_iter().flatten();
        keys.filter_map(|key| self.by_key.get(key))
    }

    pub fn count_open(&self) -> usize {
        self.open.values().map(BTreeSet::len).sum()
    }

    pub fn find(&self, id: &str) -> Option<&Call> {
        let found = ids::number(id).and_then(|key| self.by_key.get(&key));
        found.filter(|call| call.wire.id == id)
    }

    /// For the store: a call that was allowed and waits for a worker.
    pub fn load_waiting(&mut self, key: u64) {
        self.waiting.insert(key);
    }

    pub(super) fn closed(&mut self, key: u64, session: u64) {
        self.waiting.remove(&key);
        if let Some(open) = self.open.get_mut(&session) {
            open.remove(&key);
            if open.is_empty() {
                self.open.remove(&session);
            }
        }
    }

    pub(super) fn retire(&mut self, key: u64) {
        self.retired.push(key);
    }

    pub(super) fn sweep(&mut self) {
        for key in self.retired.drain(..) {
            self.by_key.remove(&key);
        }
    }
}

impl Call {
    pub fn state(&self) -> CallState {
        self.wire.state()
    }

    pub fn is_over(&self) -> bool {
        is_over(self.state())
    }

    /// The one file that it changes, from the workspace's root.
    pub fn edited_path(&self) -> Option<&str> {
        match &self.lock {
            Lock::Write(paths) if self.edit => paths.first().map(String::as_str),
            _ => None,
        }
    }

    /// A worker has it, or is about to take it.
    pub fn is_out(&self) -> bool {
        matches!(self.state(), CallState::Started | CallState::Running)
    }
}

pub fn is_over(state: CallState) -> bool {
    use CallState::{Cancelled, Done, Failed, Refused, Timeout, Unknown};
    matches!(state, Refused | Done | Failed | Timeout | Cancelled | Unknown)
}

pub(super) fn text_block(text: impl Into<String>) -> Block {
    Block {
        kind: Some(block::Kind::Text(text.into())),
    }
}

/// What a model is told of a call that failed: a code, what happened, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: &'static str,
    text: String,
}

impl From<nexus_tools::Error> for Failure {
    fn from(error: nexus_tools::Error) -> Self {
        Failure {
            code: error.code.as_str(),
            text: error.to_string(),
        }
    }
}

impl Failure {
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        nexus_tools::Error::new(code, what).into()
    }

    /// What the model reads: the error on one line, then the next step.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Refuses a call that is not there, or that this caller may not know of.
pub fn not_found(id: &str) -> Error {
    Error::CallNotFound(id.into())
}
