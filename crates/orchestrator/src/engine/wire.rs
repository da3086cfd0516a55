//! The wire form of the commonest event, written straight from the message that it is: making the event first, with
//! maps and a dozen strings, would cost several times the writing.

use bytes::{BufMut, BytesMut};
use nexus_proto::common::v1::Priority;
use nexus_proto::orchestrator::v1::Message;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use std::collections::HashMap;

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
const ABOUT_LABELS: u32 = 5;
const ABOUT_PRIORITY: u32 = 6;
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// Appends what [`event::of_message`] is, encoded, at its place in the log.
pub(super) fn message_sent(
    into: &mut BytesMut,
    seq: u64,
    message: &Message,
    session_id: &str,
    labels: &HashMap<String, String>,
    stored: Time,
) {
    let timestamp = event::timestamp(stored);
    text(into, ID, &message.id);
    text(into, SOURCE, event::ORCHESTRATOR);
    open(into, TIMESTAMP, timestamp.encoded_len());
    timestamp.encode_raw(into);
    entry(into, DATA, "message_id", &message.id);
    entry(into, DATA, "role", event::role_name(message.role));
    entry(into, DATA, "session_id", session_id);

    let priority = u64::try_from(i32::from(Priority::Normal)).expect("no value of this enum is negative");
    let labelled: usize = labels
        .iter()
        .map(|(key, value)| whole(ABOUT_LABELS, entry_len(key, value)))
        .sum();
    let about = text_len(ABOUT_SESSION, session_id) + labelled + key_len(ABOUT_PRIORITY) + encoded_len_varint(priority);
    open(into, ABOUT, about);
    text(into, ABOUT_SESSION, session_id);
    for (key, value) in labels {
        entry(into, ABOUT_LABELS, key, value);
    }
    encode_key(ABOUT_PRIORITY, WireType::Varint, into);
    encode_varint(priority, into);

    sequence(into, seq);
    text(into, NAME, event::MESSAGE_SENT);
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
    use nexus_proto::orchestrator::v1::Event;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_event_that_would_have_been_made(
            id in ".{0,40}",
            role in 0..6i32,
            session in "[0-9a-f]{0,32}",
            labels in proptest::collection::hash_map(".{0,9}", ".{0,200}", 0..4),
            stored in 0..i64::MAX,
            seq in 1..u64::MAX,
        ) {
            let message = Message { id, role, content: "unseen".into(), ..Message::default() };
            let mut wire = BytesMut::new();
            message_sent(&mut wire, seq, &message, &session, &labels, stored);
            let made = Event { sequence: seq, ..event::of_message(&message, &session, &labels, stored) };
            prop_assert_eq!(Event::decode(wire.freeze()).unwrap(), made);
        }
    }
}
