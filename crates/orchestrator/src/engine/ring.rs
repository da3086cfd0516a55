//! The newest events in memory, encoded once, and readers that each hold only a cursor.
//!
//! A reader takes what is after its cursor from the ring; one that fell behind the ring reads the log until it has
//! caught up. So no event is copied for a reader, no reader has a queue that could overflow, and a slow one costs
//! nothing to the others. What the log no longer has is told as a gap.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use nexus_daemon::Caller;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Engine;
use super::group::{EventSession, Group, Visibility, Writing, gap};
use crate::domain::filter::Wanted;
use crate::domain::sessions::View;
use crate::domain::{Error, Time};
use crate::store::{Logged, RecordBody};

/// Rows and bytes read from the log at once by a reader that is behind.
const ROWS: usize = 512;
const ROW_BYTES: usize = 1 << 20;
/// Groups that a reader takes from the ring at once.
const GROUPS: usize = 64;

#[derive(Debug)]
pub(super) struct Ring {
    inner: Mutex<Inner>,
    more: Notify,
    max_events: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Inner {
    groups: VecDeque<Arc<Group>>,
    events: usize,
    bytes: usize,
    /// The newest sequence that was published or is known to be on disk.
    newest: u64,
    /// Everything after this is in `groups`.
    floor: u64,
}

impl Ring {
    pub fn new(newest: u64, max_events: usize, max_bytes: usize) -> Self {
        let inner = Inner {
            groups: VecDeque::new(),
            events: 0,
            bytes: 0,
            newest,
            floor: newest,
        };
        Ring {
            inner: Mutex::new(inner),
            more: Notify::new(),
            max_events,
            max_bytes,
        }
    }

    pub fn push(&self, group: Group) {
        if group.events.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        inner.newest = group.last();
        let erased: Vec<u64> = group
            .events
            .iter()
            .map(|event| event.erases)
            .filter(|session| *session > 0)
            .collect();
        inner.add(Arc::new(group));
        for session in erased {
            inner.erase(session);
        }
        while inner.events > self.max_events || inner.bytes > self.max_bytes {
            let Some(oldest) = inner.groups.pop_front() else { break };
            inner.take_off(&oldest);
            inner.floor = oldest.last();
        }
        self.more.notify_waiters();
    }

    pub fn newest(&self) -> u64 {
        self.inner.lock().newest
    }

    /// The groups after `cursor`; `None` if they are no longer all here.
    fn after(&self, cursor: u64) -> Option<Vec<Arc<Group>>> {
        let inner = self.inner.lock();
        if cursor < inner.floor {
            return None;
        }
        let start = inner.groups.partition_point(|group| group.last() <= cursor);
        Some(inner.groups.range(start..).take(GROUPS).cloned().collect())
    }
}

impl Inner {
    fn add(&mut self, group: Arc<Group>) {
        self.events += group.events.len();
        self.bytes += group.bytes();
        self.groups.push_back(group);
    }

    fn take_off(&mut self, group: &Group) {
        self.events -= group.events.len();
        self.bytes -= group.bytes();
    }

    /// A session that is deleted leaves nothing in memory either. Holes in the sequence mean nothing to readers.
    fn erase(&mut self, session: u64) {
        for group in std::mem::take(&mut self.groups) {
            let kept = group.without(session).map(Arc::new);
            self.take_off(&group);
            self.add(kept.unwrap_or(group));
        }
        self.groups.retain(|group| !group.events.is_empty());
    }
}

/// One reader of events.
#[derive(Debug)]
pub struct Subscription {
    engine: Engine,
    cursor: u64,
    visibility: Visibility,
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
        caller: &Caller,
    ) -> Result<Subscription, Error> {
        let only = match View::of(caller, "read events")? {
            View::All => None,
            View::Own(principal) => Some(principal.into()),
        };
        let newest = self.shared.ring.newest();
        if let Some(theirs) = log_id.filter(|theirs| *theirs != self.log_id()) {
            let ours = self.log_id();
            return Err(Error::OutOfRange(format!(
                "the cursor belongs to log {theirs}, and this is log {ours}"
            )));
        }
        if let Some(after) = after.filter(|after| *after > newest) {
            return Err(Error::OutOfRange(format!(
                "after_sequence {after} is beyond the newest event, {newest}"
            )));
        }
        let mut ready = VecDeque::new();
        let cursor = match (after, wanted.start) {
            (Some(after), _) => after,
            (None, Some(start)) => self.shared.stored.before(start).await?,
            (None, None) => newest,
        };
        let trimmed = self.shared.stored.trimmed().await?;
        let cursor = if cursor < trimmed && cursor < newest {
            ready.push_back(gap(cursor + 1, trimmed));
            trimmed
        } else {
            cursor
        };
        Ok(Subscription {
            engine: self.clone(),
            cursor,
            visibility: Visibility::new(wanted, only),
            ready,
            ended: false,
        })
    }
}

impl Subscription {
    /// The next events, encoded and with their gRPC heads; `None` once the filter's end time has passed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            let engine = self.engine.clone();
            let more = engine.shared.ring.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            match self.engine.shared.ring.after(self.cursor) {
                None => self.read_log().await?,
                Some(groups) if groups.is_empty() => match self.visibility.end().map(until) {
                    Some(left) if left.is_zero() => self.ended = true,
                    Some(left) => self.ended = tokio::time::timeout(left, more).await.is_err(),
                    None => more.await,
                },
                Some(groups) => {
                    for group in &groups {
                        self.take(group);
                    }
                    // Fifty readers share a thread: let the others have what just came, too.
                    tokio::task::consume_budget().await;
                }
            }
        }
    }

    fn take(&mut self, group: &Group) {
        self.ended |= !group.show(self.cursor, &self.visibility, &mut self.ready);
        self.cursor = self.cursor.max(group.last());
    }

    async fn read_log(&mut self) -> Result<(), Error> {
        let after = self.cursor;
        // Taken before the look at the disk: what comes meanwhile is in neither, and is read the next time.
        let head = self.engine.shared.ring.newest();
        let (rows, trimmed, short) = self.engine.shared.stored.log(after, ROWS, ROW_BYTES).await?;
        if trimmed > self.cursor {
            self.ready.push_back(gap(self.cursor + 1, trimmed));
            self.cursor = trimmed;
        }
        let mut group = Writing::room_for(rows.len());
        for row in rows.into_iter().filter(|row| row.seq > trimmed && row.seq <= head) {
            self.engine.rewrite(row, &mut group).await?;
        }
        self.take(&group.done());
        if short {
            // Nothing more up to the head as it was: what is missing was erased with its session.
            self.cursor = self.cursor.max(head);
        }
        Ok(())
    }
}

impl Engine {
    /// Writes the event that a row of the log is.
    async fn rewrite(&self, row: Logged, into: &mut Writing) -> Result<(), Error> {
        let session = self.session_by_key(row.session).await?;
        let (id, metadata, creator) = session.unwrap_or_else(|| ("".into(), Arc::default(), "".into()));
        let of = EventSession {
            session: row.session,
            creator,
            metadata,
        };
        match row.what {
            RecordBody::Message(message) => into.message(row.seq, &id, of, &message, row.time),
            RecordBody::Event(event) => into.event(row.seq, of, &event),
        }
        Ok(())
    }
}

fn until(end: Time) -> std::time::Duration {
    std::time::Duration::from_nanos(u64::try_from(end.saturating_sub(super::wall())).unwrap_or(0))
}
