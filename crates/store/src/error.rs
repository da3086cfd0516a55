//! What can go wrong with a store, in words that name no engine.

use std::path::PathBuf;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("the disk of {path} is full: make room there")]
    Full { path: PathBuf },
    #[error("only {free} bytes are free on the disk of {path}, and {needed} are kept back: make room there")]
    LowDisk { path: PathBuf, free: u64, needed: u64 },
    #[error("the store at {path} is damaged: {detail}")]
    Damaged { path: PathBuf, detail: String },
    #[error("the store at {path} has schema {found}, and this program knows up to {known}")]
    TooNew { path: PathBuf, found: u32, known: u32 },
    #[error("the store at {path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("an earlier transaction failed, and this one was built on it")]
    Superseded,
    #[error("another process has taken over writing to the store")]
    LeaseLost,
    #[error("what became of a commit could not be found out within {waited_s} s: {cause}")]
    Unknown { waited_s: u64, cause: String },
    #[error("the store is closed")]
    Closed,
    #[error("a read waited longer than its deadline")]
    Busy,
    #[error("failed to {doing} at {path}: {cause}")]
    Io {
        path: PathBuf,
        doing: &'static str,
        cause: String,
    },
}

impl Error {
    /// True where freeing space on the disk is what helps.
    pub fn is_space(&self) -> bool {
        matches!(self, Error::Full { .. } | Error::LowDisk { .. })
    }
}
