//! What the orchestrator keeps on disk, in its own words: facts become rows and documents here, and state is made of
//! them again at a start. Nothing outside of this file and `store/` knows a table or a key.
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
//! | `FIRST` | caller, method, idempotency key | the first answer |
//! | `SESSION_USAGE` | session key | bytes kept of a session that counts against a share |
//! | `USER_USAGE` | principal | what is kept of a user |
//! | `RUN` | session key, number of the USER message | a run that asked for calls, without its steps |
//! | `STEP` | the same, number of the step | a finished step and the keys of its calls |
//! | `CALL`, `APPROVAL` | session key, own key | a call of a tool, and an approval |
//! | `GRANT` | grant key | a standing consent |
//! | `TOOL`, `TOOL_STATS` | name | a tool that users defined or changed, and the numbers of a tool |
//! | `STOP` | `all`, or `agent/` and its id | what is stopped |
//! | `SESSION_NOTE` | session key | what the next run of the session is told |
//!
//! Beside them stand index documents, so that what is asked for costs by what is found and not by what is stored. They
//! are made of the documents above when a store is opened that has none, or that a version without them wrote to since
//! ([`index`]); a version before them leaves them alone. Their values are empty.
//!
//! | table | key |
//! |---|---|
//! | `TASK_OPEN` | task key, for one that is not over |
//! | `TASK_ENDED` | time of its end, task key |
//! | `TASK_OF_AGENT` | agent key, task key |
//! | `TASK_OF_SESSION` | session id of the task, task key |
//! | `CLOSED_BY_CREATOR`, `CLOSED_BY_OWNER` | principal or `owner_id`, session key |
//! | `FIRST_EXPIRES` | time of its expiry, key of a first answer |
//! | `CALL_OPEN` | session key, call key, for a call that is not over |
//! | `CALL_SESSION` | key of a call or an approval; the value is the session key |
//! | `FIRST_OF_SESSION` | session key, key of a first answer that names the session |
//!
//! Messages are rows of the log, numbered in their session's stream; events are rows beside them. Numbers in keys are
//! big-endian and texts have their length before them, so keys sort as their numbers do, and no text is the beginning of
//! another.

mod answers;
mod changes;
mod containers;
mod docs;
mod facts;
mod index;
mod load;
mod runs;
mod stored;

use bytes::Bytes;
use nexus_store::{Error, Table};

pub use answers::Answer;
pub use changes::Changes;
pub use index::prepare;
#[cfg(test)]
pub use load::load;
pub use stored::{ClosedOf, Logged, RecordBody, Stored, TasksOf};

/// How many messages wait for agents.
#[cfg(test)]
pub fn kept_messages(read: &mut dyn nexus_store::Read) -> usize {
    read.scan(KEPT, &[], &END, usize::MAX).map_or(0, |found| found.len())
}

const LIVE: Table = Table(1);
const CLOSED: Table = Table(2);
const CHOSEN: Table = Table(3);
const OPEN: Table = Table(4);
const OVER: Table = Table(5);
const AGENT: Table = Table(6);
const KEPT: Table = Table(7);
const TASK: Table = Table(8);
const FIRST: Table = Table(9);
const CONTAINER: Table = Table(20);
const SESSION_USAGE: Table = Table(21);
const USER_USAGE: Table = Table(22);
const TASK_OPEN: Table = Table(23);
const TASK_ENDED: Table = Table(24);
const TASK_OF_AGENT: Table = Table(25);
const TASK_OF_SESSION: Table = Table(26);
const CLOSED_BY_CREATOR: Table = Table(27);
const CLOSED_BY_OWNER: Table = Table(28);
const FIRST_EXPIRES: Table = Table(29);
const FIRST_OF_SESSION: Table = Table(30);
const RUN: Table = Table(31);
const STEP: Table = Table(32);
const CALL: Table = Table(33);
const CALL_OPEN: Table = Table(34);
const CALL_SESSION: Table = Table(35);
const APPROVAL: Table = Table(36);
const GRANT: Table = Table(37);
const TOOL: Table = Table(38);
const TOOL_STATS: Table = Table(39);
const STOP: Table = Table(40);
const SESSION_NOTE: Table = Table(41);

/// Above every key that begins with a number, a length, or text.
const END: [u8; 9] = [0xff; 9];

/// What a row of the log holds.
const MESSAGE: u16 = 1;
const EVENT: u16 = 2;

/// A key of one number.
fn key(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_be_bytes())
}

/// A key of two numbers.
fn pair(a: u64, b: u64) -> Bytes {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&a.to_be_bytes());
    key[8..].copy_from_slice(&b.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// A key of a number and a text, or another key.
fn text(a: u64, text: &[u8]) -> Bytes {
    [&a.to_be_bytes(), text].concat().into()
}

/// A key of a text and a number.
fn under(text: &str, n: u64) -> Bytes {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), text.as_bytes(), &n.to_be_bytes()]
        .concat()
        .into()
}

/// The first key that is not `key` or below it.
fn above(key: u64) -> Bytes {
    self::key(key.saturating_add(1))
}

/// A time as the number of a key: times sort as they are, also before the epoch.
fn time(at: i64) -> u64 {
    (at as u64) ^ (1 << 63)
}

/// The number that a key, or the part of one from `at` on, begins with.
fn number_at(key: &[u8], at: usize) -> Result<u64, Error> {
    let part = key.get(at..).and_then(|rest| rest.first_chunk());
    part.map(|bytes| u64::from_be_bytes(*bytes))
        .ok_or_else(|| damaged(format!("a key of {} bytes is too short", key.len())))
}

/// The number that a key or value begins with.
fn number(key: &[u8]) -> Result<u64, Error> {
    number_at(key, 0)
}

/// The number that a key ends with.
fn last_number(key: &[u8]) -> Result<u64, Error> {
    number_at(key, key.len().saturating_sub(8))
}

fn damaged(detail: String) -> Error {
    Error::Damaged {
        path: "orchestrator".into(),
        detail,
    }
}
