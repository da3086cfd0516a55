//! The tables, and the steps that lead to them. A step is never changed once it has shipped; a new one is added.

use rusqlite::Connection;

use crate::Error;

use super::Sqlite;

/// "nexS": so that a file of another program is not taken for ours.
const APPLICATION: i32 = 0x6e65_7853;

/// `log` keeps a message and its event as one row: a second row for each costs a fifth of the throughput.
/// A row without `n` is NULL there, and NULLs never collide in the index, which also finds all rows of a stream.
const STEPS: &[&str] = &["
    CREATE TABLE log (
        seq    INTEGER PRIMARY KEY,
        stream INTEGER NOT NULL,
        n      INTEGER,
        time   INTEGER NOT NULL,
        kind   INTEGER NOT NULL,
        body   BLOB NOT NULL
    );
    CREATE UNIQUE INDEX log_stream ON log (stream, n);
    CREATE TABLE document (
        collection INTEGER NOT NULL,
        key        BLOB NOT NULL,
        value      BLOB NOT NULL,
        PRIMARY KEY (collection, key)
    ) WITHOUT ROWID;
    CREATE TABLE mark (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    INSERT INTO mark VALUES ('log_id', lower(hex(randomblob(16)))), ('trimmed', 0), ('newest', 0);
"];

/// The version of a file's tables, and whether they are ours.
pub(super) fn identify(backend: &Sqlite, connection: &Connection) -> Result<(u32, bool), Error> {
    let fail = |e| backend.fail("read", e);
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |r| r.get(0))
        .map_err(fail)?;
    let application: i32 = connection
        .pragma_query_value(None, "application_id", |r| r.get(0))
        .map_err(fail)?;
    let (ours, known) = (application == APPLICATION, STEPS.len() as u32);
    if ours && found > known {
        return Err(Error::TooNew {
            path: backend.path.clone(),
            found,
            known,
        });
    }
    Ok((found, ours))
}

/// Brings a file to the newest schema, or says why it cannot.
pub(super) fn migrate(backend: &Sqlite, connection: &mut Connection) -> Result<(), Error> {
    let fail = |e| backend.fail("prepare the store", e);
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |r| r.get(0))
        .map_err(fail)?;
    let application: i32 = connection
        .pragma_query_value(None, "application_id", |r| r.get(0))
        .map_err(fail)?;
    let known = STEPS.len() as u32;
    if found > known {
        return Err(Error::TooNew {
            path: backend.path.clone(),
            found,
            known,
        });
    }
    if found > 0 && application != APPLICATION {
        let detail = format!("it belongs to another program (application id {application:#x})");
        return Err(Error::Damaged {
            path: backend.path.clone(),
            detail,
        });
    }
    if found == known {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(fail)?;
    for step in &STEPS[found as usize..] {
        transaction.execute_batch(step).map_err(fail)?;
    }
    transaction
        .pragma_update(None, "application_id", APPLICATION)
        .map_err(fail)?;
    transaction.pragma_update(None, "user_version", known).map_err(fail)?;
    transaction.commit().map_err(fail)
}
