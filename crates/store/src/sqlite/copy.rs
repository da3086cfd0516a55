//! Inspects and copies database files from outside, while others write them.
//!
//! It reads and never writes what it is shown: a connection of its own, opened for reading only, leaves even the
//! write-ahead log as it is. The one exception says so: [`renew`].

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::Error;

use super::{Durability, Sqlite, schema};

/// How every database file of this engine begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What is known of a database that was looked over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// The version of its tables.
    pub schema: u32,
    /// A store of this crate, and not some other program's database.
    pub ours: bool,
    /// The newest sequence of its log, if it is ours.
    pub newest: Option<u64>,
    /// Bytes on disk, without what waits in the write-ahead log.
    pub bytes: u64,
}

/// Whether a file is a database of this engine, whoever wrote it.
///
/// # Errors
/// It cannot be read.
pub fn is_database(path: &Path) -> std::io::Result<bool> {
    let mut begin = [0; MAGIC.len()];
    let mut file = File::open(path)?;
    match file.read_exact(&mut begin) {
        Ok(()) => Ok(&begin == MAGIC),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The files that belong to a database: they mean nothing without it.
pub fn companions(database: &Path) -> [PathBuf; 3] {
    let beside = |end: &str| {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    [beside("-wal"), beside("-shm"), beside("-journal")]
}

/// Writes everything that is committed at this moment to a new file. Writers go on meanwhile.
///
/// # Errors
/// The source is damaged or not to be read; the target exists or cannot be written.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let source = Sqlite::new(from, Durability::Full);
    let connection = open(&source)?;
    let Some(target) = to.to_str() else {
        return Err(Error::Io {
            path: to.to_owned(),
            doing: "copy the store",
            cause: "its path is not text".into(),
        });
    };
    // One read transaction: the copy is the state of one moment, and holds nothing that was erased before.
    connection
        .execute("VACUUM INTO ?1", [target])
        .map(drop)
        .map_err(|e| source.fail("copy the store", e))
}

/// Looks at every page and every index.
///
/// # Errors
/// [`Error::Damaged`] with the first thing that is wrong; [`Error::TooNew`] if a newer program wrote it.
pub fn inspect(path: &Path) -> Result<Inspected, Error> {
    let store = Sqlite::new(path, Durability::Full);
    let connection = open(&store)?;
    let fail = |e| store.fail("read", e);
    let said: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |r| r.get(0))
        .map_err(fail)?;
    if said != "ok" {
        return Err(Error::Damaged {
            path: path.to_owned(),
            detail: said,
        });
    }
    let schema::Found { schema, ours, .. } = schema::identify(&store, &connection)?;
    let newest = if ours { newest(&connection).map_err(fail)? } else { None };
    let bytes = std::fs::metadata(path).map(|found| found.len()).unwrap_or_default();
    Ok(Inspected {
        schema,
        ours,
        newest,
        bytes,
    })
}

/// More than this is not kept of what was lost.
const LONGEST_NOTE: usize = 64 << 10;

/// The file beside a store that says what the store has lost. Not in the store: it must be there whatever is left of that.
fn note(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push("-lost");
    PathBuf::from(name)
}

/// Logs what is lost and notes it beside the store, since after an open the store's files do not show it any more.
pub(super) fn note_loss(store: &Path, lost: &str) -> Result<(), Error> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt, time::SystemTime};
    tracing::error!(store = %store.display(), lost, "DATA LOSS: committed changes are gone");
    let path = note(store);
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    if known.contains(lost) || known.len() > LONGEST_NOTE {
        return Ok(());
    }
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let mut options = std::fs::OpenOptions::new();
    let written = options
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{now}: {lost}"));
    written.map_err(|error| Error::Io {
        path,
        doing: "note what is lost",
        cause: error.to_string(),
    })
}

/// What is known to be lost of a store, and when that was noticed; also of one whose files show it and that nobody has
/// opened since.
///
/// # Errors
/// It cannot be read.
pub fn lost(path: &Path) -> Result<Option<String>, Error> {
    notice(&Sqlite::new(path, Durability::Full))?;
    let path = note(path);
    match std::fs::read_to_string(&path) {
        Ok(lost) => Ok(Some(lost.trim_end().replace('\n', "; "))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Io {
            path,
            doing: "read what is lost",
            cause: error.to_string(),
        }),
    }
}

/// Looks for a loss that the files show, before anything opens the store: whatever does forgets it.
fn notice(store: &Sqlite) -> Result<(), Error> {
    let look = || {
        super::wal::lost(&store.path).map_err(|error| Error::Io {
            path: store.path.clone(),
            doing: "read the write-ahead log",
            cause: error.to_string(),
        })
    };
    if look()?.is_none() {
        return Ok(());
    }
    // A log that is being written may show a moment that never was.
    let Ok(_lock) = super::write::lock(store) else {
        return Ok(());
    };
    match look()? {
        Some(lost) => note_loss(&store.path, &lost),
        None => Ok(()),
    }
}

/// Forgets what was noted as lost: its owner knows.
///
/// # Errors
/// The note cannot be removed.
pub fn acknowledge_loss(path: &Path) -> Result<(), Error> {
    let path = note(path);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::Io {
            path,
            doing: "remove",
            cause: error.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Gives the log of a store another name: for one that went back in time, so that nobody goes on reading it where an
/// earlier life of it had come to. False if it is no store of ours.
///
/// # Errors
/// It cannot be written, or is damaged.
pub fn renew(path: &Path) -> Result<bool, Error> {
    let store = Sqlite::new(path, Durability::Full);
    let connection = store.connect(false)?;
    let ours = schema::identify(&store, &connection)?.ours;
    if ours {
        connection
            .execute(
                "UPDATE mark SET value = lower(hex(randomblob(16))) WHERE name = 'log_id'",
                [],
            )
            .map_err(|e| store.fail("rename the log", e))?;
    }
    Ok(ours)
}

/// The tables of a program or of a file: their version, and the oldest version whose programs can work with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// The version of the tables.
    pub schema: u32,
    /// The oldest version whose programs can work with them.
    pub oldest: u32,
}

/// The schema that this program migrates a store to when it opens it for writing.
pub const KNOWN: Tables = Tables {
    schema: schema::KNOWN,
    oldest: schema::OLDEST,
};

/// What a file says of its tables, whether this program can work with them or not; `None` if it is no store of ours.
///
/// # Errors
/// It cannot be read.
pub fn tables(path: &Path) -> Result<Option<Tables>, Error> {
    let store = Sqlite::new(path, Durability::Full);
    let found = schema::look(&store, &open(&store)?)?;
    Ok(found.ours.then_some(Tables {
        schema: found.schema,
        oldest: found.oldest,
    }))
}

fn open(store: &Sqlite) -> Result<Connection, Error> {
    notice(store)?;
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = Connection::open_with_flags(&store.path, flags).map_err(|e| store.fail("open the store", e))?;
    connection
        .busy_timeout(Duration::from_secs(5))
        .map_err(|e| store.fail("open the store", e))?;
    Ok(connection)
}

fn newest(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT max((SELECT coalesce(max(seq), 0) FROM log), (SELECT value FROM mark WHERE name = 'newest'))";
    let newest = connection.query_row(sql, [], |r| r.get::<_, i64>(0)).optional()?;
    Ok(newest.and_then(|seq| u64::try_from(seq).ok()))
}
