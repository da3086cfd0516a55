//! What the orchestrator keeps on disk, in its own words: facts become rows and documents here, and state is made of
//! them again at a start.
//!
//! | table | key | value |
//! |---|---|---|
//! | `LIVE`, `CLOSED` | session key | a session without its messages |
//! | `CHOSEN` | session key, message id chosen by its client | number of the message |
//! | `OPEN` | session key, number of the USER message | a turn that is not over |
//! | `OVER` | session key, number of the USER message | how its turn ended |
//! | `AGENT` | agent key | a registration |
//! | `KEPT` | agent key, number | a message that waits for its agent |
//! | `TASK` | task key | a task |
//! | `CONTAINER` | container key | what is wanted and known of a container |
//! | `SESSION_USAGE` | session key | bytes kept of a session that counts against a share |
//! | `USER_USAGE` | principal | bytes kept of a user |
//! | `FIRST` | caller, method, idempotency key | the first answer |
//!
//! Messages are rows of the log, numbered in their session's stream; events are rows beside them. A key's first eight
//! bytes are big-endian, so keys sort as their numbers do.

mod containers;
mod docs;
mod facts;
mod load;

use bytes::Bytes;
use nexus_store::Table;

pub use docs::{First, over, session, task};
pub use facts::ops;
pub use load::{find_session, load};

pub const LIVE: Table = Table(1);
pub const CLOSED: Table = Table(2);
pub const CHOSEN: Table = Table(3);
pub const OPEN: Table = Table(4);
pub const OVER: Table = Table(5);
pub const AGENT: Table = Table(6);
pub const KEPT: Table = Table(7);
pub const TASK: Table = Table(8);
pub const FIRST: Table = Table(9);
pub const CONTAINER: Table = Table(20);
pub const SESSION_USAGE: Table = Table(21);
pub const USER_USAGE: Table = Table(22);

/// What a row of the log holds.
pub const MESSAGE: u16 = 1;
pub const EVENT: u16 = 2;

/// A key of one number.
pub fn key(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_be_bytes())
}

/// A key of two numbers.
pub fn pair(a: u64, b: u64) -> Bytes {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&a.to_be_bytes());
    key[8..].copy_from_slice(&b.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// A key of a number and a text.
pub fn text(a: u64, text: &str) -> Bytes {
    [&a.to_be_bytes(), text.as_bytes()].concat().into()
}

/// The first key that is not `key` or below it.
pub fn above(key: u64) -> Bytes {
    self::key(key + 1)
}

fn number(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
