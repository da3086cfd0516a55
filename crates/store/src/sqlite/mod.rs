//! SQLite as the engine: one file in WAL mode, `synchronous = FULL`, held by a lock file while a writer has it open.

pub mod copy;
mod read;
mod schema;
mod wal;
mod write;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{Backend, Error, Read, Write};

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// On the platter: survives a power cut.
    #[default]
    Full,
    /// With the kernel: survives a killed process, not a power cut.
    Process,
}

/// A store in one file. The directory must exist.
#[derive(Clone, Debug)]
pub struct Sqlite {
    path: PathBuf,
    durability: Durability,
}

impl Sqlite {
    /// The store in the file at `path`, which is opened later.
    pub fn new(path: impl Into<PathBuf>, durability: Durability) -> Self {
        Sqlite {
            path: path.into(),
            durability,
        }
    }

    fn connect(&self, write: bool) -> Result<Connection, Error> {
        let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_WRITE;
        if write {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        let connection = Connection::open_with_flags(&self.path, flags).map_err(|e| self.fail("open the store", e))?;
        connection
            .busy_timeout(Duration::from_secs(5))
            .map_err(|e| self.fail("open the store", e))?;
        Ok(connection)
    }

    /// Puts an error of the engine into words that name the file and never the engine's types.
    fn fail(&self, doing: &'static str, error: rusqlite::Error) -> Error {
        let path = self.path.clone();
        let detail = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Error::Full { path },
            // Where SQLite grows or creates one of its other files, a full disk is told as a failure of that.
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if is_full(&path) => Error::Full { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::Damaged { path, detail },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::InUse { path },
            _ => Error::Io {
                path,
                doing,
                cause: detail,
            },
        }
    }
}

/// Whether the disk of this file has no room for what SQLite needs at least.
fn is_full(path: &Path) -> bool {
    const LEAST: u64 = 64 << 10;
    let directory = path.parent().unwrap_or(path);
    crate::disk::free(directory).is_ok_and(|free| free < LEAST)
}

impl Backend for Sqlite {
    fn open_write(&self) -> Result<Box<dyn Write>, Error> {
        Ok(Box::new(write::SqliteWrite::open(self.clone())?))
    }

    fn open_read(&self) -> Result<Box<dyn Read>, Error> {
        Ok(Box::new(read::SqliteRead::open(self.clone())?))
    }

    /// A checkpoint copies at most the whole write-ahead log into the file.
    fn owed(&self) -> u64 {
        let [wal, ..] = copy::companions(&self.path);
        std::fs::metadata(wal).map_or(0, |found| found.len())
    }

    fn directory(&self) -> Option<&Path> {
        self.path.parent()
    }
}
