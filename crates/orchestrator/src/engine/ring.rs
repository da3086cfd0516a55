//! The newest events in memory, encoded once, and readers that each hold only a cursor.
//!
//! A reader takes what is after its cursor from the ring; one that fell behind the ring reads the log until it has
//! caught up. So no event is copied for a reader, no reader has a queue that could overflow, and a slow one costs
//! nothing to the others. What the log no longer has is told as a gap.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use nexus_proto::orchestrator::v1::{Event, Message};
use nexus_store::Row;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;

use super::Engine;
use super::publish::{gap, publish};
use crate::domain::filter::Wanted;
use crate::domain::{Error, Time, event};
use crate::store;

/// Rows and bytes read from the log at once by a reader that is behind.
const ROWS: usize = 512;
const ROW_BYTES: usize = 1 << 20;

/// An event in the form that readers get.
#[derive(Debug)]
pub struct Published {
    pub seq: u64,
    /// Whose session it is of; empty for none.
    pub creator: Arc<str>,
    pub event: Event,
    pub wire: Bytes,
}

#[derive(Debug)]
pub(super) struct Ring {
    inner: Mutex<Inner>,
    more: Notify,
    max_events: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Inner {
    events: VecDeque<Arc<Published>>,
    bytes: usize,
    /// The newest sequence that was published or is known to be on disk.
    newest: u64,
    /// Everything after this is in `events`.
    floor: u64,
}

impl Ring {
    pub fn new(newest: u64, max_events: usize, max_bytes: usize) -> Self {
        let inner = Inner { events: VecDeque::new(), bytes: 0, newest, floor: newest };
        Ring { inner: Mutex::new(inner), more: Notify::new(), max_events, max_bytes }
    }

    pub fn extend(&self, events: impl Iterator<Item = Arc<Published>>) {
        let mut inner = self.inner.lock();
        let before = inner.newest;
        for event in events {
            inner.newest = event.seq;
            if event.event.name == event::SESSION_DELETED {
                inner.erase(event.event.data.get("session_id").map_or("", String::as_str));
            }
            inner.bytes += event.wire.len();
            inner.events.push_back(event);
        }
        while inner.events.len() > self.max_events || inner.bytes > self.max_bytes {
            let Some(oldest) = inner.events.pop_front() else { break };
            inner.bytes -= oldest.wire.len();
            inner.floor = oldest.seq;
        }
        if inner.newest > before {
            self.more.notify_waiters();
        }
    }

    pub fn newest(&self) -> u64 {
        self.inner.lock().newest
    }

    /// Events after `cursor` and the new cursor; `None` if they are no longer all here.
    fn after(&self, cursor: u64, most: usize) -> Option<Vec<Arc<Published>>> {
        let inner = self.inner.lock();
        if cursor < inner.floor {
            return None;
        }
        let start = inner.events.partition_point(|event| event.seq <= cursor);
        Some(inner.events.range(start..).take(most).cloned().collect())
    }
}

impl Inner {
    /// A session that is deleted leaves nothing in memory either. Holes in the sequence mean nothing to readers.
    fn erase(&mut self, session_id: &str) {
        let of = |event: &Event| event.metadata.as_ref().is_some_and(|about| about.session_id == session_id);
        let bytes = &mut self.bytes;
        self.events.retain(|held| {
            let kept = session_id.is_empty() || !of(&held.event);
            if !kept {
                *bytes -= held.wire.len();
            }
            kept
        });
    }
}

/// One reader of events.
#[derive(Debug)]
pub struct Subscription {
    engine: Engine,
    cursor: u64,
    wanted: Wanted,
    /// `Some` for a caller that sees only what is of its own sessions.
    only: Option<Arc<str>>,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Engine {
    /// Opens a reader: after a cursor, from a time on, or from now on.
    pub async fn subscribe(
        &self,
        wanted: Wanted,
        after: Option<u64>,
        log_id: Option<&str>,
        only: Option<Arc<str>>,
    ) -> Result<Subscription, Error> {
        let newest = self.inner.ring.newest();
        if let Some(theirs) = log_id.filter(|theirs| *theirs != self.log_id()) {
            let ours = self.log_id();
            return Err(Error::OutOfRange(format!("the cursor is of log {theirs}, and this is log {ours}")));
        }
        if let Some(after) = after.filter(|after| *after > newest) {
            return Err(Error::OutOfRange(format!("after_sequence {after} is beyond the newest event, {newest}")));
        }
        let mut ready = VecDeque::new();
        let cursor = match (after, wanted.start) {
            (Some(after), _) => after,
            (None, Some(start)) => self.inner.reader.before(start).await?,
            (None, None) => newest,
        };
        let trimmed = self.inner.reader.trimmed().await?;
        let cursor = if cursor < trimmed && cursor < newest {
            ready.push_back(gap(cursor + 1, trimmed));
            trimmed
        } else {
            cursor
        };
        Ok(Subscription { engine: self.clone(), cursor, wanted, only, ready, ended: false })
    }
}

impl Subscription {
    /// The next event, encoded; `None` once the filter's end time has passed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            let engine = self.engine.clone();
            let more = engine.inner.ring.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            match self.engine.inner.ring.after(self.cursor, ROWS) {
                None => self.read_log().await?,
                Some(events) if events.is_empty() => match self.wanted.end.map(until) {
                    Some(left) if left.is_zero() => self.ended = true,
                    Some(left) => self.ended = tokio::time::timeout(left, more).await.is_err(),
                    None => more.await,
                },
                Some(events) => {
                    for event in &events {
                        self.offer(event);
                    }
                    // Fifty readers share a thread: let the others have what just came, too.
                    tokio::task::consume_budget().await;
                }
            }
        }
    }

    fn offer(&mut self, published: &Published) {
        self.cursor = published.seq;
        // Times never fall along the log: what comes after the end is of no interest, however much it is.
        let time = published.event.timestamp.as_ref().map_or(0, event::time);
        self.ended |= self.wanted.end.is_some_and(|end| time > end);
        let visible = self.only.as_ref().is_none_or(|only| *published.creator == **only && !only.is_empty());
        if visible && (self.wanted.everything() || self.wanted.takes(&published.event)) {
            self.ready.push_back(published.wire.clone());
        }
    }

    async fn read_log(&mut self) -> Result<(), Error> {
        let after = self.cursor;
        // Taken before the look at the disk: what comes meanwhile is in neither, and is read the next time.
        let head = self.engine.inner.ring.newest();
        let (rows, trimmed) =
            self.engine.inner.reader.run(move |read| Ok((read.log(after, ROWS, ROW_BYTES)?, read.trimmed()?))).await?;
        if trimmed > self.cursor {
            self.ready.push_back(gap(self.cursor + 1, trimmed));
            self.cursor = trimmed;
        }
        let short = rows.len() < ROWS && rows.iter().map(|row| row.body.len()).sum::<usize>() < ROW_BYTES;
        for row in rows.into_iter().filter(|row| row.seq > trimmed && row.seq <= head) {
            let published = self.engine.republish(row).await?;
            self.offer(&published);
        }
        if short {
            // Nothing more up to the head as it was: what is missing was erased with its session.
            self.cursor = self.cursor.max(head);
        }
        Ok(())
    }
}

impl Engine {
    /// The event that a row of the log is.
    async fn republish(&self, row: Row) -> Result<Published, Error> {
        let damaged = |e: prost::DecodeError| nexus_store::Error::Damaged {
            path: "orchestrator".into(),
            detail: format!("row {}: {e}", row.seq),
        };
        let session = self.session_by_key(row.stream).await?;
        let creator = session.as_ref().map_or_else(|| "".into(), |(_, _, creator)| creator.clone());
        let event = match row.kind {
            store::MESSAGE => {
                let message = Message::decode(row.body.clone()).map_err(damaged)?;
                let (id, metadata, _) = session.unwrap_or_else(|| ("".into(), Arc::default(), "".into()));
                event::of_message(&message, &id, &metadata.labels, row.time)
            }
            _ => Event::decode(row.body.clone()).map_err(damaged)?,
        };
        Ok(publish(row.seq, creator, event))
    }
}

fn until(end: Time) -> std::time::Duration {
    std::time::Duration::from_nanos(u64::try_from(end.saturating_sub(super::wall())).unwrap_or(0))
}
