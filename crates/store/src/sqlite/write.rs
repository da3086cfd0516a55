//! The writing connection. A lock file keeps a second writer out, also of another program version.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, ErrorCode, params};

use crate::{Commit, Error, GroupId, Lease, Op, Outcome, Write};

use super::{Durability, Sqlite, copy, schema, wal};

pub(super) struct SqliteWrite {
    backend: Sqlite,
    connection: Connection,
    /// The newest sequence before the last commit: what tells whether that happened.
    before: u64,
    /// The newest sequence that was given; `None` where the file has to be asked.
    newest: Option<u64>,
    lease: Lease,
    log_id: String,
    /// Held for as long as we may write; the kernel drops it with the process.
    _lock: Flock<File>,
}

impl SqliteWrite {
    pub(super) fn open(backend: Sqlite) -> Result<Self, Error> {
        let lock = lock(&backend)?;
        // Looked at first: SQLite forgets what it cannot read.
        let lost = wal::lost(&backend.path).map_err(|error| Error::Io {
            path: backend.path.clone(),
            doing: "read the write-ahead log",
            cause: error.to_string(),
        })?;
        if let Some(lost) = lost {
            copy::note_loss(&backend.path, &lost)?;
        }
        let mut connection = backend.connect(true)?;
        let fail = |e| backend.fail("prepare the store", e);
        let synchronous = match backend.durability {
            Durability::Full => "FULL",
            Durability::Process => "NORMAL",
        };
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
        connection
            .pragma_update(None, "synchronous", synchronous)
            .map_err(fail)?;
        connection
            .pragma_update(None, "journal_size_limit", 64 << 20)
            .map_err(fail)?;
        // What was erased must not be found in the file, nor an older version of a document: both are overwritten.
        connection.pragma_update(None, "secure_delete", true).map_err(fail)?;
        schema::migrate(&backend, &mut connection)?;
        let lease = take_lease(&connection).map_err(fail)?;
        let (_, before) = held(&connection).map_err(fail)?;
        let log_id = connection
            .query_row("SELECT value FROM mark WHERE name = 'log_id'", [], |r| r.get(0))
            .map_err(fail)?;
        Ok(SqliteWrite {
            backend,
            connection,
            before,
            newest: Some(before),
            lease,
            log_id,
            _lock: lock,
        })
    }

    /// Everything up to the commit itself, which is the one step whose failure leaves open what happened.
    fn apply(&mut self, group: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Result<(), Failed> {
        let transaction = Group::begin(&self.connection)?;
        // Nobody else gives sequences while the lease is ours, so the newest is known after a commit.
        let (held, known) = match self.newest.take() {
            Some(newest) => (holder(&transaction)?, newest),
            None => held(&transaction)?,
        };
        if lease != held {
            return Err(Failed::Lease);
        }
        let mut newest = known;
        self.before = newest;
        {
            let mut append = transaction
                // Columns by name: a newer version may have added some.
                .prepare_cached("INSERT INTO log (seq, stream, n, time, kind, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            for ops in group {
                let mut first = None;
                for op in *ops {
                    match op {
                        Op::Append {
                            stream,
                            n,
                            time,
                            kind,
                            body,
                        } => {
                            newest += 1;
                            first.get_or_insert(newest);
                            append.execute(params![
                                newest as i64,
                                *stream as i64,
                                n.map(|n| n as i64),
                                time,
                                kind,
                                &body[..]
                            ])?;
                        }
                        Op::Put { table, key, value } => {
                            let sql = "INSERT INTO document (collection, key, value) VALUES (?1, ?2, ?3)
                                       ON CONFLICT DO UPDATE SET value = excluded.value";
                            transaction
                                .prepare_cached(sql)?
                                .execute(params![table.0, &key[..], &value[..]])?;
                        }
                        Op::Delete { table, key } => {
                            let sql = "DELETE FROM document WHERE collection = ?1 AND key = ?2";
                            transaction.prepare_cached(sql)?.execute(params![table.0, &key[..]])?;
                        }
                        Op::DeleteRange { table, from, to } => {
                            let sql = "DELETE FROM document WHERE collection = ?1 AND key >= ?2 AND key < ?3";
                            transaction
                                .prepare_cached(sql)?
                                .execute(params![table.0, &from[..], &to[..]])?;
                        }
                        Op::Erase { stream } => {
                            transaction.execute("DELETE FROM log WHERE stream = ?1", [*stream as i64])?;
                            mark_newest(&transaction, newest)?;
                        }
                        Op::Stamp { table, stamp } => {
                            let sql = "INSERT INTO stamp (collection, changes, stamped, stamp) VALUES (?1, 0, 0, ?2)
                                       ON CONFLICT DO UPDATE SET stamped = changes, stamp = excluded.stamp";
                            transaction.prepare_cached(sql)?.execute(params![table.0, stamp])?;
                        }
                        Op::Trim { through } => {
                            transaction.execute("DELETE FROM log WHERE n IS NULL AND seq <= ?1", [*through as i64])?;
                            transaction.execute(
                                "UPDATE mark SET value = max(value, ?1) WHERE name = 'trimmed'",
                                [*through as i64],
                            )?;
                            mark_newest(&transaction, newest)?;
                        }
                    }
                }
                seqs.push(first.unwrap_or(newest));
            }
        }
        transaction.commit().map_err(Failed::Commit)?;
        self.newest = Some(newest);
        Ok(())
    }

    /// The same sequences again, for a group that is known to be there.
    fn given(&self, group: &[&[Op]], seqs: &mut Vec<u64>) {
        let mut newest = self.before;
        for ops in group {
            let rows = ops.iter().filter(|op| matches!(op, Op::Append { .. })).count() as u64;
            seqs.push(if rows > 0 { newest + 1 } else { newest });
            newest += rows;
        }
    }

    /// Erased rows still stand in the write-ahead log; emptying it is what makes them gone. A reader in the way only
    /// delays that to the next time, so its refusal is no failure of the commit.
    fn forget_erased(&self) {
        let emptied = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0));
        if !matches!(emptied, Ok(0)) {
            tracing::debug!("erased rows stay in the write-ahead log until its next checkpoint");
        }
    }
}

impl Write for SqliteWrite {
    fn log_id(&self) -> String {
        self.log_id.clone()
    }

    fn lease(&self) -> Lease {
        self.lease
    }

    fn commit(&mut self, _: GroupId, group: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Commit {
        let given = seqs.len();
        match self.apply(group, lease, seqs) {
            Ok(()) => {}
            Err(failed) => {
                seqs.truncate(given);
                return match failed {
                    Failed::Lease => Commit::Refused(Error::LeaseLost),
                    Failed::Before(error) => Commit::Refused(self.backend.fail("commit", error)),
                    Failed::Commit(error) if is_certain(&error) => Commit::Refused(self.backend.fail("commit", error)),
                    Failed::Commit(error) => Commit::Unknown(self.backend.fail("commit", error)),
                };
            }
        }
        if group
            .iter()
            .any(|ops| ops.iter().any(|op| matches!(op, Op::Erase { .. })))
        {
            self.forget_erased();
        }
        Commit::Done
    }

    /// There is one writer, so a higher sequence is this group's. A group without rows is the same however often it is
    /// applied, so it may count as one that never happened.
    fn outcome(&mut self, _: GroupId, group: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Outcome {
        match held(&self.connection) {
            Err(_) => Outcome::Unknown,
            Ok((_, newest)) if newest > self.before => {
                self.given(group, seqs);
                Outcome::Done
            }
            Ok((held, _)) if held != lease => Outcome::Refused(Error::LeaseLost),
            Ok(_) => Outcome::Never,
        }
    }

    fn close(&mut self) -> Result<(), Error> {
        let fail = |e| self.backend.fail("close the store", e);
        self.connection.execute_batch("PRAGMA optimize").map_err(fail)?;
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|e| self.backend.fail("close the store", e))
    }
}

/// A transaction whose first and last statements are compiled once, not for each group. Dropped, it is rolled back.
struct Group<'c> {
    connection: &'c Connection,
}

impl<'c> Group<'c> {
    fn begin(connection: &'c Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Group { connection })
    }

    fn commit(self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([]).map(|_| ())
    }
}

impl std::ops::Deref for Group<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a group could not be rolled back");
        }
    }
}

/// Where a group failed.
enum Failed {
    Lease,
    /// Nothing was committed.
    Before(rusqlite::Error),
    /// The commit itself failed.
    Commit(rusqlite::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Failed::Before(error)
    }
}

/// Failures of a commit after which SQLite has rolled it back: nothing of it stands in the file.
fn is_certain(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::ConstraintViolation
        )
    )
}

/// Takes the lease: whoever held it before is refused from now on.
fn take_lease(connection: &Connection) -> rusqlite::Result<Lease> {
    let sql = "INSERT INTO mark VALUES ('lease', 1) ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value";
    connection
        .query_row(sql, [], |r| r.get::<_, i64>(0))
        .map(|lease| Lease(lease as u64))
}

/// The lease that may write.
fn holder(connection: &Connection) -> rusqlite::Result<Lease> {
    let mut statement = connection.prepare_cached("SELECT value FROM mark WHERE name = 'lease'")?;
    statement.query_row([], |r| r.get::<_, i64>(0).map(|lease| Lease(lease as u64)))
}

/// The lease that may write, and the highest sequence ever given, which may be of a row that was erased since.
fn held(connection: &Connection) -> rusqlite::Result<(Lease, u64)> {
    let sql = "SELECT (SELECT value FROM mark WHERE name = 'lease'),
                      max((SELECT coalesce(max(seq), 0) FROM log), (SELECT value FROM mark WHERE name = 'newest'))";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([], |r| {
        Ok((Lease(r.get::<_, i64>(0)? as u64), r.get::<_, i64>(1)? as u64))
    })
}

/// Keeps the sequence rising where the newest rows are about to go.
fn mark_newest(connection: &Connection, newest: u64) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE mark SET value = max(value, ?1) WHERE name = 'newest'",
        [newest as i64],
    )
}

pub(super) fn lock(backend: &Sqlite) -> Result<Flock<File>, Error> {
    let path = backend.path.with_extension("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| match e.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Full { path: path.clone() },
            _ => Error::Io {
                path: path.clone(),
                doing: "open the lock file",
                cause: e.to_string(),
            },
        })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::InUse {
        path: backend.path.clone(),
    })
}
