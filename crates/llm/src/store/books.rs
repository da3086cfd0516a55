//! Where budgets and usage outlive a restart.
//!
//! | table | key | value |
//! |---|---|---|
//! | `SPENT` | kind of scope, its id | what it has used |
//! | `OPEN` | number of a request under way | what it has reserved, and of whom |
//! | `USAGE` | day, agent, model, session | what they used that day |
//!
//! Documents are JSON, so that a later field needs no migration. A commit survives the end of this process, not a power
//! cut: what a cut loses is the newest moment's counts, and waiting for the disk would delay each request.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use nexus_store::{Committed, Durability, Error, Op, Options, Reader, Receipt, Sqlite, Table, Transaction, Writer};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use crate::domain::{
    budget::{Amount, Key, Spent},
    usage::Cell,
    usage::Sum,
};

const SPENT: Table = Table(1);
const OPEN: Table = Table(2);
const USAGE: Table = Table(3);

/// Every wait for the disk.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);
/// Writes that may wait; each request makes two at most.
const QUEUE: usize = 4_096;

/// A request under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    pub scopes: Vec<Key>,
    /// What counts if nobody lives to settle it: the input.
    pub input: Amount,
    pub cell: Cell,
}

/// What the store held when it was opened.
#[derive(Debug, Default)]
pub struct Found {
    pub spent: Vec<(Key, Spent)>,
    pub open: Vec<(u64, Open)>,
}

/// Things that happen together.
#[derive(Debug, Default)]
pub struct Change(Vec<Op>);

impl Change {
    pub fn open(mut self, number: u64, open: &Open) -> Self {
        self.put(OPEN, number.to_be_bytes().to_vec(), json(open));
        self
    }

    pub fn close(mut self, number: u64) -> Self {
        let key = Bytes::from(number.to_be_bytes().to_vec());
        self.0.push(Op::Delete { table: OPEN, key });
        self
    }

    pub fn spent(mut self, key: &Key, spent: &Spent) -> Self {
        self.put(SPENT, spent_key(key), json(&(key, spent)));
        self
    }

    pub fn forget(mut self, key: &Key) -> Self {
        let key = Bytes::from(spent_key(key));
        self.0.push(Op::Delete { table: SPENT, key });
        self
    }

    pub fn usage(mut self, cell: &Cell, sum: &Sum) -> Self {
        self.put(USAGE, usage_key(cell), json(&(cell, sum)));
        self
    }

    /// Usage of the days before this one.
    pub fn forget_usage(mut self, day: u64) -> Self {
        self.0.push(Op::DeleteRange {
            table: USAGE,
            from: Bytes::new(),
            to: day.to_be_bytes().to_vec().into(),
        });
        self
    }

    fn put(&mut self, table: Table, key: Vec<u8>, value: Bytes) {
        let key = key.into();
        self.0.push(Op::Put { table, key, value });
    }
}

#[derive(Debug)]
struct Done(Option<oneshot::Sender<Result<(), Error>>>);

impl Receipt for Done {
    fn committed(&mut self, _: u64) {}
}

pub struct BookStore {
    /// Gone once closed.
    writer: Mutex<Option<Writer<Done>>>,
    reader: Reader,
    /// A failed group takes along what was queued behind it; the next epoch starts afresh.
    epoch: Arc<Mutex<u64>>,
}

/// A change on its way to the disk.
pub struct Pending(oneshot::Receiver<Result<(), Error>>);

impl Pending {
    pub async fn done(self) -> Result<(), Error> {
        match tokio::time::timeout(COMMIT_WITHIN, self.0).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(Error::Busy),
        }
    }
}

impl BookStore {
    pub fn open(directory: &Path) -> Result<(Self, Found), Error> {
        let backend = Sqlite::new(directory.join("llm.db"), Durability::Process);
        let options = Options {
            queue: QUEUE,
            ..Options::default()
        };
        let epoch = Arc::new(Mutex::new(1));
        let failed = epoch.clone();
        let store = nexus_store::Store::open(Arc::new(backend), &options, move |group: Committed<Done>| {
            if group.receipts.iter().any(|(_, result)| result.is_err()) {
                *failed.lock() += 1;
            }
            for (done, result) in group.receipts {
                if let Some(reply) = done.0 {
                    // Whoever waited has gone.
                    let _ = reply.send(result);
                }
            }
        })?;
        let found = store.reader.now(|read| {
            let spent = read.scan(SPENT, &[], &[0xff], usize::MAX)?;
            let open = read.scan(OPEN, &[], &[0xff; 9], usize::MAX)?;
            Ok((spent, open))
        })?;
        let (spent, open) = found;
        let number = |key: &[u8]| key.try_into().map_or(0, u64::from_be_bytes);
        let found = Found {
            spent: spent.iter().filter_map(|(_, value)| parse(value)).collect(),
            open: open
                .iter()
                .filter_map(|(key, value)| Some((number(key), parse(value)?)))
                .collect(),
        };
        let books = Self {
            writer: Mutex::new(Some(store.writer)),
            reader: store.reader,
            epoch,
        };
        Ok((books, found))
    }

    /// Queues a change behind all that came before. Never waits.
    pub fn send(&self, change: Change) -> Result<Pending, Error> {
        let writer = self.writer.lock();
        let permit = writer.as_ref().ok_or(Error::Closed)?.try_reserve()?;
        let (reply, answer) = oneshot::channel();
        permit.send(Transaction {
            epoch: *self.epoch.lock(),
            grows: true,
            ops: change.0,
            receipt: Done(Some(reply)),
        });
        Ok(Pending(answer))
    }

    /// Everything that was sent is on disk after it, and the files are free for another. False if that took too long.
    pub async fn close(&self, budget: Duration) -> bool {
        let writer = self.writer.lock().take();
        match writer {
            Some(writer) => writer.closed(budget).await,
            None => true,
        }
    }

    /// Usage of the days from `from` to `to`, both included.
    pub async fn usage(&self, from: u64, to: u64) -> Result<Vec<(Cell, Sum)>, Error> {
        let (from, to) = (from.to_be_bytes().to_vec(), to.saturating_add(1).to_be_bytes().to_vec());
        let found = self.reader.scan(USAGE, from, to, usize::MAX).await?;
        Ok(found.iter().filter_map(|(_, value)| parse(value)).collect())
    }
}

fn spent_key(key: &Key) -> Vec<u8> {
    format!("{}\0{}", key.kind.name(), key.id).into_bytes()
}

/// By day first, so that days are ranges.
fn usage_key(cell: &Cell) -> Vec<u8> {
    let mut key = cell.day.to_be_bytes().to_vec();
    key.extend_from_slice(format!("{}\0{}\0{}", cell.agent, cell.model, cell.session).as_bytes());
    key
}

fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("plain data is always JSON").into()
}

/// A document of a later version that cannot be read is left where it is.
fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}
