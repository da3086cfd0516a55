//! Stop: below the model, over restarts. While it lasts no step and no call starts.

use std::collections::BTreeMap;

use nexus_proto::orchestrator::v1::RunEnd;
use nexus_proto::words;

use super::event::{self, About};
use super::run::Cancelled;
use super::turn::{Phase, Turn, TurnEnd};
use super::{Effect, Fact, State, Step, Time};

/// What was stopped until it is resumed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stopped {
    All,
    /// An assistant, by its registered name or its id.
    Agent(String),
}

/// Since when, by whom and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopping {
    pub since: Time,
    pub by: String,
    pub reason: String,
}

#[derive(Clone, Debug, Default)]
pub struct Stops {
    lasting: BTreeMap<Stopped, Stopping>,
    /// What is stored of it cannot be read: then everything is stopped.
    pub unreadable: bool,
}

/// Stops that last at once.
const MOST: usize = 10_000;

impl Stops {
    /// Why nothing may start for this assistant, if so.
    pub fn covers(&self, agent: &str) -> Option<&'static str> {
        if self.unreadable {
            return Some("everything is stopped, since the stored stop cannot be read; `nexus resume --all` ends that");
        }
        if self.lasting.contains_key(&Stopped::All) {
            return Some("everything is stopped; `nexus resume --all` ends that");
        }
        let stopped = !agent.is_empty() && self.lasting.contains_key(&Stopped::Agent(agent.to_owned()));
        stopped.then_some("the agent is stopped; `nexus resume --agent` ends that")
    }

    pub fn all(&self) -> bool {
        self.unreadable || self.lasting.contains_key(&Stopped::All)
    }

    pub fn get(&self, what: &Stopped) -> Option<&Stopping> {
        self.lasting.get(what)
    }

    /// Takes in a stop from disk.
    pub fn load(&mut self, what: Stopped, stopping: Stopping) {
        self.lasting.insert(what, stopping);
    }
}

/// Whether a message is the word that stops its session's runs, on any surface.
pub fn is_stop_word(content: &str) -> bool {
    let word = content.trim();
    word.eq_ignore_ascii_case("stop") || word.eq_ignore_ascii_case("/stop")
}

impl State {
    /// A user said stop: what runs in the session ends, and no model sees the word. The answer says what was ended.
    pub(super) fn stop_by_message(&mut self, step: &mut Step<'_>, key: u64, turn: &Turn) {
        let mut done = Cancelled::default();
        self.cancel_session_runs(step, key, RunEnd::Stopped, "stopped by a message", &mut done);
        let content = match (done.runs.len(), done.calls.len()) {
            (0, 0) => "Nothing was running.".to_owned(),
            (_, 0) => "Stopped.".to_owned(),
            (_, calls) => format!("Stopped, with {calls} tool call{}.", if calls == 1 { "" } else { "s" }),
        };
        let n = self.store_answer(step, key, turn, content, Default::default());
        step.fact(Fact::TurnEnded {
            session: key,
            n: turn.n,
            over: TurnEnd::Answered { answer: n },
        });
        step.effect(Effect::Stored { session: key, n });
        step.effect(Effect::TurnEnded {
            session: key,
            n: turn.n,
            error: None,
        });
    }

    /// Stops everything, or what an assistant drives, until it is resumed; what runs now ends.
    pub fn stop(&mut self, step: &mut Step<'_>, what: &Stopped, by: &str, reason: &str) -> Cancelled {
        step.grows = false;
        let stopping = Stopping {
            since: step.now,
            by: by.into(),
            reason: reason.into(),
        };
        if self.stops.lasting.len() < MOST || self.stops.lasting.contains_key(what) {
            self.stops.lasting.insert(what.clone(), stopping);
        }
        step.fact(Fact::Stop(what.clone()));
        let mut done = Cancelled::default();
        let sessions: Vec<(u64, Vec<u64>)> = self
            .sessions
            .iter()
            .filter(|session| !session.turns().is_empty())
            .map(|session| (session.key, session.turns().iter().map(|turn| turn.n).collect()))
            .collect();
        for (key, turns) in sessions {
            for n in turns.into_iter().rev() {
                if self.is_stopped_by(what, key, n) {
                    self.cancel_run(step, key, n, RunEnd::Stopped, reason, &mut done);
                }
            }
        }
        if *what == Stopped::All {
            let free: Vec<u64> = self
                .calls
                .iter()
                .filter(|call| !call.is_over())
                .map(|call| call.key)
                .collect();
            for key in free {
                done.calls.extend(self.calls.get(key).map(|call| call.wire.id.clone()));
                self.cancel_call(step, key, reason);
            }
        }
        self.stop_event(step, words::event::RUN_STOPPED, what, reason);
        done
    }

    /// Lets what was stopped begin again. False if it was not stopped.
    pub fn resume(&mut self, step: &mut Step<'_>, what: &Stopped) -> bool {
        let unreadable = *what == Stopped::All && std::mem::take(&mut self.stops.unreadable);
        let was = self.stops.lasting.remove(what).is_some();
        if was || unreadable {
            step.fact(Fact::Stop(what.clone()));
            self.stop_event(step, words::event::RUN_RESUMED, what, "");
            let sessions: Vec<u64> = self.agents.waiting.iter().copied().collect();
            for session in sessions {
                step.effect(Effect::Dispatch { session });
            }
        }
        was || unreadable
    }

    fn is_stopped_by(&self, what: &Stopped, key: u64, n: u64) -> bool {
        let Stopped::Agent(id) = what else { return true };
        let turn = self.sessions.get(key).and_then(|session| session.turn_of(n));
        let runs = turn.is_some_and(|turn| match turn.phase {
            Phase::Running { agent, .. } => self.agents.get(agent).is_some_and(|agent| *agent.id == **id),
            Phase::Waiting { .. } | Phase::Calls => false,
        });
        runs || self.runs.get(key, n).is_some_and(|run| run.wire.agent_id == *id)
    }

    fn stop_event(&self, step: &mut Step<'_>, name: &str, what: &Stopped, reason: &str) {
        let agent = match what {
            Stopped::All => "",
            Stopped::Agent(id) => id,
        };
        let data = [("agent_id", agent), ("reason", reason)];
        let event = event::build(step, name, event::SYSTEM, About::default(), &data);
        step.fact(Fact::Event { session: 0, event });
    }
}
