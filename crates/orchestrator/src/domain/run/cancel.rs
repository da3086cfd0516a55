//! Cancels and stops runs: what was decided is on disk before the first process is killed.

use nexus_proto::orchestrator::v1::{RunEnd, RunState};

use super::Ending;
use crate::domain::turn::Phase;
use crate::domain::{Error, Fact, State, Step};

/// What a cancel or a stop did.
#[derive(Clone, Debug, Default)]
pub struct Cancelled {
    /// Ids of the runs that end by it.
    pub runs: Vec<String>,
    /// Ids of the calls that were told to end.
    pub calls: Vec<String>,
    /// Places of the runs, to wait for their ends.
    pub places: Vec<(u64, u64)>,
}

/// What the model is told in the next run of the session.
const INTERRUPTED: &str = "The previous run was interrupted by the user. These calls may have half happened: ";

impl State {
    /// Ends one run of a session, whatever it does. False if it is not open.
    pub fn cancel_run(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        n: u64,
        end: RunEnd,
        reason: &str,
        done: &mut Cancelled,
    ) -> bool {
        self.sweep();
        let Some(session) = self.sessions.get(key) else {
            return false;
        };
        let Some(turn) = session.turn_of(n) else {
            return false;
        };
        done.runs.push(super::run_id(key, turn));
        done.places.push((key, n));
        let message = turn.message_id.clone();
        if !matches!(turn.phase, Phase::Calls) {
            if let Some(run) = self.runs.get_mut(key, n) {
                run.ending = Some(Ending {
                    end,
                    reason: reason.into(),
                });
            }
            self.cancel_turn(step, key, &message);
            return true;
        }
        self.cancel_calls(step, key, n, end, reason, &mut done.calls);
        true
    }

    /// Ends the run that waits for its calls: those that wait end now, those that run are killed first.
    pub(in crate::domain) fn cancel_calls(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        n: u64,
        end: RunEnd,
        reason: &str,
        cancelled: &mut Vec<String>,
    ) {
        let Some(run) = self.runs.get_mut(key, n) else { return };
        if run.ending.is_some() && end != RunEnd::Stopped {
            return;
        }
        run.ending = Some(Ending {
            end,
            reason: reason.into(),
        });
        let calls = run.calls.clone();
        step.fact(Fact::Run { session: key, n });
        let out: Vec<String> = calls
            .iter()
            .filter_map(|call| self.calls.get(*call))
            .filter(|call| call.is_out())
            .map(|call| format!("{} ({})", call.wire.tool, call.wire.id))
            .collect();
        for call in calls {
            if let Some(open) = self.calls.get(call).filter(|call| !call.is_over()) {
                cancelled.push(open.wire.id.clone());
                self.cancel_call(step, call, reason);
            }
        }
        if !out.is_empty() {
            self.notes.insert(key, format!("{INTERRUPTED}{}.", out.join(", ")));
            step.fact(Fact::SessionNote(key));
        }
        self.step_may_go_on(step, key, n);
    }

    /// Ends every run of a session, the newest first.
    pub fn cancel_session_runs(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        end: RunEnd,
        reason: &str,
        done: &mut Cancelled,
    ) {
        let turns = self
            .sessions
            .get(key)
            .map(|session| session.turns().iter().map(|turn| turn.n).collect());
        let turns: Vec<u64> = turns.unwrap_or_default();
        for n in turns.into_iter().rev() {
            self.cancel_run(step, key, n, end, reason, done);
        }
        if end == RunEnd::Stopped
            && let Some(id) = self.sessions.get(key).map(|session| session.id.clone())
        {
            self.end_sandbox(step, &id);
        }
        let free: Vec<u64> = self
            .calls
            .open_of(key)
            .filter(|call| call.step.is_none())
            .map(|call| call.key)
            .collect();
        for call in free {
            done.calls.extend(self.calls.get(call).map(|call| call.wire.id.clone()));
            self.cancel_call(step, call, reason);
        }
    }

    /// A session is closed or deleted: what it has of calls, grants, notes and processes ends.
    pub(in crate::domain) fn end_calls(&mut self, step: &mut Step<'_>, key: u64) {
        self.sweep();
        let open: Vec<u64> = self.calls.open_of(key).map(|call| call.key).collect();
        open.into_iter()
            .for_each(|call| self.abandon_call(step, call, "the session was closed"));
        self.end_grants(step, key, None);
        self.forget_note(step, key);
        if let Some(id) = self.sessions.get(key).map(|session| session.id.clone()) {
            self.end_sandbox(step, &id);
        }
    }

    /// Whether a run that is being ended has ended.
    pub fn run_is_over(&self, (key, n): (u64, u64)) -> bool {
        let turn = self.sessions.get(key).and_then(|session| session.turn_of(n));
        turn.is_none()
            || self
                .runs
                .get(key, n)
                .is_some_and(|run| run.wire.state() == RunState::Ended)
    }

    /// The note for a session's next run was given to a model.
    pub(super) fn forget_note(&mut self, step: &mut Step<'_>, key: u64) {
        if self.notes.remove(&key).is_some() {
            step.fact(Fact::SessionNote(key));
        }
    }
}

/// There is no such run, or not for this caller.
pub(in crate::domain) fn run_not_found(id: &str) -> Error {
    Error::RunNotFound(id.into())
}
