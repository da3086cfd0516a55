//! Ends turns, and offers a turn again when its assistant was lost.

use std::collections::HashMap;
use std::sync::Arc;

use nexus_proto::orchestrator::v1::{Message, MessageMetadata, MessageRole, RunEnd};
use nexus_proto::words;

use prost::Message as _;

use super::{ASSISTANT_LOST, Phase, Turn, TurnEnd};
use crate::domain::agent::Agent;
use crate::domain::event::{self, TURN_FAILED, timestamp};
use crate::domain::run::{ASSISTANT_PATIENCE, STEP_ATTEMPTS};
use crate::domain::sessions::about;
use crate::domain::step::MessageOrigin;
use crate::domain::timers::Timer;
use crate::domain::{Effect, Fact, State, Step};

impl State {
    /// An assistant's stream broke: its turns are offered once more, or fail.
    pub fn assistant_lost(&mut self, step: &mut Step<'_>, agent: u64) {
        let drives = self.agents.get(agent).is_some_and(Agent::drives_runs);
        for key in self.agents.take_turns(agent) {
            let Some(turn) = self.sessions.get_mut(key).and_then(|session| session.turn_mut()) else {
                continue;
            };
            if !matches!(turn.phase, Phase::Running { agent: running, .. } if running == agent) {
                continue;
            }
            let attempts = if drives { STEP_ATTEMPTS } else { 2 };
            if turn.attempt >= attempts || turn.tool_ran {
                self.fail_turn(step, key, ASSISTANT_LOST);
                continue;
            }
            turn.attempt += 1;
            let later = turn.step > 1;
            turn.phase = Phase::Waiting {
                grace: later.then(|| step.now.saturating_add(ASSISTANT_PATIENCE)),
            };
            let n = turn.n;
            step.fact(Fact::Turn { session: key, n });
            step.effect(Effect::Dispatch { session: key });
        }
    }

    /// Looks at the turn of a session whose timer came due.
    pub fn turn_due(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(turn) = self.sessions.get(key).and_then(|session| session.turn()) else {
            return;
        };
        match turn.phase {
            Phase::Running { until, .. } if until <= step.now => {
                if self.put_off(step, Timer::Turn(key)) {
                    return;
                }
                self.tell_cancel(step, key);
                self.break_off_turn(
                    step,
                    key,
                    "DEADLINE_EXCEEDED: timed out waiting for the assistant's answer (orchestrator.answer_timeout)",
                );
            }
            Phase::Running { until: later, .. } | Phase::Waiting { grace: Some(later) } if later > step.now => {
                self.timers.set(later, Timer::Turn(key));
            }
            Phase::Waiting { grace: Some(_) } => {
                // It was given its grace when its message was on disk.
                let n = turn.n;
                self.dispatch(step, key, n);
            }
            Phase::Running { .. } | Phase::Waiting { grace: None } | Phase::Calls => {}
        }
    }

    /// Ends every turn of a session with the same error.
    pub fn end_turns(&mut self, step: &mut Step<'_>, key: u64, error: &str) {
        while self
            .sessions
            .get(key)
            .is_some_and(|session| !session.turns().is_empty())
        {
            self.tell_cancel(step, key);
            self.fail_turn(step, key, error);
        }
    }

    pub(in crate::domain) fn finish_turn(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        content: String,
        extra: HashMap<String, String>,
    ) {
        let session = self.sessions.get_mut(key).expect("its turn was just seen");
        let turn = session.end_turn().expect("its turn was just seen");
        let end = if extra.contains_key(words::extra::CANCELLED) {
            RunEnd::Cancelled
        } else {
            RunEnd::Done
        };
        let n = self.store_answer(step, key, &turn, content, extra);
        self.left(step, &turn, key);
        self.end_run(step, key, turn.n, end, "");
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
        step.effect(Effect::Dispatch { session: key });
    }

    /// Adds the answer of a turn to its session: the whole of it, or what came of it.
    pub(in crate::domain) fn store_answer(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        turn: &Turn,
        content: String,
        mut extra: HashMap<String, String>,
    ) -> u64 {
        // The answer to what was taken may use the space that is kept back.
        step.grows = false;
        let session = self.sessions.get_mut(key).expect("its turn was just seen");
        let n = session.add_message(step.now);
        extra.insert(words::extra::IN_REPLY_TO.into(), turn.message_id.to_string());
        let message = Arc::new(Message {
            id: turn.answer_id.to_string(),
            timestamp: Some(timestamp(step.now)),
            role: MessageRole::Assistant.into(),
            content,
            metadata: Some(MessageMetadata {
                extra,
                ..MessageMetadata::default()
            }),
            sequence: n,
        });
        let in_pieces = matches!(&turn.phase, Phase::Running { text, .. } if !text.is_empty());
        let counted = session.limited.then(|| message.encoded_len() as i64);
        if let Some(bytes) = counted {
            self.charge(step, key, bytes);
        }
        step.fact(Fact::Message {
            session: key,
            n,
            message,
            origin: MessageOrigin::Answer { in_pieces },
        });
        n
    }

    /// Ends a turn that fails in the middle of its answer: what came of it, and was shown, is kept and marked.
    pub(in crate::domain) fn break_off_turn(&mut self, step: &mut Step<'_>, key: u64, error: &str) {
        let session = self.sessions.get_mut(key).expect("its turn was just seen");
        let turn = session.end_turn().expect("its turn was just seen");
        if let Phase::Running { text, .. } = &turn.phase
            && !text.is_empty()
        {
            let extra = [
                (words::extra::INCOMPLETE, "true"),
                (words::extra::ERROR, error),
                (words::extra::FINISH_REASON, "error"),
            ];
            let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            let n = self.store_answer(step, key, &turn, text.clone(), extra);
            step.effect(Effect::Stored { session: key, n });
        }
        self.turn_failed(step, key, &turn, error);
        step.effect(Effect::Dispatch { session: key });
    }

    pub(in crate::domain) fn fail_turn(&mut self, step: &mut Step<'_>, key: u64, error: &str) {
        let session = self.sessions.get_mut(key).expect("its turn was just seen");
        let turn = session.end_turn().expect("its turn was just seen");
        self.turn_failed(step, key, &turn, error);
        step.effect(Effect::Dispatch { session: key });
    }

    pub(super) fn turn_failed(&mut self, step: &mut Step<'_>, key: u64, turn: &Turn, error: &str) {
        step.grows = false;
        self.left(step, turn, key);
        let cancelled = error.starts_with("CANCELED");
        let end = if cancelled { RunEnd::Cancelled } else { RunEnd::Failed };
        self.end_run(step, key, turn.n, end, error);
        let session = self.sessions.get(key).expect("its turn was just seen");
        let data = [
            ("error", error),
            (words::data::MESSAGE_ID, &*turn.message_id),
            ("session_id", &*session.id),
        ];
        let failed = event::build(step, TURN_FAILED, event::SYSTEM, about(session), &data);
        step.fact(Fact::TurnEnded {
            session: key,
            n: turn.n,
            over: TurnEnd::Failed { error: error.into() },
        });
        step.fact(Fact::Event {
            session: key,
            event: failed.clone(),
        });
        step.effect(Effect::TurnEnded {
            session: key,
            n: turn.n,
            error: Some(failed),
        });
    }

    /// Frees the assistant's place; sessions that waited for one may go on.
    fn left(&mut self, step: &mut Step<'_>, turn: &Turn, key: u64) {
        self.agents.waiting.remove(&key);
        if let Phase::Running { agent, .. } = turn.phase {
            self.agents.turn_ended(agent, key);
            if let Some(next) = self.agents.waiting.pop_first() {
                step.effect(Effect::Dispatch { session: next });
            }
        }
    }
}
