//! Lets any gRPC client call over a Unix socket, whatever `:authority` it sends.
//!
//! Many clients put the socket's path there (`%2Ftmp%2Fx.sock`, `/tmp/x.sock`). `h2` resets such a request before any of
//! our code sees it, so it has to be put right below `h2`, on the byte stream. [`Filter`] follows the client's bytes and
//! overwrites such a value in place with letters, same length; [`FilteredStream`] applies it to what is read.
//!
//! ```text
//!              not the preface (TLS, HTTP/1)
//!   Preface ──────────────────────────────────────▶ Done: every byte passes, unread
//!      │ 24 bytes                                     ▲
//!      ▼         HEADERS, whole                       │ the first authority is valid,
//!    Head ───────────────────────▶ look, overwrite ───┤ or a HEADERS frame above 16 KiB
//!     ▲  │ any other frame         if it is invalid   │
//!     │  ▼                                │
//!     │ Payload (passes as it comes)      │ none, or an invalid one
//!     └──┴────────────────────────────────┘
//! ```
//!
//! Bytes that were handed on cannot be changed, and whether a value is invalid is known only at its end: so a HEADERS
//! frame is held back until it is whole, which costs nothing, since `h2` waits for whole frames too.
//!
//! Overwriting keeps both ends of HPACK in step. No length changes, so framing and flow control stay as they were. The
//! entry in the decoder's dynamic table is never larger than the encoder believes, so the decoder evicts no earlier than
//! the encoder, and indices count from the newest: whatever the encoder refers to is there. Later requests that refer to
//! the entry get the overwritten value.
//!
//! It never changes a length, a valid authority or any other header; never re-encodes; keeps no HPACK table; never judges a
//! request: what it cannot put right (an empty value, one whose coding is longer than itself, an authority beyond the
//! first frame of its header block) it leaves for `h2` to refuse.

mod hpack;
mod huffman;
mod stream;

pub use stream::FilteredStream;

use hpack::Authority;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const HEADERS: u8 = 1;
/// The frame size a client may use unless our SETTINGS raise it; also the bound of what is held back.
const MAX_HEADERS: usize = 16 * 1024;

/// What the first bytes of a connection say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/2 in the clear.
    Http2,
    /// A TLS handshake, on a socket that is plaintext.
    Tls,
    /// Anything else.
    Other,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Preface,
    Head,
    /// So many bytes are left of a frame that is of no interest.
    Payload(usize),
    Done,
}

/// Follows the client's bytes of one connection. Holds no bytes itself: its caller does.
#[derive(Debug)]
pub struct Filter {
    state: State,
    speaks: Option<Speaks>,
    /// The first authority was invalid, so this client's later ones are looked at too.
    began_invalid: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self::new()
    }
}

impl Filter {
    /// A filter at the start of a connection.
    pub fn new() -> Self {
        Self {
            state: State::Preface,
            speaks: None,
            began_invalid: false,
        }
    }

    /// Goes over `bytes`, changes them where needed, and says how many of them may be handed on.
    ///
    /// The rest, at most a frame head and 16 KiB, must be put before the bytes that follow at the next call.
    pub fn scan(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = &mut bytes[at..];
            match self.state {
                State::Done => return bytes.len(),
                State::Preface => match open(rest) {
                    None => return at,
                    Some(Speaks::Http2) => {
                        self.speaks = Some(Speaks::Http2);
                        self.state = State::Head;
                        at += PREFACE.len();
                    }
                    other => {
                        self.speaks = other;
                        self.state = State::Done;
                    }
                },
                State::Payload(left) if left > rest.len() => {
                    self.state = State::Payload(left - rest.len());
                    return bytes.len();
                }
                State::Payload(left) => {
                    self.state = State::Head;
                    at += left;
                }
                State::Head => {
                    let Some(&[a, b, c, kind, flags, ..]) = rest.first_chunk::<HEAD>() else {
                        return at;
                    };
                    let len = u32::from_be_bytes([0, a, b, c]) as usize;
                    if kind != HEADERS {
                        self.state = State::Payload(len);
                        at += HEAD;
                    } else if len > MAX_HEADERS {
                        self.state = State::Done;
                    } else if let Some(payload) = rest.get_mut(HEAD..HEAD + len) {
                        self.look(payload, flags);
                        at += HEAD + len;
                    } else {
                        return at;
                    }
                }
            }
        }
    }

    fn look(&mut self, payload: &mut [u8], flags: u8) {
        match hpack::mend(payload, flags) {
            Authority::Absent => {}
            Authority::Valid if self.began_invalid => {}
            Authority::Valid => self.state = State::Done,
            Authority::Overwritten | Authority::Left => self.began_invalid = true,
        }
    }

    /// Nothing more will come, or nothing more matters: all bytes pass from here on.
    pub fn stop(&mut self) {
        self.state = State::Done;
    }

    /// Whether all further bytes pass as they are, so that `scan` need not be called again.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// What the client speaks, once its first bytes have told.
    pub fn speaks(&self) -> Option<Speaks> {
        self.speaks
    }
}

/// `None` while there are too few bytes to tell.
fn open(bytes: &[u8]) -> Option<Speaks> {
    let seen = bytes.len().min(PREFACE.len());
    match bytes {
        _ if seen == PREFACE.len() && bytes.starts_with(PREFACE) => Some(Speaks::Http2),
        _ if bytes[..seen] == PREFACE[..seen] => None,
        // A TLS record of type handshake, of major version 3.
        [0x16] => None,
        [0x16, 0x03, ..] => Some(Speaks::Tls),
        _ => Some(Speaks::Other),
    }
}
