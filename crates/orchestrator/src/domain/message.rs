//! Messages of a session: stored once, numbered from 1 without gaps.

use std::sync::Arc;

use nexus_proto::orchestrator::v1::{Message, MessageRole};
use prost::Message as _;

use super::event::timestamp;
use super::sessions::session_not_found;
use super::step::MessageOrigin;
use super::stop::is_stop_word;
use super::turn::Turn;
use super::{Effect, Error, Fact, State, Step};

/// Longest id that a client may choose.
const ID_BYTES: usize = 256;

impl State {
    /// Adds a message that is known to be new. A USER message opens a turn. Returns its number.
    pub fn add_message(&mut self, step: &mut Step<'_>, key: u64, mut message: Message) -> Result<u64, Error> {
        let max_turns = self.rules.max_queued_turns;
        let session = self.sessions.get_mut(key).ok_or_else(|| session_not_found(key))?;
        if session.is_closed() {
            return Err(Error::SessionClosed {
                doing: "add message to",
            });
        }
        let asks = message.role == i32::from(MessageRole::User);
        if asks {
            session.room_for_turn(max_turns)?;
        }
        let counted = session.limited.then(|| message.encoded_len() as u64);
        if let Some(bytes) = counted {
            self.share_of_change(step, key, 0, bytes)?;
        }
        let stops = asks && is_stop_word(&message.content);
        let session = self.sessions.get_mut(key).expect("it was here a line ago");
        let n = session.add_message(step.now);
        let chose_id = !message.id.is_empty();
        if !chose_id {
            message.id = step.ids.with(n);
        }
        if message.timestamp.is_none_or(|t| t.seconds == 0 && t.nanos == 0) {
            message.timestamp = Some(timestamp(step.now));
        }
        message.sequence = n;
        let turn = asks.then(|| Turn::new(&message, step.ids.with(n | Turn::ANSWER)));
        if let Some(turn) = turn.clone().filter(|_| !stops) {
            session.open_turn(turn);
        }
        let woken = session.wake();
        step.fact(Fact::Message {
            session: key,
            n,
            message: Arc::new(message),
            origin: MessageOrigin::Client { chose_id },
        });
        if let Some(bytes) = counted {
            self.charge(step, key, bytes as i64);
        }
        if asks && !stops {
            step.fact(Fact::Turn { session: key, n });
        }
        if woken {
            self.session_updated(step, key);
        }
        step.effect(Effect::Stored { session: key, n });
        match turn {
            Some(turn) if stops => self.stop_by_message(step, key, &turn),
            Some(_) => step.effect(Effect::Dispatch { session: key }),
            None => {}
        }
        Ok(n)
    }
}

/// Brings a message from a client into the form that is stored, or says what is wrong with it.
pub fn accept(mut message: Message) -> Result<Message, Error> {
    if message.id.len() > ID_BYTES {
        return Err(Error::Invalid(format!("message.id is longer than {ID_BYTES} bytes")));
    }
    match MessageRole::try_from(message.role) {
        Ok(MessageRole::Unspecified) => message.role = MessageRole::User.into(),
        Ok(_) => {}
        Err(_) => return Err(Error::Invalid(format!("message.role {} is unknown", message.role))),
    }
    message.sequence = 0;
    Ok(message)
}

/// True if a client that says it sends `stored` again really does.
pub fn is_repeat(stored: &Message, again: &Message) -> bool {
    stored.role == again.role
        && stored.content == again.content
        && stored.metadata.clone().unwrap_or_default() == again.metadata.clone().unwrap_or_default()
}
