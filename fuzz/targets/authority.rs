//! Any bytes in any pieces: the filter never panics, keeps the length, gives the same whatever the pieces, and changes
//! nothing but payloads of HEADERS frames.
//!
//! The first byte says whether the preface comes first; the next, how large the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nexus_daemon::authority::Filter;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const HEADERS: u8 = 1;

fuzz_target!(|data: &[u8]| {
    let [mode, size, rest @ ..] = data else { return };
    let mut bytes = if mode % 8 == 0 { Vec::new() } else { PREFACE.to_vec() };
    bytes.extend_from_slice(rest);

    let whole = filtered(&bytes, bytes.len().max(1));
    assert_eq!(filtered(&bytes, usize::from(*size).max(1)), whole);
    assert_eq!(filtered(&bytes, 1), whole);
    assert_eq!(whole.len(), bytes.len());
    assert!(outside_headers(&bytes) == outside_headers_of(&whole, &bytes));
});

fn filtered(bytes: &[u8], size: usize) -> Vec<u8> {
    let (mut filter, mut out, mut held) = (Filter::new(), Vec::new(), Vec::new());
    for piece in bytes.chunks(size) {
        held.extend_from_slice(piece);
        let pass = filter.scan(&mut held);
        out.extend(held.drain(..pass));
        assert!(held.len() < HEAD + 16 * 1024);
    }
    out.extend(held);
    out
}

fn outside_headers(bytes: &[u8]) -> Vec<u8> {
    outside_headers_of(bytes, bytes)
}

/// What of `bytes` lies outside the HEADERS payloads of `frames`.
fn outside_headers_of(bytes: &[u8], frames: &[u8]) -> Vec<u8> {
    if !frames.starts_with(PREFACE) {
        return bytes.to_vec();
    }
    let mut out = bytes[..PREFACE.len()].to_vec();
    let mut at = PREFACE.len();
    while let Some(&[a, b, c, kind, ..]) = frames[at..].first_chunk::<HEAD>() {
        let end = frames.len().min(at + HEAD + u32::from_be_bytes([0, a, b, c]) as usize);
        let kept = if kind == HEADERS { at + HEAD } else { end };
        out.extend_from_slice(&bytes[at..kept]);
        at = end;
    }
    out.extend_from_slice(&bytes[at..]);
    out
}
