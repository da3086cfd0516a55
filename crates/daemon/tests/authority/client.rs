//! A client that writes HTTP/2 in every way HPACK allows, and knows what a server behind the filter must see.
//!
//! Its dynamic table is the encoder's: it holds the values as sent, and evicts by their size. Beside each it keeps what
//! the server should have for it.

use std::collections::VecDeque;

use fluke_hpack::encoder::encode_integer_into;
use http::uri::Authority;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::huffman;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const RAW_PATH: &str = "%2Ftmp%2Fbaaaht-grpc.sock";

type Headers = Vec<(String, String)>;

/// How a header is written.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// 0x40 with indexing, 0x00 without, 0x10 never.
    pub literal: u8,
    pub literal_name: bool,
    pub coded_name: bool,
    pub coded: bool,
    /// Refer to the table if it holds the whole header.
    pub reuse: bool,
}

pub const PLAIN: Form = Form {
    literal: 0x40,
    literal_name: false,
    coded_name: false,
    coded: false,
    reuse: true,
};

#[derive(Clone, Debug)]
pub struct Request {
    pub authority: Option<(String, Form)>,
    pub path: String,
    pub headers: Vec<(String, String, Form)>,
    /// Where the authority stands among the pseudo-headers.
    pub place: usize,
    pub resize: Option<usize>,
    pub padding: Option<u8>,
    pub priority: bool,
    /// Splits the block into HEADERS and CONTINUATION somewhere behind the pseudo-headers.
    pub split: Option<Index>,
    pub body: Vec<u8>,
    /// The payload of a frame of an unknown type before it.
    pub before: Option<Vec<u8>>,
}

impl Request {
    pub fn to(authority: &str, form: Form) -> Self {
        Self {
            authority: Some((authority.to_owned(), form)),
            ..Self::bare()
        }
    }

    pub fn bare() -> Self {
        Self {
            authority: None,
            path: "/a.v1.A/B".to_owned(),
            headers: Vec::new(),
            place: 3,
            resize: None,
            padding: None,
            priority: false,
            split: None,
            body: Vec::new(),
            before: None,
        }
    }
}

/// What the server gets of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub authority: Option<String>,
    pub path: String,
    pub headers: Headers,
}

struct Entry {
    name: String,
    value: String,
    seen: String,
}

pub struct Client {
    table: VecDeque<Entry>,
    room: usize,
    stream: u32,
    pub bytes: Vec<u8>,
    /// Each header block, and beside it what it says.
    pub blocks: Vec<(Vec<u8>, Headers)>,
    /// Whether the first authority was valid.
    pub began_valid: Option<bool>,
    pub refused: usize,
}

impl Client {
    pub fn new() -> Self {
        let mut client = Self {
            table: VecDeque::new(),
            room: 4096,
            stream: 1,
            bytes: PREFACE.to_vec(),
            blocks: Vec::new(),
            began_valid: None,
            refused: 0,
        };
        client.frame(4, 0, 0, &[]);
        client
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.bytes.extend_from_slice(&[kind, flags]);
        self.bytes.extend_from_slice(&stream.to_be_bytes());
        self.bytes.extend_from_slice(payload);
    }

    /// Sends it, and says what the server must see: nothing if h2 refuses it.
    pub fn send(&mut self, request: &Request) -> Option<Seen> {
        if let Some(payload) = &request.before {
            self.frame(0x2a, 0xff, 0, payload);
        }
        let (mut block, mut list) = (Vec::new(), Vec::new());
        if let Some(room) = request.resize {
            integer(room, 5, 0x20, &mut block);
            self.room = room;
            self.evict(0);
        }
        let mut pseudo = vec![
            (":method", "POST".to_owned(), PLAIN),
            (":scheme", "http".to_owned(), PLAIN),
        ];
        pseudo.push((":path", request.path.clone(), PLAIN));
        if let Some((value, form)) = &request.authority {
            pseudo.insert(request.place.min(3), (":authority", value.clone(), *form));
        }
        let mut authority = None;
        for (name, value, form) in pseudo {
            let seen = self.header(name, &value, form, &mut block);
            if name == ":authority" {
                authority = Some(seen);
            }
            list.push((name.to_owned(), value));
        }
        let shortest = block.len();
        let id = ("x-id".to_owned(), self.stream.to_string(), PLAIN);
        let mut headers = Vec::new();
        for (name, value, form) in request.headers.iter().chain([&id]) {
            self.header(name, value, *form, &mut block);
            list.push((name.clone(), value.clone()));
            headers.push((name.clone(), value.clone()));
        }
        self.header_frames(request, &block, shortest);
        self.blocks.push((block, list));
        self.stream += 2;

        if authority
            .as_deref()
            .is_some_and(|text| Authority::try_from(text).is_err())
        {
            self.refused += 1;
            return None;
        }
        headers.sort();
        let path = request.path.clone();
        Some(Seen {
            authority,
            path,
            headers,
        })
    }

    fn header_frames(&mut self, request: &Request, block: &[u8], shortest: usize) {
        let cut = request
            .split
            .map_or(block.len(), |at| shortest + at.index(block.len() - shortest + 1));
        let (mut payload, mut flags) = (Vec::new(), 0);
        if let Some(padding) = request.padding {
            payload.push(padding);
            flags |= 0x8;
        }
        if request.priority {
            payload.extend_from_slice(&[0, 0, 0, 0, 15]);
            flags |= 0x20;
        }
        payload.extend_from_slice(&block[..cut]);
        // Padding that reads as an invalid authority, were it part of the block.
        let padding = usize::from(request.padding.unwrap_or(0));
        payload.extend([0x01, 0x01, b'%'].iter().cycle().take(padding));
        if request.body.is_empty() {
            flags |= 0x1;
        }
        if request.split.is_none() {
            flags |= 0x4;
        }
        self.frame(1, flags, self.stream, &payload);
        if request.split.is_some() {
            self.frame(9, 0x4, self.stream, &block[cut..]);
        }
        if !request.body.is_empty() {
            self.frame(0, 0x1, self.stream, &request.body);
        }
    }

    /// Writes one header and gives the value the server must have for it.
    fn header(&mut self, name: &str, value: &str, form: Form, out: &mut Vec<u8>) -> String {
        let held = self
            .table
            .iter()
            .position(|entry| entry.name == name && entry.value == value);
        if let Some(at) = held.filter(|_| form.reuse) {
            integer(62 + at, 7, 0x80, out);
            return self.table[at].seen.clone();
        }
        let index = match name {
            ":authority" => Some(1),
            ":method" => Some(3),
            ":path" => Some(5),
            ":scheme" => Some(6),
            "user-agent" => Some(58),
            _ => self.table.iter().position(|entry| entry.name == name).map(|at| 62 + at),
        };
        let prefix = if form.literal == 0x40 { 6 } else { 4 };
        match index.filter(|_| !form.literal_name) {
            Some(index) => integer(index, prefix, form.literal, out),
            None => {
                out.push(form.literal);
                text(name, form.coded_name, out);
            }
        }
        let written = text(value, form.coded, out);
        let stored = form.literal == 0x40;
        let seen = if name == ":authority" {
            self.authority(value, written, stored)
        } else {
            value.to_owned()
        };
        if stored {
            let size = name.len() + value.len() + 32;
            self.evict(size);
            if size <= self.room {
                let (name, value, seen) = (name.to_owned(), value.to_owned(), seen.clone());
                self.table.push_front(Entry { name, value, seen });
            }
        }
        seen
    }

    fn authority(&mut self, value: &str, written: usize, stored: bool) -> String {
        let valid = Authority::try_from(value).is_ok();
        let began_valid = *self.began_valid.get_or_insert(valid);
        let fits = written > 0 && (!stored || written <= value.len());
        if valid || began_valid || !fits {
            value.to_owned()
        } else {
            "x".repeat(written)
        }
    }

    fn evict(&mut self, wanted: usize) {
        let size = |entry: &Entry| entry.name.len() + entry.value.len() + 32;
        while !self.table.is_empty() && self.table.iter().map(size).sum::<usize>() + wanted > self.room {
            self.table.pop_back();
        }
    }
}

fn integer(value: usize, prefix: u8, lead: u8, out: &mut Vec<u8>) {
    encode_integer_into(value, prefix, lead, out).expect("a Vec takes every write");
}

/// Gives how many bytes the text itself took.
fn text(text: &str, coded: bool, out: &mut Vec<u8>) -> usize {
    let bytes = if coded {
        huffman::encode(text.as_bytes())
    } else {
        text.as_bytes().to_vec()
    };
    integer(bytes.len(), 7, if coded { 0x80 } else { 0 }, out);
    out.extend_from_slice(&bytes);
    bytes.len()
}

pub fn form() -> impl Strategy<Value = Form> {
    (
        select(vec![0x40, 0x40, 0x40, 0x00, 0x10]),
        prop::bool::weighted(0.2),
        any::<[bool; 2]>(),
        prop::bool::weighted(0.8),
    )
        .prop_map(|(literal, literal_name, [coded_name, coded], reuse)| Form {
            literal,
            literal_name,
            coded_name,
            coded,
            reuse,
        })
}

fn authority() -> impl Strategy<Value = String> {
    let known = vec![
        RAW_PATH,
        "/tmp/baaaht-grpc.sock",
        "%2Frun%2Fa",
        "localhost",
        "[::1]:50051",
        "a%20b@host",
        "a b",
        "",
        "{|}",
        "\u{e9}",
    ];
    prop_oneof![
        3 => Just(RAW_PATH.to_owned()),
        3 => select(known).prop_map(str::to_owned),
        1 => "[ -~]{1,40}",
    ]
}

fn header() -> impl Strategy<Value = (String, String, Form)> {
    let name = select(vec!["x-a", "x-b", "x-c", "x-d", "user-agent"]).prop_map(str::to_owned);
    let value = prop_oneof![4 => "[a-z0-9%/]{0,30}", 2 => "[a-d]", 1 => "[a-z]{300,1400}"];
    (name, value, form())
}

pub fn request() -> impl Strategy<Value = Request> {
    let frames = (
        prop::option::weighted(0.2, any::<u8>()),
        any::<bool>(),
        prop::option::weighted(0.2, any::<Index>()),
        prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..40)),
    );
    let block = (
        prop::option::weighted(0.9, (authority(), form())),
        prop::collection::vec(header(), 0..6),
        0..4_usize,
        prop::option::weighted(0.1, prop_oneof![0..=40_usize, 0..=4096_usize]),
        prop_oneof![3 => Just("/a.v1.A/B".to_owned()), 1 => "/[a-z]{100,700}"],
    );
    // A body that looks like a frame with an invalid authority must pass untouched.
    let bait = {
        let mut other = Client::new();
        other.send(&Request::to(RAW_PATH, PLAIN));
        other.bytes[PREFACE.len()..].to_vec()
    };
    (frames, block, prop_oneof![Just(Vec::new()), Just(bait)]).prop_map(
        |((padding, priority, split, before), (authority, headers, place, resize, path), body)| Request {
            authority,
            path,
            headers,
            place,
            resize,
            padding,
            priority,
            split,
            body,
            before,
        },
    )
}
