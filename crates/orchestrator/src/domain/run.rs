//! Runs: what becomes of a turn whose model asks for tool calls.
//!
//! ```text
//!           ┌──────────── next step ─────────────┐
//!           ▼                                    │
//!  QUEUED ──▶ MODEL ──finish_step with calls──▶ TOOLS ◀──▶ WAITING      every unfinished call waits for a person
//!               │                                │           │
//!               └──answer──▶ ENDED (done)        └── cancel, stop, failure ──▶ ENDED
//! ```
//!
//! A turn of text only has no [`Run`]: its facts are those of the turn, and its run is shown from them. A run is created
//! by the first step that asks for calls. It holds the last finished step and the calls of that step; older steps are on
//! disk.

mod cancel;
mod compact;
mod finish;
mod guard;
mod notes;
mod offer;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_proto::orchestrator::v1::{Run as Wire, RunEnd, RunStep};

use super::turn::{Phase, Turn};
use super::{State, Time, ids};

pub use cancel::Cancelled;
pub use finish::FinishedStep;
pub use guard::Guard;
pub use notes::ProcessEnd;
pub use view::{run_event, text_only};

/// Steps of one run after which the model is asked to report without tools.
pub const MAX_STEPS: i32 = 200;
/// Work time of one run, without waiting for people, after which the same happens.
pub const MAX_WORK: Time = 60 * 60 * 1_000_000_000;
/// Attempts of one step: an assistant that dies while the model answers is replaced twice.
pub const STEP_ATTEMPTS: u32 = 3;
/// How long a step waits for an assistant that drives runs.
pub const ASSISTANT_PATIENCE: Time = 60 * 1_000_000_000;

#[derive(Clone, Debug)]
pub struct Run {
    pub session: u64,
    /// Number of the message that it answers.
    pub n: u64,
    /// The run without its steps.
    pub wire: Wire,
    /// The last step that a model finished, without its calls.
    pub step: RunStep,
    /// The calls of that step, in the order in which the model asked for them.
    pub calls: Vec<u64>,
    /// When the step after it began: every call has its result.
    pub next: Option<Time>,
    /// When the calls began to run, while they do: for the work time.
    pub working: Option<Time>,
    /// It is being ended: calls that run are being killed.
    pub ending: Option<Ending>,
    pub guard: Guard,
}

/// How a run is being ended, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub end: RunEnd,
    pub reason: String,
}

/// The runs of open turns that asked for calls.
#[derive(Debug, Default)]
pub struct Runs {
    open: BTreeMap<(u64, u64), Run>,
    /// Ended runs that stay until the next decision, since their facts are made of them.
    retired: Vec<(u64, u64)>,
}

impl Runs {
    pub fn get(&self, session: u64, n: u64) -> Option<&Run> {
        self.open.get(&(session, n))
    }

    pub(super) fn get_mut(&mut self, session: u64, n: u64) -> Option<&mut Run> {
        self.open.get_mut(&(session, n))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Run> {
        self.open.values()
    }

    /// Takes in a run, a new one or one from disk.
    pub fn insert(&mut self, run: Run) {
        self.open.insert((run.session, run.n), run);
    }

    pub(super) fn retire(&mut self, session: u64, n: u64) {
        self.retired.push((session, n));
    }

    pub(super) fn sweep(&mut self) {
        for key in self.retired.drain(..) {
            self.open.remove(&key);
        }
    }
}

impl Run {
    /// The number of the step that the model answers now, or will answer next.
    pub fn current_step(&self) -> i32 {
        self.step.number + i32::from(self.next.is_some())
    }
}

/// The id of a turn's run. It says where the run is: the session's key, the message's number, and half of the random part
/// of the answer's id, so that another try of the same message is another run.
pub fn run_id(session: u64, turn: &Turn) -> String {
    run_id_of(session, turn.n, &turn.answer_id)
}

pub fn run_id_of(session: u64, n: u64, answer_id: &str) -> String {
    let random = answer_id.get(24..32).unwrap_or("00000000");
    format!("{session:016x}{:08x}{random}", n & 0xffff_ffff)
}

/// The session and the message that a run's id names; `None` for an id that is not of our making.
pub fn place_of(id: &str) -> Option<(u64, u64)> {
    let session = ids::number(id)?;
    let n = u64::from_str_radix(id.get(16..24)?, 16).ok()?;
    Some((session, n))
}

impl State {
    /// Session and message of an open run, if the whole id is that of the turn.
    pub fn open_run(&self, id: &str) -> Option<(u64, u64)> {
        let (key, n) = place_of(id)?;
        let turn = self.sessions.get(key)?.turn_of(n)?;
        (run_id(key, turn) == id).then_some((key, n))
    }

    /// Forgets what ended in decisions before this one.
    pub fn sweep(&mut self) {
        self.runs.sweep();
        self.calls.sweep();
        self.approvals.sweep();
    }

    /// For the store: what a turn that was open does.
    pub fn load_phase(&mut self, session: u64, n: u64, phase: Phase) {
        let Some(session) = self.sessions.get_mut(session) else {
            return;
        };
        if let Some(turn) = session.turns_mut().find(|turn| turn.n == n) {
            turn.phase = phase;
        }
    }

    /// The id of a run that is or was open, from its answer's id.
    pub(super) fn id_of_run(&self, session: u64, n: u64) -> Arc<str> {
        if let Some(run) = self.runs.get(session, n) {
            return run.wire.id.as_str().into();
        }
        let turn = self.sessions.get(session).and_then(|s| s.turn_of(n));
        turn.map(|turn| run_id(session, turn)).unwrap_or_default().into()
    }
}
