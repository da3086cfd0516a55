//! The interface of a storage engine: rows in a log, documents in tables, one writer, any number of readers.
//!
//! The engine may be a server at the end of a connection. So a commit has three answers: done, refused, or *unknown*, where
//! the connection was lost after the group was sent. An unknown group is asked for by its id, and sent again under the same
//! id if it never arrived; the engine applies a group once, however often it comes. Sequences are given inside the
//! transaction. A lease with a rising number says who may write: a writer whose lease another has taken is refused.

use std::fmt::Debug;
use std::path::Path;

use bytes::Bytes;

use crate::Error;

/// A set of documents by key. The number is its name on disk: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table(pub u16);

/// What a program writes down about a table: see [`Op::Stamp`].
pub type Stamp = u32;

/// Names a group of transactions, so that it can be asked for, and sent again, after its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId(pub u128);

/// The right to write. Its number rises with each writer: one with a lower number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease(pub u64);

/// The answer to a commit.
#[derive(Debug)]
pub enum Commit {
    /// It is durable, and the sequences are given.
    Done,
    /// Nothing of it has happened, and nothing will.
    Refused(Error),
    /// It may have happened, or may still: only [`Write::outcome`] tells.
    Unknown(Error),
}

/// What became of a group whose commit was unknown.
#[derive(Debug)]
pub enum Outcome {
    /// It is durable, and the sequences are given.
    Done,
    /// It did not happen and cannot happen, unless it is sent again.
    Never,
    /// It has not happened, and this writer may not write any more.
    Refused(Error),
    /// This question was not answered either.
    Unknown,
}

/// A row of the log as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Place in the log; rises, never reused, may skip.
    pub seq: u64,
    /// What the row belongs to; 0 for nothing.
    pub stream: u64,
    /// Place in its stream, from 1, dense; `None` for a row that only happened beside it.
    pub n: Option<u64>,
    /// Wall clock, nanoseconds since the epoch, never falling along the log.
    pub time: i64,
    /// What `body` is; the daemon's own numbering.
    pub kind: u16,
    /// The daemon's own encoding; the store does not read it.
    pub body: Bytes,
}

/// The newest numbered row of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number in the stream.
    pub n: u64,
    /// Its time, nanoseconds since the epoch.
    pub time: i64,
}

/// One change. All changes of a transaction happen, or none.
#[derive(Clone, Debug)]
pub enum Op {
    /// Adds a row; its sequence is given by the writer.
    Append {
        /// What the row belongs to; 0 for nothing.
        stream: u64,
        /// Its number in the stream, if it has one.
        n: Option<u64>,
        /// Nanoseconds since the epoch.
        time: i64,
        /// What `body` is; the daemon's own numbering.
        kind: u16,
        /// The daemon's own encoding.
        body: Bytes,
    },
    /// Writes a document, in place of one with the same key.
    Put {
        /// The table.
        table: Table,
        /// The key of the document.
        key: Bytes,
        /// The document.
        value: Bytes,
    },
    /// Removes a document; one that is not there is no error.
    Delete {
        /// The table.
        table: Table,
        /// The key of the document.
        key: Bytes,
    },
    /// Removes the documents with `from <= key < to`.
    DeleteRange {
        /// The table.
        table: Table,
        /// The first key of the range.
        from: Bytes,
        /// The key after the range.
        to: Bytes,
    },
    /// Removes every row of a stream for good: the bytes are overwritten too.
    Erase {
        /// The stream.
        stream: u64,
    },
    /// Notes that documents derived from a table are right as of this transaction. Any later change of the table, by this
    /// program or by one that knows nothing of them, makes the stamp void; so a program that keeps an index stamps the table
    /// in each transaction that changes it, and finds at a start whether another wrote meanwhile.
    Stamp {
        /// The table that the documents are derived from.
        table: Table,
        /// The version of the derived documents.
        stamp: Stamp,
    },
    /// Removes rows up to and including `through` that have no number in a stream, and remembers that it did.
    Trim {
        /// The last sequence that is removed.
        through: u64,
    },
}

impl Op {
    /// Bytes that it adds.
    pub fn bytes(&self) -> usize {
        match self {
            Op::Append { body, .. } => body.len(),
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { .. } | Op::DeleteRange { .. } | Op::Erase { .. } | Op::Stamp { .. } | Op::Trim { .. } => 0,
        }
    }
}

/// An engine, closed or open. Opening twice for writing is refused by the engine.
pub trait Backend: Debug + Send + Sync + 'static {
    /// Opens the one writer and takes the lease; creates the store if it is missing.
    fn open_write(&self) -> Result<Box<dyn Write>, Error>;
    /// Opens one more reader of the last committed state.
    fn open_read(&self) -> Result<Box<dyn Read>, Error>;
    /// The directory whose free space bounds the store; `None` where the engine keeps it elsewhere.
    fn directory(&self) -> Option<&Path>;

    /// Bytes that it may still take on its disk for what is committed already.
    fn owed(&self) -> u64 {
        0
    }
}

/// The one writer.
pub trait Write: Send {
    /// The name of this log; a cursor taken from one log means nothing in another.
    fn log_id(&self) -> String;
    /// The lease that this writer took when it was opened.
    fn lease(&self) -> Lease;
    /// Makes a group of transactions durable, once, however often it is sent under this id. Where it is done, pushes to
    /// `seqs` the sequence of each transaction's first row, or the newest sequence for one without rows.
    fn commit(&mut self, id: GroupId, group: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Commit;
    /// Asks what became of the group that was sent last, with the same arguments.
    fn outcome(&mut self, id: GroupId, group: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Outcome;
    /// Leaves the file tidy; called once, at a stop.
    fn close(&mut self) -> Result<(), Error>;
}

/// Reads of the last committed state.
pub trait Read: Send {
    /// Rows after `after` in log order, at most `limit`, stopping once `max_bytes` of bodies are passed.
    fn log(&mut self, after: u64, limit: usize, max_bytes: usize) -> Result<Vec<Row>, Error>;
    /// Numbered rows of a stream with `after < n < before`, oldest first; with `newest` the last `limit` of them.
    fn stream(&mut self, stream: u64, after: u64, before: u64, limit: usize, newest: bool) -> Result<Vec<Row>, Error>;
    /// The newest numbered row of each stream, in their order; `None` for a stream without one.
    fn heads(&mut self, streams: &[u64]) -> Result<Vec<Option<Head>>, Error>;
    /// One document; `None` if there is none of this key.
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error>;
    /// Documents with `from <= key < to` in key order, at most `limit`.
    fn scan(&mut self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error>;
    /// The highest key of a table.
    fn last(&mut self, table: Table) -> Result<Option<Bytes>, Error>;
    /// The stamp of a table, unless the table was changed since by a transaction that did not stamp it.
    fn stamped(&mut self, table: Table) -> Result<Option<Stamp>, Error>;
    /// The newest sequence, 0 for an empty log.
    fn newest(&mut self) -> Result<u64, Error>;
    /// The last trimmed sequence, 0 if none ever was.
    fn trimmed(&mut self) -> Result<u64, Error>;
    /// The newest sequence whose time is before `time`, 0 if there is none.
    fn before(&mut self, time: i64) -> Result<u64, Error>;
    /// Bytes the store takes on disk.
    fn size(&mut self) -> Result<u64, Error>;
    /// Looks at every page; what is wrong, in words.
    fn verify(&mut self) -> Result<(), Error>;
}
