//! The wire forms of what is sent most, written straight from what is held: the commonest event from the message that
//! it is, and a session from its messages. Making the event first, with maps and a dozen strings, or a copy of each
//! message, would cost several times the writing.

use bytes::{BufMut, Bytes, BytesMut};
use nexus_proto::common::v1::Priority;
use nexus_proto::orchestrator::v1::{Message, Session};
use nexus_proto::words;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use std::sync::Arc;

use crate::domain::{Time, event};

// Field numbers of `Event`, `EventMetadata` and of an entry of a map.
const ID: u32 = 1;
const SOURCE: u32 = 3;
const TIMESTAMP: u32 = 4;
const DATA: u32 = 5;
const ABOUT: u32 = 6;
const SEQUENCE: u32 = 100;
const NAME: u32 = 102;
const ABOUT_SESSION: u32 = 2;
const ABOUT_PRIORITY: u32 = 6;
const KEY: u32 = 1;
const VALUE: u32 = 2;
// And of `GetSessionResponse`, `Session` and `SessionContext`.
const SESSION: u32 = 1;
const CONTEXT: u32 = 9;
const MESSAGES: u32 = 1;

/// Appends what [`event::of_message`] is, encoded, at its place in the log.
pub(super) fn message_sent(into: &mut BytesMut, seq: u64, message: &Message, session_id: &str, stored: Time) {
    let timestamp = event::timestamp(stored);
    text(into, ID, &message.id);
    text(into, SOURCE, event::ORCHESTRATOR);
    open(into, TIMESTAMP, timestamp.encoded_len());
    timestamp.encode_raw(into);
    entry(into, DATA, words::data::MESSAGE_ID, &message.id);
    entry(into, DATA, "role", event::role_name(message.role));
    entry(into, DATA, "session_id", session_id);

    let priority = u64::try_from(i32::from(Priority::Normal)).expect("no value of this enum is negative");
    let about = text_len(ABOUT_SESSION, session_id) + key_len(ABOUT_PRIORITY) + encoded_len_varint(priority);
    open(into, ABOUT, about);
    text(into, ABOUT_SESSION, session_id);
    encode_key(ABOUT_PRIORITY, WireType::Varint, into);
    encode_varint(priority, into);

    sequence(into, seq);
    text(into, NAME, event::MESSAGE_SENT);
}

/// A `GetSessionResponse` with a session that holds no messages itself, and these in their place.
pub(super) fn session_found(mut session: Session, messages: &[&Arc<Message>]) -> Bytes {
    let context = session.context.take().unwrap_or_default();
    let lens: Vec<usize> = messages.iter().map(|message| message.encoded_len()).collect();
    let context_len = context.encoded_len() + lens.iter().map(|len| whole(MESSAGES, *len)).sum::<usize>();
    let session_len = session.encoded_len() + whole(CONTEXT, context_len);
    let mut into = BytesMut::with_capacity(whole(SESSION, session_len));
    open(&mut into, SESSION, session_len);
    session.encode_raw(&mut into);
    open(&mut into, CONTEXT, context_len);
    context.encode_raw(&mut into);
    for (message, len) in messages.iter().zip(lens) {
        open(&mut into, MESSAGES, len);
        message.encode_raw(&mut into);
    }
    into.freeze()
}

/// Appends an event's place in the log.
pub(super) fn sequence(into: &mut BytesMut, seq: u64) {
    encode_key(SEQUENCE, WireType::Varint, into);
    encode_varint(seq, into);
}

/// Bytes of a length-delimited field whose content has `len` bytes.
fn whole(field: u32, len: usize) -> usize {
    key_len(field) + encoded_len_varint(len as u64) + len
}

fn text_len(field: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { whole(field, text.len()) }
}

fn entry_len(key: &str, value: &str) -> usize {
    text_len(KEY, key) + text_len(VALUE, value)
}

fn open(into: &mut BytesMut, field: u32, len: usize) {
    encode_key(field, WireType::LengthDelimited, into);
    encode_varint(len as u64, into);
}

fn text(into: &mut BytesMut, field: u32, text: &str) {
    if !text.is_empty() {
        open(into, field, text.len());
        into.put_slice(text.as_bytes());
    }
}

fn entry(into: &mut BytesMut, field: u32, key: &str, value: &str) {
    open(into, field, entry_len(key, value));
    text(into, KEY, key);
    text(into, VALUE, value);
}

#[cfg(test)]
mod tests {
    use nexus_proto::orchestrator::v1::{Event, GetSessionResponse, SessionContext};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_event_that_would_have_been_made(
            id in ".{0,40}",
            role in 0..6i32,
            session in "[0-9a-f]{0,32}",
            stored in 0..i64::MAX,
            seq in 1..u64::MAX,
        ) {
            let message = Message { id, role, content: "unseen".into(), ..Message::default() };
            let mut wire = BytesMut::new();
            message_sent(&mut wire, seq, &message, &session, stored);
            let made = Event { sequence: seq, ..event::of_message(&message, &session, stored) };
            prop_assert_eq!(Event::decode(wire.freeze()).unwrap(), made);
        }

        #[test]
        fn a_session_is_found_with_its_messages(
            name in ".{0,300}",
            task in ".{0,9}",
            omitted in 0..u64::MAX,
            contents in proptest::collection::vec(".{0,300}", 0..9),
        ) {
            let message = |(i, content)| Arc::new(Message { content, sequence: i as u64, ..Message::default() });
            let messages: Vec<Arc<Message>> = contents.into_iter().enumerate().map(message).collect();
            let context = SessionContext { current_task_id: task, messages_omitted: omitted, ..SessionContext::default() };
            let mut session = Session { id: name, context: Some(context), ..Session::default() };
            let wire = session_found(session.clone(), &messages.iter().collect::<Vec<_>>());
            let held = session.context.get_or_insert_default();
            held.messages = messages.iter().map(|message| Message::clone(message)).collect();
            prop_assert_eq!(GetSessionResponse::decode(wire).unwrap(), GetSessionResponse { session: Some(session) });
        }
    }
}
