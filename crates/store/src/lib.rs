//! The engine under every daemon that remembers: an append-only log with a rising sequence, tables of small documents
//! beside it, and transactions over both, made durable in groups by one writer.
//!
//! ```text
//!  callers ──reserve──▶ bounded queue ──▶ writer thread ──commit (fsync)──▶ receipts, in order ──▶ the owner's callback
//!                                             │
//!  callers ◀── readers (a small pool) ◀── the same file, last committed state
//! ```
//!
//! It knows rows, streams and documents, never sessions or agents; those words live in a daemon's own `store.rs`.
//! Nothing of the engine behind it shows here, so that another one fits: see [`Backend`].
//!
//! Architecture invariant: a receipt is handed back only after its transaction is on disk, and receipts are handed back
//! in the order in which their transactions were sent.

#![warn(missing_docs)]

mod backend;
mod disk;
mod error;
mod memory;
mod reader;
mod sqlite;
mod writer;

pub use backend::{Backend, Commit, GroupId, Head, Lease, Op, Outcome, Read, Row, Stamp, Table, Write};
pub use disk::Room;
pub use error::Error;
pub use memory::{Faults, Memory};
pub use reader::Reader;
pub use sqlite::{Durability, Sqlite, copy};
pub use writer::{Committed, Permit, Receipt, Transaction, Writer, commit};

use std::sync::Arc;
use std::time::Duration;

/// How a store is run. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Transactions that may wait for the writer before callers have to.
    pub queue: usize,
    /// Most transactions made durable by one commit.
    pub batch: usize,
    /// Reads that may run beside the writer.
    pub readers: usize,
    /// Free space below which transactions that grow the store are refused.
    pub low_disk: u64,
    /// How long a reader may wait for its turn.
    pub read_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            queue: 1024,
            batch: 512,
            readers: 2,
            low_disk: 64 << 20,
            read_deadline: Duration::from_secs(10),
        }
    }
}

/// An open store: its one writer and its readers.
#[derive(Debug)]
pub struct Store<T> {
    /// Queues transactions for the one writer thread.
    pub writer: Writer<T>,
    /// Reads the last committed state.
    pub reader: Reader,
    /// Where it is; `None` for an engine that is on no disk of this host.
    pub room: Option<Room>,
    /// Names this log: a cursor taken from one log means nothing in another.
    pub log_id: Arc<str>,
}

impl<T: Receipt> Store<T> {
    /// Opens `backend` and starts its writer, which calls `committed` on its own thread after each commit.
    pub fn open(
        backend: Arc<dyn Backend>,
        options: &Options,
        committed: impl FnMut(Committed<T>) + Send + 'static,
    ) -> Result<Self, Error> {
        let write = backend.open_write()?;
        Store::with(backend, write, options, committed)
    }

    /// The same with a writer that is open already.
    pub fn with(
        backend: Arc<dyn Backend>,
        write: Box<dyn Write>,
        options: &Options,
        committed: impl FnMut(Committed<T>) + Send + 'static,
    ) -> Result<Self, Error> {
        let log_id: Arc<str> = write.log_id().into();
        let reader = Reader::new(backend.clone(), options);
        let room = Room::of(&backend, options.low_disk);
        let writer = Writer::spawn(backend, write, options, room.clone(), committed)?;
        Ok(Store {
            writer,
            reader,
            room,
            log_id,
        })
    }
}
