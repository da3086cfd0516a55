//! One client's side of a session: what it asked, which answers are pending, and its read position.
//!
//! ```text
//! ask ──▶ owed ──send──▶ orchestrator ──▶ ack, deltas, answer or failure ──▶ settled
//!            ▲               │ lost
//!            └── sent again ─┘  (the same id: stored once, answered once)
//! ```
//!
//! It never gives an answer twice: after a reconnect only messages beyond the cursor count, and the answer to a
//! repeated message only while it is owed.

use std::collections::VecDeque;

use super::{
    answers::{Answers, Cut, Frame, Phase},
    message::{Incoming, Outgoing, Role, StoredMessage},
};

/// Messages that one stream may have under way.
const MAX_OWED: usize = 64;
const MAX_OWED_BYTES: usize = 8 << 20;

/// Which answers the client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follow {
    All,
    /// Only the answer to this message. `alone`: no older message still waits for its answer, so that pieces
    /// without a name can only be of this one.
    One {
        message_id: String,
        alone: bool,
    },
}

/// What happened, for the log of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    Stored {
        id: String,
    },
    Begun {
        in_reply_to: String,
    },
    Answered {
        id: String,
        sequence: u64,
        in_reply_to: String,
        /// It broke off in the middle, with this error.
        error: Option<String>,
    },
    Failed {
        message_id: String,
        error: String,
    },
}

#[derive(Debug)]
struct Owed {
    message: Outgoing,
    sent: bool,
    stored: bool,
    deadline: i64,
}

#[derive(Debug)]
pub struct Conversation {
    follow: Follow,
    answers: Answers,
    owed: VecDeque<Owed>,
    /// Messages up to here have been heard; what a reconnect resumes from.
    cursor: u64,
    /// How long an answer may keep silent, in nanoseconds.
    patience: i64,
    /// For the one answer that is followed, and was not asked for here.
    silent_until: Option<i64>,
    paused: bool,
    cancelling: Cancelling,
    /// The message whose answer has told its failure itself, before the orchestrator tells it too.
    broke_off: Option<String>,
    done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancelling {
    No,
    Asked,
    /// The answer that was stopped said so itself.
    StoredMessage,
}

impl Conversation {
    pub fn new(follow: Follow, cut: Cut, patience: i64, now: i64) -> Self {
        let one = matches!(follow, Follow::One { .. });
        Conversation {
            follow,
            answers: Answers::new(cut),
            owed: VecDeque::new(),
            cursor: 0,
            patience,
            silent_until: one.then(|| now.saturating_add(patience)),
            paused: false,
            cancelling: Cancelling::No,
            broke_off: None,
            done: false,
        }
    }

    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Where listening began.
    pub fn heard_up_to(&mut self, sequence: u64) {
        self.cursor = self.cursor.max(sequence);
    }

    /// Room for another message of the client's.
    pub fn may_ask(&self) -> bool {
        let bytes: usize = self.owed.iter().map(|owed| owed.message.content.len()).sum();
        self.owed.len() < MAX_OWED && bytes < MAX_OWED_BYTES && !self.answers.is_full()
    }

    pub fn ask(&mut self, message: Outgoing, now: i64) {
        // The same message twice under way is one message.
        if self.owed.iter().all(|owed| owed.message.id != message.id) {
            self.owed.push_back(Owed {
                message,
                sent: false,
                stored: false,
                deadline: now.saturating_add(self.patience),
            });
        }
    }

    /// The next message that has not gone out on the present connection.
    pub fn next_message(&mut self) -> Option<Outgoing> {
        let owed = self.owed.iter_mut().find(|owed| !owed.sent)?;
        owed.sent = true;
        Some(owed.message.clone())
    }

    pub fn has_message(&self) -> bool {
        self.owed.iter().any(|owed| !owed.sent)
    }

    /// Nothing the client asked is without its answer.
    pub fn is_settled(&self) -> bool {
        self.owed.is_empty()
    }

    /// The one answer that was followed has been delivered or has failed.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The one answer that is followed has not come yet.
    pub fn is_waiting(&self) -> bool {
        self.silent_until.is_some() && !self.done
    }

    pub fn is_answering(&self) -> bool {
        self.answers.is_answering()
    }

    /// Ids of what to cancel: all that is owed.
    pub fn under_way(&self) -> Vec<String> {
        let asked = self.owed.iter().filter(|owed| owed.message.role == Role::User);
        asked.map(|owed| owed.message.id.clone()).collect()
    }

    /// The connection is back: what is owed goes out again.
    pub fn resumed(&mut self) {
        for owed in &mut self.owed {
            owed.sent = false;
        }
        if std::mem::take(&mut self.paused) {
            self.answers.say(Phase::Active, "the orchestrator is back");
        }
    }

    /// The connection is lost. Said only to a client that waits for something.
    pub fn lost(&mut self) {
        let waits = !self.owed.is_empty() || self.is_waiting() || self.answers.is_answering();
        if waits && !std::mem::replace(&mut self.paused, true) {
            self.answers
                .say(Phase::Paused, "the orchestrator cannot be reached; trying again");
        }
    }

    /// Everything owed is given up.
    pub fn give_up(&mut self, error: &str) -> Vec<Noted> {
        let owed = std::mem::take(&mut self.owed);
        let one = matches!(self.follow, Follow::One { .. }) && !self.done;
        if owed.is_empty() && !one && !self.answers.is_answering() {
            return Vec::new();
        }
        self.answers.fail(error);
        self.done |= one;
        let failed = |owed: Owed| Noted::Failed {
            message_id: owed.message.id,
            error: error.into(),
        };
        owed.into_iter().map(failed).collect()
    }

    pub fn refuse(&mut self, error: &str) {
        self.answers.say(Phase::Error, error);
    }

    /// The client wants no more; what was produced may still come.
    pub fn cancelling(&mut self) {
        self.cancelling = Cancelling::Asked;
    }

    /// Nothing more comes. `at_once` leaves out what the client has not been given yet.
    pub fn cancelled(&mut self, reason: &str, at_once: bool) {
        if at_once {
            self.answers.discard();
        }
        self.owed.clear();
        if self.cancelling != Cancelling::StoredMessage {
            self.answers.say(Phase::Cancelled, reason);
        }
    }

    /// The followed answer is one that this reader says it has.
    pub fn had_already(&mut self) {
        self.answers.say(Phase::Complete, "");
        self.done = true;
    }

    pub fn take(&mut self, incoming: Incoming, now: i64) -> Option<Noted> {
        match incoming {
            Incoming::Ack { id } => {
                let at = self.owed.iter().position(|owed| owed.message.id == id)?;
                self.owed[at].deadline = now.saturating_add(self.patience);
                let again = std::mem::replace(&mut self.owed[at].stored, true);
                if self.owed[at].message.role != Role::User {
                    self.owed.remove(at);
                }
                (!again).then_some(Noted::Stored { id })
            }
            Incoming::Delta {
                answer,
                index,
                text,
                in_reply_to,
            } => {
                if !self.wants_piece(in_reply_to.as_deref()) {
                    return None;
                }
                let asked = in_reply_to.or_else(|| self.guess()).unwrap_or_default();
                // A sign of life for everything that waits behind it too.
                let later = now.saturating_add(self.patience);
                self.owed.iter_mut().for_each(|owed| owed.deadline = later);
                self.silent_until = self.silent_until.map(|_| later);
                let first = self.answers.delta(&answer, &asked, index, &text, now);
                first.then_some(Noted::Begun { in_reply_to: asked })
            }
            Incoming::Answer(said) => self.answer(said, now),
            Incoming::Other { sequence } => {
                self.heard_up_to(sequence);
                None
            }
            Incoming::Failed { message_id, error } => {
                if let (Follow::One { message_id: one, .. }, Some(failed)) = (&self.follow, &message_id)
                    && one != failed
                {
                    return None;
                }
                let failed = message_id.or_else(|| self.guess()).unwrap_or_default();
                self.owed.retain(|owed| owed.message.id != failed);
                let told = self.broke_off.take().is_some_and(|broken| broken == failed);
                if self.cancelling == Cancelling::No && !told {
                    self.answers.fail(&error);
                }
                self.done |= matches!(self.follow, Follow::One { .. });
                (!told).then_some(Noted::Failed {
                    message_id: failed,
                    error,
                })
            }
            Incoming::Nothing => None,
        }
    }

    /// Gives up what kept silent too long.
    pub fn tick(&mut self, now: i64) -> Vec<Noted> {
        let error = "DEADLINE_EXCEEDED: no answer in time (gateway.answer_timeout)";
        if !self.done && self.silent_until.is_some_and(|at| at <= now) {
            return self.give_up(error);
        }
        let Some(at) = self.owed.iter().position(|owed| owed.deadline <= now) else {
            return Vec::new();
        };
        let Some(late) = self.owed.remove(at) else {
            return Vec::new();
        };
        self.answers.fail(error);
        vec![Noted::Failed {
            message_id: late.message.id,
            error: error.into(),
        }]
    }

    pub fn deadline(&self) -> Option<i64> {
        let one = self.silent_until.filter(|_| !self.done);
        self.owed.iter().map(|owed| owed.deadline).chain(one).min()
    }

    pub fn is_chunk_next(&self) -> bool {
        self.answers.is_chunk_next()
    }

    pub fn next_frame(&mut self, now: i64) -> Option<Frame> {
        self.answers.next(now)
    }

    pub fn has_frame(&self) -> bool {
        !self.answers.is_empty()
    }

    /// The client takes too slowly for anything more to be fetched.
    pub fn is_full(&self) -> bool {
        self.answers.is_full()
    }

    fn answer(&mut self, said: StoredMessage, now: i64) -> Option<Noted> {
        let asked = said.in_reply_to().to_owned();
        let owed = self
            .owed
            .iter()
            .position(|owed| !asked.is_empty() && owed.message.id == asked);
        let fresh = said.sequence == 0 || said.sequence > self.cursor;
        self.heard_up_to(said.sequence);
        if let Follow::One { message_id, .. } = &self.follow {
            if asked != *message_id || self.done {
                return None;
            }
            self.done = true;
        } else if !fresh && owed.is_none() {
            return None;
        }
        if let Some(at) = owed {
            self.owed.remove(at);
        }
        if self.cancelling == Cancelling::Asked && said.is_cancelled() {
            self.cancelling = Cancelling::StoredMessage;
        }
        let error = said.broke_off().map(str::to_owned);
        self.broke_off = error.as_ref().map(|_| asked.clone());
        let noted = Noted::Answered {
            id: said.id.clone(),
            sequence: said.sequence,
            in_reply_to: asked,
            error,
        };
        self.answers.finish(said, now);
        Some(noted)
    }

    fn wants_piece(&self, in_reply_to: Option<&str>) -> bool {
        match &self.follow {
            Follow::All => true,
            Follow::One { .. } if self.done => false,
            Follow::One { message_id, alone } => in_reply_to.map_or(*alone, |asked| asked == message_id),
        }
    }

    /// One turn at a time, in order: without a name it is the oldest that was asked.
    fn guess(&self) -> Option<String> {
        match &self.follow {
            Follow::One { message_id, .. } => Some(message_id.clone()),
            Follow::All => {
                let asked = self.owed.iter().find(|owed| owed.message.role == Role::User);
                asked.map(|owed| owed.message.id.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests;
