//! Errors of a store, in terms that name no engine.

use std::path::PathBuf;

/// Why an operation of a store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The disk is full.
    #[error("the disk of {path} is full: make room there")]
    Full {
        /// The store.
        path: PathBuf,
    },
    /// Less is free than is kept back: changes that grow the store are refused.
    #[error("only {free} bytes are free on the disk of {path}, and {needed} are kept back: make room there")]
    LowDisk {
        /// The store.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are kept free.
        needed: u64,
    },
    /// The store does not hold what it should.
    #[error("the store at {path} is damaged: {detail}")]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What is wrong, in words.
        detail: String,
    },
    /// A newer program wrote the store.
    #[error("the store at {path} has schema {found}, and this program knows up to {known}")]
    TooNew {
        /// The store.
        path: PathBuf,
        /// The schema of the store.
        found: u32,
        /// The newest schema that this program knows.
        known: u32,
    },
    /// Another process writes to the store.
    #[error("the store at {path} is in use by another process")]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// An earlier transaction of the same epoch failed, so this one was not tried.
    #[error("an earlier transaction failed, and this one was built on it")]
    Superseded,
    /// Another process has opened the store for writing since.
    #[error("another process has taken over writing to the store")]
    LeaseLost,
    /// A commit may or may not have happened, and the store could not be asked within the deadline.
    #[error("the outcome of a commit is unknown after {waited_s} s: {cause}")]
    Unknown {
        /// For how long the outcome was asked for, in seconds.
        waited_s: u64,
        /// The last failure.
        cause: String,
    },
    /// The store was closed, or its writer thread has ended.
    #[error("the store is closed")]
    Closed,
    /// No reader became free within the deadline.
    #[error("a read waited longer than its deadline")]
    Busy,
    /// The system or the engine refused an operation.
    #[error("failed to {doing} at {path}: {cause}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operation, after "failed to": `open the database`.
        doing: &'static str,
        /// What the system or the engine reported.
        cause: String,
    },
}

impl Error {
    /// True where freeing space on the disk is what helps.
    pub fn is_space(&self) -> bool {
        matches!(self, Error::Full { .. } | Error::LowDisk { .. })
    }
}
