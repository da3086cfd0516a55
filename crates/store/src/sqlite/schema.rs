//! The tables, and the migrations that lead to them. A migration is never changed once it has shipped; a new one is
//! added.
//!
//! First expand, then contract: a step may add (a column with a default, a table, an index, a trigger), and what an older
//! program writes stays right under it. Only when every program that one could go back to knows the new tables may a
//! later step take the old ones away. So each step says the oldest schema whose programs can still read and write the
//! file after it; that number stands in the file as the mark `oldest`, and a program that knows it opens the file as it
//! is, however new its tables are. One that does not leaves it alone.

use rusqlite::{Connection, OptionalExtension};

use crate::Error;

use super::Sqlite;

/// "nexS": so that a file of another program is not taken for ours.
const APPLICATION: i32 = 0x6e65_7853;

struct Step {
    /// Programs that know at least this schema go on working with the file after the step: for an expanding step the
    /// `oldest` of the one before it, for a contracting one its own number or one between.
    oldest: u32,
    sql: &'static str,
}

/// `log` keeps a message and its event as one row: a second row for each costs a fifth of the throughput.
/// A row without `n` is NULL there, and NULLs never collide in the index, which also finds all rows of a stream.
///
/// `stamp` has a row for each collection that somebody stamped ([`crate::Op::Stamp`]). Triggers count its changes, whatever
/// program makes them: an older one, that knows nothing of stamps, makes them void by what it writes.
const STEPS: &[Step] = &[
    Step {
        oldest: 1,
        sql: "
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
",
    },
    Step {
        oldest: 1,
        sql: "
    CREATE TABLE stamp (
        collection INTEGER PRIMARY KEY,
        changes    INTEGER NOT NULL,
        stamped    INTEGER NOT NULL,
        stamp      INTEGER NOT NULL
    );
    CREATE TRIGGER document_inserted AFTER INSERT ON document BEGIN
        UPDATE stamp SET changes = changes + 1 WHERE collection = NEW.collection;
    END;
    CREATE TRIGGER document_updated AFTER UPDATE ON document BEGIN
        UPDATE stamp SET changes = changes + 1 WHERE collection = NEW.collection;
    END;
    CREATE TRIGGER document_deleted AFTER DELETE ON document BEGIN
        UPDATE stamp SET changes = changes + 1 WHERE collection = OLD.collection;
    END;
",
    },
];

/// The schema that this program knows.
pub(super) const KNOWN: u32 = STEPS.len() as u32;
/// The oldest schema whose programs can work with a file that this one has brought to its own.
pub(super) const OLDEST: u32 = STEPS[STEPS.len() - 1].oldest;

/// What a file says about its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub schema: u32,
    /// Programs that know at least this schema can work with it.
    pub oldest: u32,
    pub ours: bool,
}

/// The version of a file's tables, and whether they are ours.
///
/// # Errors
/// They are ours, and too new for this program.
pub(super) fn identify(backend: &Sqlite, connection: &Connection) -> Result<Found, Error> {
    let found = look(backend, connection)?;
    match found.ours && !can_work(KNOWN, found) {
        true => Err(too_new(backend, found)),
        false => Ok(found),
    }
}

pub(super) fn look(backend: &Sqlite, connection: &Connection) -> Result<Found, Error> {
    let fail = |e| backend.fail("read", e);
    let schema: u32 = connection
        .pragma_query_value(None, "user_version", |r| r.get(0))
        .map_err(fail)?;
    let application: i32 = connection
        .pragma_query_value(None, "application_id", |r| r.get(0))
        .map_err(fail)?;
    let ours = application == APPLICATION;
    let marked = if ours {
        connection
            .query_row("SELECT value FROM mark WHERE name = 'oldest'", [], |r| r.get(0))
            .optional()
            .map_err(fail)?
    } else {
        None
    };
    Ok(Found {
        schema,
        // A file without the mark was never expanded: its tables are those of its number and no other.
        oldest: marked.unwrap_or(schema),
        ours,
    })
}

/// Whether a program that knows this schema can work with a file.
fn can_work(known: u32, found: Found) -> bool {
    found.schema <= known || found.oldest <= known
}

fn too_new(backend: &Sqlite, found: Found) -> Error {
    Error::TooNew {
        path: backend.path.clone(),
        found: found.schema,
        known: KNOWN,
    }
}

/// Brings a file to the newest schema, or says why it cannot. A newer one that we can work with stays as it is.
pub(super) fn migrate(backend: &Sqlite, connection: &mut Connection) -> Result<(), Error> {
    let fail = |e| backend.fail("prepare the store", e);
    let found = look(backend, connection)?;
    if !can_work(KNOWN, found) {
        return Err(too_new(backend, found));
    }
    if found.schema > 0 && !found.ours {
        return Err(Error::Damaged {
            path: backend.path.clone(),
            detail: "it belongs to another program".to_owned(),
        });
    }
    if found.schema >= KNOWN {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(fail)?;
    for step in &STEPS[found.schema as usize..] {
        transaction.execute_batch(step.sql).map_err(fail)?;
    }
    transaction
        .execute(
            "INSERT INTO mark VALUES ('oldest', ?1) ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
            [OLDEST],
        )
        .map_err(fail)?;
    transaction
        .pragma_update(None, "application_id", APPLICATION)
        .map_err(fail)?;
    transaction.pragma_update(None, "user_version", KNOWN).map_err(fail)?;
    transaction.commit().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_claims_programs_that_an_earlier_one_shut_out() {
        for (index, step) in STEPS.iter().enumerate() {
            let own = u32::try_from(index).unwrap() + 1;
            assert!(step.oldest >= 1 && step.oldest <= own, "step {own}");
            assert!(index == 0 || step.oldest >= STEPS[index - 1].oldest, "step {own}");
        }
    }

    #[test]
    fn an_expanded_file_is_worked_with_and_a_contracted_one_is_not() {
        let file = |schema, oldest| Found {
            schema,
            oldest,
            ours: true,
        };
        assert!(can_work(2, file(1, 1)), "older ones are brought up to date");
        assert!(can_work(2, file(3, 2)) && can_work(2, file(3, 1)), "expanded");
        assert!(!can_work(2, file(3, 3)) && !can_work(1, file(3, 2)), "contracted");
    }
}
