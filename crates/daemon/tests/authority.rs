//! The authority filter against real HPACK and a real h2 server.

#[path = "authority/client.rs"]
mod client;
#[path = "../src/authority/huffman.rs"]
mod huffman;
#[path = "authority/wire.rs"]
mod wire;

use std::sync::{Arc, Mutex};

use client::{Client, Form, PLAIN, PREFACE, RAW_PATH, Request, Seen, request};
use nexus_daemon::authority::{Filter, FilteredStream, Speaks};
use proptest::collection::vec;
use proptest::prelude::*;
use wire::{Script, filtered, read_all, resets, served};

const CODED: Form = Form { coded: true, ..PLAIN };
const PROTOCOL_ERROR: u32 = 1;

/// Sends these and then the request that ends `served`; gives the client and what the server must see.
fn sent(requests: &[Request]) -> (Client, Vec<Seen>) {
    let mut client = Client::new();
    let seen = requests.iter().filter_map(|request| client.send(request)).collect();
    let headers = vec![("x-last".to_owned(), String::new(), PLAIN)];
    client.send(&Request {
        headers,
        ..Request::bare()
    });
    (client, seen)
}

fn authorities(seen: &[Seen]) -> Vec<&str> {
    seen.iter().filter_map(|request| request.authority.as_deref()).collect()
}

proptest! {
    #[test]
    fn any_client_is_served(requests in vec(request(), 1..20), sizes in vec(1..90_usize, 0..6)) {
        let (client, expected) = sent(&requests);

        // The client itself is sound: an independent decoder reads what it meant.
        let mut decoder = fluke_hpack::Decoder::new();
        for (block, list) in &client.blocks {
            let bytes = |text: &String| text.clone().into_bytes();
            let list: Vec<_> = list.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
            prop_assert_eq!(decoder.decode(block).expect("a sound block"), list);
        }

        let out = filtered(&client.bytes, &sizes);
        prop_assert_eq!(out.len(), client.bytes.len());
        if client.began_valid != Some(false) {
            prop_assert!(out == client.bytes, "a client with a valid authority was changed");
        }

        let script = Script::new(&client.bytes, &sizes);
        let answers = script.answers.clone();
        prop_assert_eq!(served(FilteredStream::new(script)), expected);
        // Streams answered before their body came end with other codes.
        let refused = resets(&answers.borrow()).iter().filter(|(_, code)| *code == PROTOCOL_ERROR).count();
        prop_assert_eq!(refused, client.refused);
    }

    #[test]
    fn a_stream_gives_what_the_filter_makes(requests in vec(request(), 1..6), sizes in vec(1..90_usize, 0..6), room in 1..200_usize) {
        let (client, _) = sent(&requests);
        let script = Script::closing(&client.bytes, &sizes);
        prop_assert_eq!(read_all(FilteredStream::new(script), room), filtered(&client.bytes, &[]));
    }

    #[test]
    fn any_bytes_keep_their_length_and_frames(frames in vec(frame(), 0..12), tail: Vec<u8>, cut in any::<bool>(), sizes in vec(1..40_usize, 1..5)) {
        let mut bytes = if cut { Vec::new() } else { PREFACE.to_vec() };
        bytes.extend(frames.concat());
        bytes.extend(tail);
        let out = filtered(&bytes, &[]);
        prop_assert_eq!(&filtered(&bytes, &sizes), &out);
        prop_assert_eq!(out.len(), bytes.len());
        for (at, _) in bytes.iter().zip(&out).enumerate().filter(|(_, (before, after))| before != after) {
            prop_assert!(within_headers(&bytes, at), "byte {} is not in a HEADERS payload", at);
        }
    }
}

/// Half-sound frames: mostly HEADERS, made of the bytes that mean something to HPACK.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let telling = prop::sample::select(vec![
        0x41, 0x01, 0x11, 0x40, 0x00, 0x81, 0x85, 0x05, 0x20, 0x3f, 0x7f, 0xff, b'%', 0x83,
    ]);
    let byte = prop_oneof![4 => telling, 1 => any::<u8>()];
    let kind = prop_oneof![3 => Just(1_u8), 1 => any::<u8>()];
    (kind, any::<u8>(), vec(byte, 0..60), -2..3_i32).prop_map(|(kind, flags, payload, wrong)| {
        let len = (payload.len() as i32 + if flags % 7 == 0 { wrong } else { 0 }).max(0) as u32;
        let mut out = len.to_be_bytes()[1..].to_vec();
        out.extend([kind, flags, 0, 0, 0, 1]);
        out.extend(payload);
        out
    })
}

fn within_headers(bytes: &[u8], wanted: usize) -> bool {
    let mut at = PREFACE.len();
    while let Some(&[a, b, c, kind, ..]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<9>()) {
        let end = at + 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        if kind == 1 && (at + 9..end).contains(&wanted) {
            return true;
        }
        at = end;
    }
    false
}

#[test]
fn h2_alone_refuses_what_passes_behind_the_filter() {
    let literal_name = Form {
        literal_name: true,
        ..PLAIN
    };
    for (authority, form) in [
        (RAW_PATH, CODED),
        (RAW_PATH, PLAIN),
        (RAW_PATH, literal_name),
        ("/tmp/baaaht-grpc.sock", CODED),
    ] {
        let (client, expected) = sent(&[Request::to(authority, form), Request::to(authority, form)]);

        let script = Script::new(&client.bytes, &[]);
        let answers = script.answers.clone();
        assert_eq!(served(script), [], "h2 alone");
        assert_eq!(resets(&answers.borrow()), [(1, PROTOCOL_ERROR), (3, PROTOCOL_ERROR)]);

        let script = Script::new(&client.bytes, &[]);
        let answers = script.answers.clone();
        let seen = served(FilteredStream::new(script));
        assert_eq!(seen, expected);
        let letters = "x".repeat(if form.coded {
            huffman::encode(authority.as_bytes()).len()
        } else {
            authority.len()
        });
        assert_eq!(authorities(&seen), [&letters, &letters]);
        assert_eq!(resets(&answers.borrow()), []);
    }
}

#[test]
fn every_split_gives_the_same() {
    let never = Form { literal: 0x10, ..CODED };
    let padded = Request {
        padding: Some(7),
        priority: true,
        ..Request::to("/tmp/s", never)
    };
    let (client, _) = sent(&[Request::to(RAW_PATH, CODED), padded, Request::to("/tmp/s", PLAIN)]);
    let whole = filtered(&client.bytes, &[]);
    assert_ne!(whole, client.bytes);
    assert_eq!(filtered(&client.bytes, &[1]), whole);
    for first in 1..client.bytes.len() {
        for second in [1, 5, client.bytes.len()] {
            assert_eq!(
                filtered(&client.bytes, &[first, second, client.bytes.len()]),
                whole,
                "{first}, {second}"
            );
        }
    }
}

#[test]
fn a_valid_first_authority_ends_the_looking() {
    let mut client = Client::new();
    client.send(&Request::bare());
    let mut filter = Filter::new();
    assert_eq!(filter.scan(&mut client.bytes), client.bytes.len());
    assert_eq!(filter.speaks(), Some(Speaks::Http2));
    assert!(!filter.is_done(), "no authority was seen yet");
    client.bytes.clear();
    client.send(&Request::to("localhost", CODED));
    filter.scan(&mut client.bytes);
    assert!(filter.is_done());
}

#[test]
fn a_later_invalid_authority_resets_its_own_stream_only() {
    let (client, expected) = sent(&[
        Request::to("localhost", CODED),
        Request::to(RAW_PATH, CODED),
        Request::to("localhost", CODED),
    ]);
    let script = Script::new(&client.bytes, &[]);
    let answers = script.answers.clone();
    assert_eq!(served(FilteredStream::new(script)), expected);
    assert_eq!(authorities(&expected), ["localhost", "localhost"]);
    assert_eq!(resets(&answers.borrow()), [(3, PROTOCOL_ERROR)]);
}

#[test]
fn what_cannot_be_overwritten_is_left_and_later_ones_are_not() {
    // `{` takes 15 bits: as plain letters the entry would be larger than the client believes.
    for authority in ["", "{{{"] {
        let (client, expected) = sent(&[Request::to(authority, CODED), Request::to(RAW_PATH, CODED)]);
        let script = Script::new(&client.bytes, &[]);
        let answers = script.answers.clone();
        assert_eq!(served(FilteredStream::new(script)), expected);
        assert_eq!(expected.len(), 1);
        assert_eq!(resets(&answers.borrow()), [(1, PROTOCOL_ERROR)]);
    }
}

#[test]
fn a_frame_above_the_limit_ends_the_looking() {
    let mut client = Client::new();
    client.frame(1, 0x4, 1, &vec![0; 16 * 1024 + 1]);
    client.send(&Request::to(RAW_PATH, PLAIN));
    let mut filter = Filter::new();
    let mut bytes = client.bytes.clone();
    assert_eq!(filter.scan(&mut bytes), bytes.len());
    assert!(filter.is_done());
    assert_eq!(bytes, client.bytes);
}

#[test]
fn a_connection_that_ends_within_a_frame_gives_all_its_bytes() {
    let (client, _) = sent(&[Request::to(RAW_PATH, PLAIN)]);
    let cut = &client.bytes[..PREFACE.len() + 9 + 9 + 20];
    let script = Script::closing(cut, &[7]);
    assert_eq!(read_all(FilteredStream::new(script), 10), cut);
}

#[test]
fn other_protocols_pass_as_they_are() {
    let hello = [&[0x16, 0x03, 0x01, 0x00, 0xa5, 0x01, 0x00][..], &[0x41; 60]].concat();
    for (bytes, speaks) in [
        (hello.as_slice(), Speaks::Tls),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", Speaks::Other),
        (b"POST / HTTP/1.1\r\n\r\n", Speaks::Other),
        (b"PRI * HTTP/1.1\r\n\r\n", Speaks::Other),
        (b"\x16\x16", Speaks::Other),
    ] {
        for size in [1, 2, bytes.len()] {
            let script = Script::closing(bytes, &[size]);
            let mut stream = FilteredStream::new(script);
            assert_eq!(read_all(&mut stream, 64), bytes);
            assert_eq!(stream.speaks(), Some(speaks));
        }
    }
}

#[test]
fn tls_on_the_plaintext_socket_is_said_once() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no writer panics").extend_from_slice(line);
            Ok(line.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let script = Script::closing(&[0x16, 0x03, 0x01, 0x00, 0x05, 0x01, 0x00], &[1]);
    read_all(FilteredStream::new(script), 64);
    let text = String::from_utf8(log.0.lock().expect("no writer panics").clone()).expect("a log is text");
    assert_eq!(
        text.matches("a client speaks TLS to the plaintext socket").count(),
        1,
        "{text}"
    );
}
