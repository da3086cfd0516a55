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

use super::agent::Agent;
use super::event::timestamp;
use super::run::ASSISTANT_PATIENCE;
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
    /// The step of its run that is answered now, or next; from 1.
    pub step: i32,
    /// When the present step was offered for the first time; not on disk.
    pub began: Option<Time>,
    pub tool_ran: bool,
    /// Set where no assistant may be asked (any more): why.
    pub refused: Option<Arc<str>>,
    pub phase: Phase,
}

#[derive(Clone, Debug)]
pub enum Phase {
    /// The model asked for calls, which have no results yet.
    Calls,
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
            step: 1,
            began: None,
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
        match self.step {
            ..=1 => format!("{}-{}", self.answer_id, self.attempt),
            step => format!("{}-{step}-{}", self.answer_id, self.attempt),
        }
    }

    /// Whether a correlation id is of this turn and its present step, whichever attempt: a whole answer is as good when it
    /// comes late.
    fn is(&self, correlation: &str) -> bool {
        let rest = correlation
            .strip_prefix(&*self.answer_id)
            .and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| match (rest.split_once('-'), self.step) {
            (None, ..=1) => true,
            (Some((step, _)), 2..) => step.parse() == Ok(self.step),
            _ => false,
        })
    }

    /// Why it may not be given to an assistant, if so. One whose tool ran may not run twice, also after a restart.
    fn refusal(&self) -> Option<Arc<str>> {
        let ran = self.tool_ran.then(|| ASSISTANT_LOST.into());
        self.refused.clone().or(ran)
    }
}

/// What is stored with an answer that its reader ended.
pub(super) fn cancelled_extra() -> HashMap<String, String> {
    let extra = [
        (words::extra::CANCELLED, "true"),
        (words::extra::FINISH_REASON, "cancelled"),
    ];
    extra.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
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
        if self.stops.all() {
            let why = self.stops.covers("").unwrap_or("everything is stopped");
            return self.fail_turn(step, key, &format!("CANCELED: {why}"));
        }
        let later = turn.step > 1;
        let Some(agent) = self.pick_assistant(key, turn.n, later) else {
            self.agents.waiting.insert(key);
            let full = |agent: &Agent| agent.link.is_some() && agent.is_assistant() && (!later || agent.drives_runs());
            if self.agents.iter().any(full) {
                return; // all are full, and the end of any turn looks here again
            }
            // After a wake everyone dials again: longer than any grace of before.
            let patience = if later {
                Some(now.saturating_add(ASSISTANT_PATIENCE))
            } else {
                self.grace(now)
            };
            let end = grace.or(patience).map(|end| end.max(self.grace_until));
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
        turn.began.get_or_insert(now);
        turn.phase = Phase::Running {
            agent,
            until,
            text: String::new(),
            restarts: 0,
        };
        let turn = turn.clone();
        self.agents.turn_began(agent, key);
        self.timers.set(until, Timer::Turn(key));
        if later {
            if let Some(message) = self.step_offer(key, &turn, agent, now) {
                step.effect(Effect::Deliver {
                    agent,
                    message: Box::new(message),
                    mail: false,
                });
            }
            return self.run_moved(step, key, turn.n);
        }
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
        if self.agents.get(agent).is_some_and(Agent::drives_runs)
            && let Some(session) = self.sessions.find(session_id)
        {
            self.run_headers(session.key, turn, &mut headers);
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

    /// The assistant for a turn: for a later step of a run, one that drives runs, and best the one that drove it so far.
    fn pick_assistant(&self, key: u64, n: u64, later: bool) -> Option<u64> {
        let most = self.rules.turns_per_assistant;
        let stopped = |agent: &Agent| self.stops.covers(&agent.id).is_some();
        if !later {
            return self.agents.pick_assistant(most, |agent| !stopped(agent));
        }
        let before = self
            .runs
            .get(key, n)
            .map(|run| run.wire.agent_id.as_str())
            .unwrap_or_default();
        let before = self.agents.find(before).ok().filter(|agent| agent.link.is_some());
        let free = before.filter(|agent| self.agents.turns_of(agent.key) < most && !stopped(agent));
        let drives = |agent: &Agent| agent.drives_runs() && !stopped(agent);
        free.map(|agent| agent.key)
            .or_else(|| self.agents.pick_assistant(most, drives))
    }

    pub(super) fn front(&mut self, key: u64) -> &mut Turn {
        let session = self.sessions.get_mut(key).expect("its turn was just seen");
        session.turn_mut().expect("its turn was just seen")
    }
}
