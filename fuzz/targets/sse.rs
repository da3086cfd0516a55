//! Server-sent events in any pieces: the same events however they are cut, and none longer than its bound.
//!
//! The first byte says how large the pieces are.
#![no_main]

use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use nexus_fuzz::pieces;
use nexus_llm::provider::sse::{Decoder, Event, LONGEST};

fuzz_target!(|data: &[u8]| {
    let [size, bytes @ ..] = data else { return };
    let whole = events([bytes]);
    assert_eq!(events(pieces(bytes, *size)), whole);
    assert_eq!(events(pieces(bytes, 1)), whole);
    for event in whole.iter().flatten() {
        assert!(event.data.len() <= 2 * LONGEST);
    }
});

/// `None`: the stream is refused.
fn events<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<Event>> {
    let (mut decoder, mut out) = (Decoder::default(), VecDeque::new());
    for part in parts {
        decoder.push(part, &mut out).ok()?;
    }
    decoder.finish(&mut out).ok()?;
    Some(out.into())
}
