//! A turn: a USER message and the way to its answer. One turn at a time for a session, in order of storage.
//!
//! ```text
//!            no assistant: grace, then ──────────────────────────────▶ FAILED ◀── error, timeout, closed
//!  stored ──▶ WAITING ──offered──▶ RUNNING ──final DATA──▶ ANSWERED       ▲
//!                ▲                    │  │                                │
//!                └─ assistant lost ───┘  └──cancel: what was produced is stored, or, if nothing was, ┘
//!                   (once, if no tool ran)
//! ```
//!
//! What is over stays over: a late answer finds no turn and changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, ControlCommand, ControlMessage, DataMessage, MessageType, agent_message,
};
use nexus_proto::orchestrator::v1::{Message, MessageMetadata, MessageRole};

use super::event::{self, TURN_FAILED, timestamp};
use super::session::Stored;
use super::sessions::about;
use super::timers::Timer;
use super::{Effect, Fact, State, Step, Time};

/// An answer longer than this many bytes is a fault of its assistant.
const ANSWER_BYTES: usize = 16 << 20;

#[derive(Clone, Debug)]
pub struct Turn {
    /// Number of the USER message.
    pub n: u64,
    pub message_id: Arc<str>,
    pub answer_id: Arc<str>,
    /// The model that the message asks for.
    pub model: Option<String>,
    /// From 1; more than one after an assistant was lost.
    pub attempt: u32,
    pub tool_ran: bool,
    pub phase: Phase,
}

#[derive(Clone, Debug)]
pub enum Phase {
    /// Until `grace`, if that is set, an assistant may still come.
    Waiting { grace: Option<Time> },
    Running { agent: u64, until: Time, text: String },
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    Answered { answer: u64 },
    Failed { error: String },
}

impl Turn {
    /// Set in the number that an answer's id carries, beside the number of the message it answers.
    pub const ANSWER: u64 = 1 << 63;

    pub fn new(message: &Message, answer_id: String) -> Self {
        let extra = message.metadata.as_ref().map(|m| &m.extra);
        Turn {
            n: message.sequence,
            message_id: message.id.as_str().into(),
            answer_id: answer_id.into(),
            model: extra.and_then(|extra| extra.get("model")).cloned(),
            attempt: 1,
            tool_ran: false,
            phase: Phase::Waiting { grace: None },
        }
    }

    /// Names this attempt to the assistant.
    pub fn correlation(&self) -> String {
        format!("{}-{}", self.answer_id, self.attempt)
    }

    /// Whether a correlation id is of this turn, whichever attempt.
    fn is(&self, correlation: &str) -> bool {
        correlation.strip_prefix(&*self.answer_id).is_some_and(|rest| rest.starts_with('-'))
    }
}

impl State {
    /// Opens the turn of a stored message again, after one that failed.
    pub fn retry_turn(&mut self, step: &mut Step<'_>, key: u64, message: &Message) {
        let answer_id = step.ids.with(message.sequence | Turn::ANSWER);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.is_closed() || session.turns.iter().any(|turn| turn.n == message.sequence) {
            return;
        }
        session.turns.push_back(Turn::new(message, answer_id));
        step.fact(Fact::Turn { session: key, n: message.sequence });
        step.effect(Effect::Dispatch { session: key });
    }

    /// Gives the first waiting turn of a session to an assistant, if none runs.
    pub fn dispatch(&mut self, step: &mut Step<'_>, key: u64) {
        let now = step.now;
        let until = now.saturating_add(self.rules.answer_timeout);
        let Some(turn) = self.sessions.get(key).and_then(|session| session.turns.front()) else { return };
        let Phase::Waiting { grace } = turn.phase else { return };
        let Some(agent) = self.agents.pick_assistant(self.rules.turns_per_assistant) else {
            self.agents.waiting.insert(key);
            if self.agents.has_assistant() {
                return; // all are full, and the end of any turn looks here again
            }
            let end = grace.or_else(|| self.grace(now));
            match end.filter(|end| *end > now) {
                Some(end) => {
                    self.front(key).phase = Phase::Waiting { grace: Some(end) };
                    self.timers.set(end, Timer::Turn(key));
                }
                None => self.fail_turn(step, key, "NOT_FOUND: assistant agent not found"),
            }
            return;
        };
        self.agents.waiting.remove(&key);
        let turn = self.front(key);
        turn.phase = Phase::Running { agent, until, text: String::new() };
        let turn = turn.clone();
        self.agents.turn_began(agent, key);
        self.timers.set(until, Timer::Turn(key));
        let session = self.sessions.get(key).expect("it was here a line ago");
        let request = self.request(&session.id, agent, &turn, now);
        step.effect(Effect::Offer { session: key, n: turn.n, agent, request: Box::new(request) });
    }

    /// Until when a turn may wait for an assistant that was here a moment ago.
    fn grace(&self, now: Time) -> Option<Time> {
        let seen = self.agents.assistant_seen?;
        (now.saturating_sub(seen) <= self.rules.assistant_recent).then(|| now.saturating_add(self.rules.assistant_grace))
    }

    /// The request without its content, which may have to be read from disk first.
    fn request(&self, session_id: &str, agent: u64, turn: &Turn, now: Time) -> AgentMessage {
        let mut headers = HashMap::from([
            ("message_id".to_owned(), turn.message_id.to_string()),
            ("answer_id".to_owned(), turn.answer_id.to_string()),
            ("attempt".to_owned(), turn.attempt.to_string()),
        ]);
        if let Some(model) = &turn.model {
            headers.insert("model".into(), model.clone());
        }
        AgentMessage {
            id: turn.message_id.to_string(),
            r#type: MessageType::Data.into(),
            timestamp: Some(timestamp(now)),
            source_id: "orchestrator".into(),
            target_id: self.agents.get(agent).map(|a| a.id.to_string()).unwrap_or_default(),
            metadata: Some(AgentMessageMetadata {
                correlation_id: turn.correlation(),
                session_id: session_id.into(),
                headers,
                priority: 0,
            }),
            payload: Some(agent_message::Payload::DataMessage(DataMessage {
                content_type: "text/plain".into(),
                data: Bytes::new(),
                headers: HashMap::new(),
            })),
        }
    }

    /// A piece of the running answer. Returns false if it is of nothing that runs, or does not fit where it says.
    pub fn delta(&mut self, step: &mut Step<'_>, from: u64, key: u64, correlation: &str, index: usize, delta: &str) -> bool {
        let Some(turn) = self.running(from, key, correlation) else { return false };
        let Phase::Running { text, .. } = &mut turn.phase else { return false };
        if index == 0 {
            text.clear();
        }
        if index != text.len() {
            return false;
        }
        if text.len() + delta.len() > ANSWER_BYTES {
            self.fail_turn(step, key, "RESOURCE_EXHAUSTED: the answer is longer than 16 MiB");
            return false;
        }
        text.push_str(delta);
        true
    }

    /// The assistant used a tool: this turn must not run twice.
    pub fn tool_ran(&mut self, step: &mut Step<'_>, from: u64, key: u64, correlation: &str) {
        let Some(turn) = self.running(from, key, correlation).filter(|turn| !turn.tool_ran) else { return };
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
        if self.running(from, key, correlation).is_none() {
            return false;
        }
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

    /// Stops the answer to a message, or with an empty id the present one. What was produced is kept.
    pub fn cancel_turn(&mut self, step: &mut Step<'_>, key: u64, message_id: &str) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let wanted = |turn: &Turn| message_id.is_empty() || *turn.message_id == *message_id;
        let Some(place) = session.turns.iter().position(wanted) else { return };
        let turn = session.turns[place].clone();
        match turn.phase {
            Phase::Running { agent, text, .. } => {
                let cancel = self.cancel_request(key, agent, &turn.answer_id, turn.attempt);
                step.effect(Effect::Deliver { agent, message: Box::new(cancel) });
                if text.is_empty() {
                    self.fail_turn(step, key, "CANCELED: the answer was stopped before it began");
                } else {
                    let extra = HashMap::from([
                        ("cancelled".to_owned(), "true".to_owned()),
                        ("finish_reason".to_owned(), "cancelled".to_owned()),
                    ]);
                    self.finish_turn(step, key, text, extra);
                }
            }
            Phase::Waiting { .. } => {
                let removed = session.turns.remove(place).expect("its place was just found");
                self.turn_failed(step, key, &removed, "CANCELED: the answer was stopped before it began");
            }
        }
    }

    fn cancel_request(&self, key: u64, agent: u64, answer_id: &str, attempt: u32) -> AgentMessage {
        AgentMessage {
            id: format!("{answer_id}-{attempt}-cancel"),
            r#type: MessageType::Control.into(),
            source_id: "orchestrator".into(),
            target_id: self.agents.get(agent).map(|a| a.id.to_string()).unwrap_or_default(),
            metadata: Some(AgentMessageMetadata {
                correlation_id: format!("{answer_id}-{attempt}"),
                session_id: self.sessions.get(key).map(|s| s.id.to_string()).unwrap_or_default(),
                ..AgentMessageMetadata::default()
            }),
            payload: Some(agent_message::Payload::ControlMessage(ControlMessage {
                command: ControlCommand::Cancel.into(),
                parameters: HashMap::new(),
            })),
            ..AgentMessage::default()
        }
    }

    /// An assistant's stream broke: its turns are offered once more, or fail.
    pub fn assistant_lost(&mut self, step: &mut Step<'_>, agent: u64) {
        for key in self.agents.take_turns(agent) {
            let Some(turn) = self.sessions.get_mut(key).and_then(|session| session.turns.front_mut()) else { continue };
            if !matches!(turn.phase, Phase::Running { agent: running, .. } if running == agent) {
                continue;
            }
            if turn.attempt > 1 || turn.tool_ran {
                self.fail_turn(step, key, "UNAVAILABLE: the assistant went away while it answered");
                continue;
            }
            turn.attempt += 1;
            turn.phase = Phase::Waiting { grace: None };
            let n = turn.n;
            step.fact(Fact::Turn { session: key, n });
            step.effect(Effect::Dispatch { session: key });
        }
    }

    /// Looks at the turn of a session whose timer came due.
    pub fn turn_due(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(turn) = self.sessions.get(key).and_then(|session| session.turns.front()) else { return };
        match &turn.phase {
            Phase::Running { agent, until, .. } if *until <= step.now => {
                let (agent, answer_id, attempt) = (*agent, turn.answer_id.clone(), turn.attempt);
                let cancel = self.cancel_request(key, agent, &answer_id, attempt);
                step.effect(Effect::Deliver { agent, message: Box::new(cancel) });
                self.fail_turn(step, key, "DEADLINE_EXCEEDED: timed out waiting for the assistant's answer");
            }
            Phase::Waiting { grace: Some(end) } if *end <= step.now => self.dispatch(step, key),
            _ => {}
        }
    }

    /// Ends every turn of a session with the same error.
    pub fn end_turns(&mut self, step: &mut Step<'_>, key: u64, error: &str) {
        while let Some(turn) = self.sessions.get(key).and_then(|session| session.turns.front()).cloned() {
            if let Phase::Running { agent, .. } = turn.phase {
                let cancel = self.cancel_request(key, agent, &turn.answer_id, turn.attempt);
                step.effect(Effect::Deliver { agent, message: Box::new(cancel) });
            }
            self.fail_turn(step, key, error);
        }
    }

    fn finish_turn(&mut self, step: &mut Step<'_>, key: u64, content: String, mut extra: HashMap<String, String>) {
        let session = self.sessions.get_mut(key).expect("its turn was just seen");
        let turn = session.turns.pop_front().expect("its turn was just seen");
        let n = session.head + 1;
        extra.insert("in_reply_to".into(), turn.message_id.to_string());
        let message = Arc::new(Message {
            id: turn.answer_id.to_string(),
            timestamp: Some(timestamp(step.now)),
            role: MessageRole::Assistant.into(),
            content,
            metadata: Some(MessageMetadata { extra, ..MessageMetadata::default() }),
            sequence: n,
        });
        session.head = n;
        session.updated = step.now;
        if matches!(&turn.phase, Phase::Running { text, .. } if !text.is_empty()) {
            session.streamed = Some(turn.answer_id.clone());
        }
        let grown = session.push(Stored { message: message.clone(), origin: 0 });
        self.sessions.grew(key, n, grown);
        self.left(step, &turn, key);
        step.fact(Fact::Message { session: key, n, message, chosen_id: false });
        step.fact(Fact::TurnOver { session: key, n: turn.n, over: Over::Answered { answer: n } });
        step.effect(Effect::Stored { session: key, n });
        step.effect(Effect::TurnOver { session: key, n: turn.n, error: None });
        step.effect(Effect::Dispatch { session: key });
    }

    fn fail_turn(&mut self, step: &mut Step<'_>, key: u64, error: &str) {
        let session = self.sessions.get_mut(key).expect("its turn was just seen");
        let turn = session.turns.pop_front().expect("its turn was just seen");
        self.turn_failed(step, key, &turn, error);
        step.effect(Effect::Dispatch { session: key });
    }

    fn turn_failed(&mut self, step: &mut Step<'_>, key: u64, turn: &Turn, error: &str) {
        step.grows = false;
        self.left(step, turn, key);
        let session = self.sessions.get(key).expect("its turn was just seen");
        let data = [("error", error), ("message_id", &*turn.message_id), ("session_id", &*session.id)];
        let failed = event::build(step, TURN_FAILED, event::SYSTEM, about(session), &data);
        step.fact(Fact::TurnOver { session: key, n: turn.n, over: Over::Failed { error: error.into() } });
        step.fact(Fact::Event { session: key, event: failed.clone() });
        step.effect(Effect::TurnOver { session: key, n: turn.n, error: Some(failed) });
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

    /// The turn that `from` works on under this correlation id.
    fn running(&mut self, from: u64, key: u64, correlation: &str) -> Option<&mut Turn> {
        let turn = self.sessions.get_mut(key)?.turns.front_mut()?;
        let works = matches!(turn.phase, Phase::Running { agent, .. } if agent == from);
        (works && turn.is(correlation)).then_some(turn)
    }

    fn front(&mut self, key: u64) -> &mut Turn {
        let session = self.sessions.get_mut(key).expect("its turn was just seen");
        session.turns.front_mut().expect("its turn was just seen")
    }
}
