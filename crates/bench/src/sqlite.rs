//! The yardstick for storing: bare SQLite, synchronous=FULL, a rowid table with a unique (session, seq), and one thread
//! that commits what has queued up, at most 512 rows at once. No network, no daemon.

use std::{
    collections::HashMap,
    path::Path,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use crate::load::{Seen, nanos};

const BATCH: usize = 512;
const QUEUE: usize = 1024;

struct Row {
    session: i64,
    body: Bytes,
    stored: oneshot::Sender<i64>,
}

/// A store that runs; its thread ends when this is dropped.
pub struct Bare {
    queue: Option<mpsc::Sender<Row>>,
    writer: Option<JoinHandle<rusqlite::Result<()>>>,
}

impl Bare {
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path).context("failed to open the bare store")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(
            "CREATE TABLE message (
                 id INTEGER PRIMARY KEY, session INTEGER NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL,
                 UNIQUE (session, seq))",
        )?;
        let (queue, rows) = mpsc::channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("bare-writer".into())
            .spawn(move || write(connection, rows))?;
        Ok(Bare {
            queue: Some(queue),
            writer: Some(writer),
        })
    }

    /// So many callers, each waiting for its row before it sends the next; caller `i` writes to session `i`, going
    /// round.
    pub async fn run(&self, body: &Bytes, sessions: usize, in_flight: usize, time: Duration) -> Result<Seen> {
        let begin = Instant::now();
        let callers: Vec<_> = (0..in_flight)
            .map(|i| {
                let queue = self.queue.clone().expect("taken only when it is dropped");
                let (session, body) = ((i % sessions) as i64, body.clone());
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    let mut before = Instant::now();
                    while before < begin + time {
                        let (stored, done) = oneshot::channel();
                        let row = Row {
                            session,
                            body: body.clone(),
                            stored,
                        };
                        queue.send(row).await.ok().context("the bare writer ended")?;
                        done.await.context("the bare writer failed")?;
                        let now = Instant::now();
                        latencies.push(nanos(now - before));
                        before = now;
                    }
                    anyhow::Ok(latencies)
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for caller in callers {
            latencies.append(&mut caller.await.context("a caller panicked")??);
        }
        Ok(Seen::new(begin.elapsed(), latencies))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.queue = None;
        // Its error was seen by the callers, whose answers it dropped.
        let _ended = self.writer.take().map(JoinHandle::join);
    }
}

fn write(mut connection: Connection, mut rows: mpsc::Receiver<Row>) -> rusqlite::Result<()> {
    let mut group = Vec::with_capacity(BATCH);
    let mut heads: HashMap<i64, i64> = HashMap::new();
    while rows.blocking_recv_many(&mut group, BATCH) > 0 {
        let transaction = connection.transaction()?;
        let mut stored = Vec::with_capacity(group.len());
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO message (session, seq, body) VALUES (?1, ?2, ?3)")?;
            for row in group.drain(..) {
                let seq = heads.entry(row.session).or_insert(0);
                *seq += 1;
                insert.execute(params![row.session, *seq, &row.body[..]])?;
                stored.push((row.stored, *seq));
            }
        }
        transaction.commit()?;
        for (tell, seq) in stored {
            // A caller that was stopped needs no answer.
            let _gone = tell.send(seq);
        }
    }
    Ok(())
}
