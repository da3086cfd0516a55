//! What an assistant sends about the turn it runs, and what it is sent.

use std::collections::HashMap;

use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, ControlCommand, ControlMessage, MessageType, agent_message,
};

use nexus_proto::orchestrator::v1::RunEnd;

use super::{Phase, Turn, cancelled_extra};
use crate::domain::{Effect, Fact, State, Step};

/// An answer longer than this many bytes is a fault of its assistant.
const ANSWER_BYTES: usize = 16 << 20;

impl State {
    /// A piece of the running answer. Returns false if it is of nothing that runs, or does not fit where it says.
    pub fn delta(
        &mut self,
        step: &mut Step<'_>,
        from: u64,
        key: u64,
        correlation: &str,
        index: usize,
        delta: &str,
    ) -> bool {
        let Some(turn) = self
            .running(from, key, correlation)
            .filter(|turn| turn.correlation() == correlation)
        else {
            return false;
        };
        let Phase::Running { text, restarts, .. } = &mut turn.phase else {
            return false;
        };
        if index == 0 && !text.is_empty() {
            text.clear();
            *restarts += 1;
        }
        if index != text.len() {
            return false;
        }
        if text.len() + delta.len() > ANSWER_BYTES {
            self.tell_cancel(step, key);
            self.fail_turn(step, key, "RESOURCE_EXHAUSTED: the answer is longer than 16 MiB");
            return false;
        }
        text.push_str(delta);
        true
    }

    /// The assistant used a tool: this turn must not run twice.
    pub fn tool_ran(&mut self, step: &mut Step<'_>, from: u64, key: u64, correlation: &str) {
        let Some(turn) = self.running(from, key, correlation).filter(|turn| !turn.tool_ran) else {
            return;
        };
        turn.tool_ran = true;
        let n = turn.n;
        step.fact(Fact::Turn { session: key, n });
    }

    /// The whole answer. Returns false if nothing waits for it.
    pub fn answer(
        &mut self,
        step: &mut Step<'_>,
        from: u64,
        key: u64,
        correlation: &str,
        content: String,
        extra: HashMap<String, String>,
    ) -> bool {
        let Some(turn) = self.running(from, key, correlation) else {
            return false;
        };
        let n = turn.n;
        self.record_answer(step, key, n, &content, &extra);
        self.finish_turn(step, key, content, extra);
        true
    }

    /// The assistant gave up on the running turn. Returns false if nothing waits for it.
    pub fn answer_failed(&mut self, step: &mut Step<'_>, from: u64, key: u64, correlation: &str, error: &str) -> bool {
        let waits = self.running(from, key, correlation).is_some();
        if waits {
            self.fail_turn(step, key, error);
        }
        waits
    }

    /// As `answer_failed`, where what the assistant said until then is all that will come of the answer.
    pub fn answer_broke_off(
        &mut self,
        step: &mut Step<'_>,
        from: u64,
        key: u64,
        correlation: &str,
        error: &str,
    ) -> bool {
        let waits = self.running(from, key, correlation).is_some();
        if waits {
            self.break_off_turn(step, key, error);
        }
        waits
    }

    /// Stops the answer to a message, or with an empty id the present one. What was produced is kept.
    pub fn cancel_turn(&mut self, step: &mut Step<'_>, key: u64, message_id: &str) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let wanted = |turn: &Turn| message_id.is_empty() || *turn.message_id == *message_id;
        let Some(place) = session.turns().iter().position(wanted) else {
            return;
        };
        let n = session.turns()[place].n;
        match session.turns()[place].phase.clone() {
            Phase::Calls => {
                self.cancel_calls(
                    step,
                    key,
                    n,
                    RunEnd::Cancelled,
                    "the run was cancelled",
                    &mut Vec::new(),
                );
            }
            Phase::Running { text, .. } => {
                self.tell_cancel(step, key);
                if text.is_empty() {
                    self.fail_turn(step, key, "CANCELED: the answer was stopped before it began");
                } else {
                    self.finish_turn(step, key, text, cancelled_extra());
                }
            }
            Phase::Waiting { .. } => {
                let removed = session.drop_turn(place).expect("its place was just found");
                self.turn_failed(step, key, &removed, "CANCELED: the answer was stopped before it began");
                step.effect(Effect::Dispatch { session: key });
            }
        }
    }

    /// Tells the assistant that runs the first turn of a session to stop.
    pub(super) fn tell_cancel(&self, step: &mut Step<'_>, key: u64) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(turn) = session.turn() else { return };
        let Phase::Running { agent, .. } = turn.phase else {
            return;
        };
        let cancel = AgentMessage {
            id: format!("{}-cancel", turn.correlation()),
            r#type: MessageType::Control.into(),
            source_id: "orchestrator".into(),
            target_id: self.agents.get(agent).map(|a| a.id.to_string()).unwrap_or_default(),
            metadata: Some(AgentMessageMetadata {
                correlation_id: turn.correlation(),
                session_id: session.id.to_string(),
                ..AgentMessageMetadata::default()
            }),
            payload: Some(agent_message::Payload::ControlMessage(ControlMessage {
                command: ControlCommand::Cancel.into(),
                parameters: HashMap::new(),
            })),
            ..AgentMessage::default()
        };
        step.effect(Effect::Deliver {
            agent,
            message: Box::new(cancel),
            mail: false,
        });
    }

    /// The turn that `from` works on under this correlation id.
    fn running(&mut self, from: u64, key: u64, correlation: &str) -> Option<&mut Turn> {
        let turn = self.sessions.get_mut(key)?.turn_mut()?;
        let works = matches!(turn.phase, Phase::Running { agent, .. } if agent == from);
        (works && turn.is(correlation)).then_some(turn)
    }
}
