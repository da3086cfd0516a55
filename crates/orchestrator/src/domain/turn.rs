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

mod answering;
mod ending;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use nexus_proto::agent::v1::{AgentMessage, AgentMessageMetadata, DataMessage, MessageType, agent_message};
use nexus_proto::orchestrator::v1::Message;
use nexus_proto::words;

use super::event::timestamp;
use super::sessions::session_not_found;
use super::timers::Timer;
use super::{Effect, Error, Fact, State, Step, Time};

/// Header of an offer: see [`Turn::followed_by`].
pub const FOLLOWED_BY: &str = words::metadata::CORRELATION_ID;

/// Header of an offer: where the turn belongs in the trace of its message, if somebody traces.
pub const TRACEPARENT: &str = words::metadata::TRACEPARENT;

/// The error of a turn whose assistant was lost, and that may not be offered again.
pub const ASSISTANT_LOST: &str = "UNAVAILABLE: the assistant went away while it answered";

#[derive(Clone, Debug)]
pub struct Turn {
    /// Number of the USER message.
    pub n: u64,
    pub message_id: Arc<str>,
    pub answer_id: Arc<str>,
    /// The model that the message asks for.
    pub model: Option<String>,
    /// What every daemon's log calls the message: the id that its sender follows it by, else its own.
    pub followed_by: Arc<str>,
    /// From 1; more than one after an assistant was lost.
    pub attempt: u32,
    pub tool_ran: bool,
    /// Set where no assistant may be asked (any more): why.
    pub refused: Option<Arc<str>>,
    pub phase: Phase,
}

#[derive(Clone, Debug)]
pub enum Phase {
    /// Until `grace`, if that is set, an assistant may still come.
    Waiting { grace: Option<Time> },
    Running {
        agent: u64,
        until: Time,
        text: String,
        /// How often the assistant started the text over within this attempt.
        restarts: u32,
    },
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    Answered { answer: u64 },
    Failed { error: String },
}

impl Turn {
    /// Set in the number that an answer's id carries, beside the number of the message it answers.
    pub const ANSWER: u64 = 1 << 63;

    pub fn new(message: &Message, answer_id: String) -> Self {
        let extra = message.metadata.as_ref().map(|m| &m.extra);
        // Assistants drop a request without content and say nothing.
        let refused = message
            .content
            .is_empty()
            .then(|| "INVALID_ARGUMENT: the message has no content".into());
        Turn {
            n: message.sequence,
            message_id: message.id.as_str().into(),
            answer_id: answer_id.into(),
            model: extra.and_then(|extra| extra.get("model")).cloned(),
            followed_by: extra
                .and_then(|extra| extra.get(words::extra::CORRELATION_ID))
                .unwrap_or(&message.id)
                .as_str()
                .into(),
            attempt: 1,
            tool_ran: false,
            refused,
            phase: Phase::Waiting { grace: None },
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// Names this attempt to the assistant.
    pub fn correlation(&self) -> String {
        format!("{}-{}", self.answer_id, self.attempt)
    }

    /// Whether a correlation id is of this turn, whichever attempt: a whole answer is as good when it comes late.
    fn is(&self, correlation: &str) -> bool {
        correlation
            .strip_prefix(&*self.answer_id)
            .is_some_and(|rest| rest.starts_with('-'))
    }

    /// Why it may not be given to an assistant, if so. One whose tool ran may not run twice, also after a restart.
    fn refusal(&self) -> Option<Arc<str>> {
        let ran = self.tool_ran.then(|| ASSISTANT_LOST.into());
        self.refused.clone().or(ran)
    }
}

impl State {
    /// Opens the turn of a stored message again, after one that failed. False if it is open.
    pub fn retry_turn(&mut self, step: &mut Step<'_>, key: u64, message: &Message) -> Result<bool, Error> {
        let max = self.rules.max_queued_turns;
        let session = self.sessions.get_mut(key).ok_or_else(|| session_not_found(key))?;
        if session.is_closed() {
            return Err(Error::SessionClosed {
                doing: "add message to",
            });
        }
        if session.turn_of(message.sequence).is_some() {
            return Ok(false);
        }
        session.room_for_turn(max)?;
        let answer_id = step.ids.with(message.sequence | Turn::ANSWER);
        session.open_turn(Turn::new(message, answer_id));
        step.fact(Fact::Turn {
            session: key,
            n: message.sequence,
        });
        step.effect(Effect::Dispatch { session: key });
        Ok(true)
    }

    /// Gives the first waiting turn of a session to an assistant, if none runs and its message is on disk: messages up to
    /// `committed` are.
    pub fn dispatch(&mut self, step: &mut Step<'_>, key: u64, committed: u64) {
        let now = step.now;
        let until = now.saturating_add(self.rules.answer_timeout);
        let Some(session) = self.sessions.get(key) else { return };
        let Some(turn) = session.turn() else { return };
        let Phase::Waiting { grace } = turn.phase else { return };
        if turn.n > committed {
            return; // nobody hears of a message that is not on disk; its commit looks here again
        }
        if let Some(why) = turn.refusal() {
            return self.fail_turn(step, key, &why);
        }
        let Some(agent) = self.agents.pick_assistant(self.rules.turns_per_assistant) else {
            self.agents.waiting.insert(key);
            if self.agents.has_assistant() {
                return; // all are full, and the end of any turn looks here again
            }
            // After a wake everyone dials again: longer than any grace of before.
            let end = grace.or_else(|| self.grace(now)).map(|end| end.max(self.grace_until));
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
        turn.phase = Phase::Running {
            agent,
            until,
            text: String::new(),
            restarts: 0,
        };
        let turn = turn.clone();
        self.agents.turn_began(agent, key);
        self.timers.set(until, Timer::Turn(key));
        let session = self.sessions.get(key).expect("it was here a line ago");
        let request = self.request(&session.id, agent, &turn, now);
        step.effect(Effect::Offer {
            session: key,
            n: turn.n,
            agent,
            request: Box::new(request),
        });
    }

    /// Whether an offer still stands: the turn runs with this agent under this correlation id.
    pub fn is_offered(&self, key: u64, agent: u64, correlation: &str) -> bool {
        let turn = self.sessions.get(key).and_then(|session| session.turn());
        turn.is_some_and(|turn| {
            matches!(turn.phase, Phase::Running { agent: runs, .. } if runs == agent)
                && turn.correlation() == correlation
        })
    }

    /// An offer was decided, and the group it was in failed before the assistant heard of it: the turn waits again.
    pub fn take_back_offer(&mut self, key: u64, agent: u64, correlation: &str) {
        if self.is_offered(key, agent, correlation) {
            self.front(key).phase = Phase::Waiting { grace: None };
            self.agents.turn_ended(agent, key);
            self.agents.waiting.insert(key);
        }
    }

    /// Until when a turn may wait for an assistant that was here a moment ago.
    fn grace(&self, now: Time) -> Option<Time> {
        let seen = self.agents.assistant_seen?;
        (now.saturating_sub(seen) <= self.rules.assistant_recent)
            .then(|| now.saturating_add(self.rules.assistant_grace))
    }

    /// The request without its content, which may have to be read from disk first.
    fn request(&self, session_id: &str, agent: u64, turn: &Turn, now: Time) -> AgentMessage {
        let mut headers = HashMap::from([
            (words::data::MESSAGE_ID.to_owned(), turn.message_id.to_string()),
            ("answer_id".to_owned(), turn.answer_id.to_string()),
            ("attempt".to_owned(), turn.attempt.to_string()),
            (FOLLOWED_BY.to_owned(), turn.followed_by.to_string()),
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

    fn front(&mut self, key: u64) -> &mut Turn {
        let session = self.sessions.get_mut(key).expect("its turn was just seen");
        session.turn_mut().expect("its turn was just seen")
    }
}
