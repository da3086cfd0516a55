//! A reading connection: it sees the last committed state and never waits for the writer.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use crate::{Error, Head, Read, Row, Stamp, Table};

use super::Sqlite;

/// A reader's own pages. Few: the kernel has them too, and a daemon that once looked at a big store should stay small.
const CACHE_KIB: i64 = 256;

pub(super) struct SqliteRead {
    backend: Sqlite,
    connection: Connection,
}

impl SqliteRead {
    pub(super) fn open(backend: Sqlite) -> Result<Self, Error> {
        let connection = backend.connect(false)?;
        let fail = |e| backend.fail("open the store", e);
        connection.pragma_update(None, "query_only", true).map_err(fail)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(fail)?;
        Ok(SqliteRead { backend, connection })
    }

    fn fail(&self, error: rusqlite::Error) -> Error {
        self.backend.fail("read", error)
    }
}

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        seq: r.get::<_, i64>(0)? as u64,
        stream: r.get::<_, i64>(1)? as u64,
        n: r.get::<_, Option<i64>>(2)?.map(|n| n as u64),
        time: r.get(3)?,
        kind: r.get(4)?,
        body: Bytes::from(r.get::<_, Vec<u8>>(5)?),
    })
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Read for SqliteRead {
    fn log(&mut self, after: u64, limit: usize, max_bytes: usize) -> Result<Vec<Row>, Error> {
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT seq, stream, n, time, kind, body FROM log WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            )?;
            let mut found = Vec::new();
            let mut bytes = 0;
            for next in statement.query_map(params![signed(after), limit as i64], row)? {
                let next = next?;
                bytes += next.body.len();
                found.push(next);
                if bytes >= max_bytes {
                    break;
                }
            }
            Ok(found)
        };
        read().map_err(|e| self.fail(e))
    }

    fn stream(&mut self, stream: u64, after: u64, before: u64, limit: usize, newest: bool) -> Result<Vec<Row>, Error> {
        let read = || {
            let sql = if newest {
                "SELECT seq, stream, n, time, kind, body FROM log WHERE stream = ?1 AND n > ?2 AND n < ?3 ORDER BY n DESC LIMIT ?4"
            } else {
                "SELECT seq, stream, n, time, kind, body FROM log WHERE stream = ?1 AND n > ?2 AND n < ?3 ORDER BY n LIMIT ?4"
            };
            let mut statement = self.connection.prepare_cached(sql)?;
            let bounds = params![
                stream as i64,
                signed(after),
                signed(before),
                limit.min(i64::MAX as usize) as i64
            ];
            let mut found = statement
                .query_map(bounds, row)?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            if newest {
                found.reverse();
            }
            Ok(found)
        };
        read().map_err(|e| self.fail(e))
    }

    fn heads(&mut self, streams: &[u64]) -> Result<Vec<Option<Head>>, Error> {
        let read = || {
            let sql = "SELECT n, time FROM log WHERE stream = ?1 AND n IS NOT NULL ORDER BY n DESC LIMIT 1";
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut head = |stream: &u64| {
                let found = statement.query_row([*stream as i64], |r| {
                    Ok(Head {
                        n: r.get::<_, i64>(0)? as u64,
                        time: r.get(1)?,
                    })
                });
                found.optional()
            };
            streams.iter().map(&mut head).collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|e| self.fail(e))
    }

    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let read = || {
            let sql = "SELECT value FROM document WHERE collection = ?1 AND key = ?2";
            let mut statement = self.connection.prepare_cached(sql)?;
            statement
                .query_row(params![table.0, key], |r| r.get::<_, Vec<u8>>(0))
                .optional()
        };
        read().map(|value| value.map(Bytes::from)).map_err(|e| self.fail(e))
    }

    fn scan(&mut self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let read = || {
            let sql = "SELECT key, value FROM document WHERE collection = ?1 AND key >= ?2 AND key < ?3
                       ORDER BY key LIMIT ?4";
            let mut statement = self.connection.prepare_cached(sql)?;
            let pairs = statement.query_map(params![table.0, from, to, limit.min(i64::MAX as usize) as i64], |r| {
                Ok((
                    Bytes::from(r.get::<_, Vec<u8>>(0)?),
                    Bytes::from(r.get::<_, Vec<u8>>(1)?),
                ))
            })?;
            pairs.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|e| self.fail(e))
    }

    fn last(&mut self, table: Table) -> Result<Option<Bytes>, Error> {
        let sql = "SELECT max(key) FROM document WHERE collection = ?1";
        let last: rusqlite::Result<Option<Vec<u8>>> = self.connection.query_row(sql, [table.0], |r| r.get(0));
        last.map(|key| key.map(Bytes::from)).map_err(|e| self.fail(e))
    }

    fn stamped(&mut self, table: Table) -> Result<Option<Stamp>, Error> {
        let sql = "SELECT stamp FROM stamp WHERE collection = ?1 AND changes = stamped";
        let found = self.connection.query_row(sql, [table.0], |r| r.get(0)).optional();
        found.map_err(|e| self.fail(e))
    }

    fn newest(&mut self) -> Result<u64, Error> {
        let sql = "SELECT max((SELECT coalesce(max(seq), 0) FROM log), (SELECT value FROM mark WHERE name = 'newest'))";
        let newest: rusqlite::Result<i64> = self.connection.query_row(sql, [], |r| r.get(0));
        newest.map(|seq| seq as u64).map_err(|e| self.fail(e))
    }

    fn trimmed(&mut self) -> Result<u64, Error> {
        let sql = "SELECT value FROM mark WHERE name = 'trimmed'";
        let trimmed: rusqlite::Result<i64> = self.connection.query_row(sql, [], |r| r.get(0));
        trimmed.map(|seq| seq as u64).map_err(|e| self.fail(e))
    }

    /// Times never fall along the log, so the place is found by halving.
    fn before(&mut self, time: i64) -> Result<u64, Error> {
        let newest = self.newest()?;
        let read = || {
            let sql = "SELECT seq, time FROM log WHERE seq >= ?1 ORDER BY seq LIMIT 1";
            let mut statement = self.connection.prepare_cached(sql)?;
            let (mut low, mut high) = (0, newest);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                let found: Option<(i64, i64)> = statement
                    .query_row([signed(middle)], |r| Ok((r.get(0)?, r.get(1)?)))
                    .optional()?;
                match found {
                    Some((_, at)) if at < time => low = middle,
                    _ => high = middle - 1,
                }
            }
            Ok(low)
        };
        read().map_err(|e| self.fail(e))
    }

    fn size(&mut self) -> Result<u64, Error> {
        let sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        let size: rusqlite::Result<i64> = self.connection.query_row(sql, [], |r| r.get(0));
        size.map(|bytes| bytes as u64).map_err(|e| self.fail(e))
    }

    fn verify(&mut self) -> Result<(), Error> {
        let found: rusqlite::Result<String> = self.connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0));
        match found.map_err(|e| self.fail(e))?.as_str() {
            "ok" => Ok(()),
            detail => Err(Error::Damaged {
                path: self.backend.path.clone(),
                detail: detail.into(),
            }),
        }
    }
}
