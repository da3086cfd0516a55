//! What the gateway keeps on disk, in its own words: sessions, its log of events, and first answers.
//!
//! | where | key | value |
//! |---|---|---|
//! | `SESSION` | session id | a session that is not closed |
//! | `FIRST` | caller, method, idempotency key | the request's fingerprint and its first answer |
//! | `FIRST_BY_TIME` | time, then the key above | nothing |
//! | the log | sequence | an event |
//!
//! Documents are JSON, so that a later field needs no migration. What belongs together is one [`Change`]; it is on disk
//! when [`Store::commit`] returns, and readers of the log hear of it after that.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use nexus_store::{Backend, Committed, Error as Engine, Op, Options, Reader, Receipt, Row, Table, Transaction, Writer};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::{oneshot, watch};

use crate::{
    Error,
    domain::{
        event::{Event, Logged},
        session::Session,
    },
};

const SESSION: Table = Table(1);
const FIRST: Table = Table(2);
const FIRST_BY_TIME: Table = Table(3);
const EVENT: u16 = 1;

/// Every wait for the disk.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);
/// How long a first answer is kept, in nanoseconds.
pub const FIRST_ANSWER_TTL: i64 = 24 * 3600 * 1_000_000_000;
/// One read of the log.
const READ_BYTES: usize = 4 << 20;

/// The answer to a request that may come again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstAnswer {
    pub at: i64,
    pub fingerprint: String,
    /// JSON; its shape is the method's own.
    pub answer: String,
}

/// Things that happen together.
#[derive(Debug, Default)]
pub struct Change {
    ops: Vec<Op>,
    events: Vec<Event>,
    shrinks: bool,
}

impl Change {
    pub fn put(mut self, session: &Session) -> Self {
        self.ops.push(Op::Put {
            table: SESSION,
            key: session.id.clone().into(),
            value: json(session),
        });
        self
    }

    /// Also on a disk that is nearly full.
    pub fn remove(mut self, session_id: &str) -> Self {
        self.shrinks = true;
        self.ops.push(Op::Delete {
            table: SESSION,
            key: session_id.to_owned().into(),
        });
        self
    }

    pub fn event(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    pub fn first_answer(mut self, key: &str, answer: &FirstAnswer) -> Self {
        self.ops.push(Op::Put {
            table: FIRST,
            key: key.to_owned().into(),
            value: json(answer),
        });
        self.ops.push(Op::Put {
            table: FIRST_BY_TIME,
            key: by_time(answer.at, key),
            value: Bytes::new(),
        });
        self
    }
}

#[derive(Debug)]
struct Done {
    /// The last row's sequence.
    sequence: u64,
    rows: u64,
    reply: oneshot::Sender<Result<u64, Engine>>,
}

impl Receipt for Done {
    fn committed(&mut self, first_seq: u64) {
        self.sequence = first_seq + self.rows.saturating_sub(1);
    }
}

pub struct Store {
    /// Gone once closed.
    writer: Mutex<Option<Writer<Done>>>,
    reader: Reader,
    log_id: Arc<str>,
    /// The newest event written since the store was opened.
    head: watch::Receiver<u64>,
    newest_at_open: u64,
    order: Mutex<Order>,
}

/// What must be decided in the order of the queue.
#[derive(Debug)]
struct Order {
    /// A failed group takes along what was queued behind it; the next epoch starts afresh.
    epoch: u64,
    /// Times never fall along the log, whatever the clock does.
    time: i64,
}

impl Store {
    /// Opens the store and reads the sessions in it.
    pub fn open(backend: Arc<dyn Backend>, options: &Options) -> Result<(Store, Vec<Session>), Error> {
        let (raise, head) = watch::channel(0);
        let store = nexus_store::Store::open(backend, options, move |group: Committed<Done>| {
            for (done, result) in group.receipts {
                if result.is_ok() {
                    raise.send_if_modified(|head| {
                        let higher = done.sequence > *head;
                        *head = done.sequence.max(*head);
                        higher
                    });
                }
                // Nobody waits for it any more: the caller's deadline passed.
                let _unheard = done.reply.send(result.map(|()| done.sequence));
            }
        })?;
        let (newest, time, found) = store.reader.now(|read| {
            let newest = read.newest()?;
            let last = read.log(newest.saturating_sub(1), 1, READ_BYTES)?;
            let found = read.scan(SESSION, &[], &[0xff], usize::MAX)?;
            Ok((newest, last.last().map_or(0, |row| row.time), found))
        })?;
        let sessions = found.iter().map(|(_, value)| parse(value)).collect::<Result<_, _>>()?;
        let store = Store {
            writer: Mutex::new(Some(store.writer)),
            reader: store.reader,
            log_id: store.log_id,
            head,
            newest_at_open: newest,
            order: Mutex::new(Order { epoch: 1, time }),
        };
        Ok((store, sessions))
    }

    /// Returns the sequence of the change's last event once all of it is on disk.
    pub async fn commit(&self, change: Change, now: i64) -> Result<u64, Error> {
        match tokio::time::timeout(COMMIT_WITHIN, self.try_commit(change, now)).await {
            Ok(result) => result.map_err(Error::Store),
            Err(_) => Err(Error::Deadline("write to the gateway's store")),
        }
    }

    async fn try_commit(&self, change: Change, now: i64) -> Result<u64, Engine> {
        let events: Vec<Bytes> = change.events.iter().map(json).collect();
        loop {
            let writer = self.writer.lock().clone().ok_or(Engine::Closed)?;
            let permit = writer.reserve().await?;
            let (reply, answer) = oneshot::channel();
            let epoch = {
                let mut order = self.order.lock();
                order.time = order.time.max(now);
                let time = order.time;
                let rows = events.iter().map(|body| Op::Append {
                    stream: 0,
                    n: None,
                    time,
                    kind: EVENT,
                    body: body.clone(),
                });
                let ops = change.ops.iter().cloned().chain(rows).collect();
                let receipt = Done {
                    sequence: 0,
                    rows: events.len() as u64,
                    reply,
                };
                permit.send(Transaction {
                    epoch: order.epoch,
                    grows: !change.shrinks,
                    ops,
                    receipt,
                });
                order.epoch
            };
            let result = answer.await.map_err(|_| Engine::Closed)?;
            if result.is_err() {
                let mut order = self.order.lock();
                order.epoch = order.epoch.max(epoch + 1);
            }
            match result {
                // It failed only for what was before it, which it was not built on.
                Err(Engine::Superseded) => {}
                other => return other,
            }
        }
    }

    pub async fn first_answer(&self, key: &str) -> Result<Option<FirstAnswer>, Error> {
        let found = self.reader.get(FIRST, key.as_bytes().to_vec()).await?;
        found.as_ref().map(parse).transpose()
    }

    /// Deletes answers from before `time`, at most `most` at once. True if there are more.
    pub async fn forget_answers(&self, before: i64, most: usize) -> Result<bool, Error> {
        let (from, to) = (by_time(0, "").to_vec(), by_time(before, "").to_vec());
        let old = self.reader.scan(FIRST_BY_TIME, from, to, most).await?;
        let more = old.len() == most;
        if old.is_empty() {
            return Ok(false);
        }
        let both = old.into_iter().flat_map(|(key, _)| {
            let first = key.slice(8..);
            [
                Op::Delete {
                    table: FIRST_BY_TIME,
                    key,
                },
                Op::Delete {
                    table: FIRST,
                    key: first,
                },
            ]
        });
        let change = Change {
            ops: both.collect(),
            events: Vec::new(),
            shrinks: true,
        };
        self.commit(change, before).await?;
        Ok(more)
    }

    /// The newest event's sequence.
    pub fn newest(&self) -> u64 {
        self.newest_at_open.max(*self.head.borrow())
    }

    /// Changes with every event; ends with the store.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    /// Names this log.
    pub fn log_id(&self) -> &str {
        &self.log_id
    }

    pub async fn events(&self, after: u64, most: usize) -> Result<Vec<Logged>, Error> {
        self.reader
            .log(after, most, READ_BYTES)
            .await?
            .iter()
            .map(logged)
            .collect()
    }

    /// The place in the log just before `time`.
    pub async fn before(&self, time: i64) -> Result<u64, Error> {
        Ok(self.reader.before(time).await?)
    }

    /// Events up to here are gone.
    pub async fn trimmed(&self) -> Result<u64, Error> {
        Ok(self.reader.trimmed().await?)
    }

    /// Forgets events from before `time`.
    pub async fn trim(&self, time: i64) -> Result<(), Error> {
        let through = self.before(time).await?;
        if through > self.trimmed().await? {
            let change = Change {
                ops: vec![Op::Trim { through }],
                events: Vec::new(),
                shrinks: true,
            };
            self.commit(change, time).await?;
        }
        Ok(())
    }

    /// Waits until everything is written and the file is tidy. False if the budget ran out.
    pub async fn close(&self, budget: Duration) -> bool {
        let writer = self.writer.lock().take();
        let Some(writer) = writer else { return true };
        writer.closed(budget).await
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("log_id", &self.log_id)
            .finish_non_exhaustive()
    }
}

fn by_time(time: i64, key: &str) -> Bytes {
    let time = u64::try_from(time).unwrap_or(0);
    [&time.to_be_bytes()[..], key.as_bytes()].concat().into()
}

fn logged(row: &Row) -> Result<Logged, Error> {
    Ok(Logged {
        sequence: row.seq,
        time: row.time,
        event: parse(&row.body)?,
    })
}

fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value)
        .expect("our documents have text keys only")
        .into()
}

fn parse<T: DeserializeOwned>(value: &Bytes) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|error| Error::Unreadable(error.to_string()))
}

#[cfg(test)]
mod tests;
