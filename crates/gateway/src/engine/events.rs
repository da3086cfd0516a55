//! Reads the event log: from a point in time, or as events happen, without a gap between the two.
//!
//! Each reader has its own cursor and reads the log itself, so none can slow another, and one that is slow misses
//! nothing.

use std::time::Duration;

use nexus_daemon::Caller;
use tokio::sync::{mpsc, watch};

use super::{Counted, Handle, now};
use crate::{
    Error,
    domain::{
        self,
        event::{Event, Logged},
        filter::EventFilter,
    },
};

/// Events on their way to one client.
const QUEUE: usize = 64;
/// Events in one read.
const READ: usize = 256;

/// Events for one reader, until it is dropped or its end time has passed.
pub struct Subscription {
    pub events: mpsc::Receiver<Result<Logged, Error>>,
    /// Names the log, for ids that stay the same.
    pub log_id: String,
    pub counted: Counted,
}

struct Reading {
    handle: Handle,
    caller: Caller,
    filter: EventFilter,
    cursor: u64,
    head: watch::Receiver<u64>,
    out: mpsc::Sender<Result<Logged, Error>>,
}

impl Handle {
    pub async fn subscribe(&self, caller: Caller, filter: EventFilter) -> Result<Subscription, Error> {
        if let (Some(start), Some(end)) = (filter.start, filter.end)
            && end < start
        {
            return Err(domain::Error::EndBeforeStart.into());
        }
        // A session that is over can still be read about, but only what was written.
        if let (Some(session), None) = (&filter.session, filter.start) {
            self.get(&caller, session)?;
        }
        let counted = self.count_stream()?;
        let head = self.inner.store.news();
        let newest = self.inner.store.newest();
        let cursor = match filter.start {
            Some(start) => self.inner.store.before(start).await?,
            None => newest,
        };
        let (out, events) = mpsc::channel(QUEUE);
        let reading = Reading {
            handle: self.clone(),
            caller,
            filter,
            cursor,
            head,
            out,
        };
        tokio::spawn(reading.run());
        Ok(Subscription {
            events,
            log_id: self.inner.store.log_id().to_owned(),
            counted,
        })
    }
}

impl Reading {
    async fn run(mut self) {
        let out = self.out.clone();
        let result = tokio::select! {
            result = self.read() => result,
            () = out.closed() => Ok(()),
        };
        if let Err(error) = result {
            // A reader that left does not want to know.
            let _gone = out.send(Err(error)).await;
        }
    }

    /// Returns once the end time has passed.
    async fn read(&mut self) -> Result<(), Error> {
        loop {
            self.head.borrow_and_update();
            let over = self.filter.end.is_some_and(|end| end <= now());
            while self.batch().await? {}
            if over {
                return Ok(());
            }
            let end = self
                .filter
                .end
                .map(|end| Duration::from_nanos(u64::try_from(end - now()).unwrap_or(0)));
            tokio::select! {
                changed = self.head.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(end.unwrap_or_default()), if end.is_some() => {}
            }
        }
    }

    /// True if there may be more.
    async fn batch(&mut self) -> Result<bool, Error> {
        let store = &self.handle.inner.store;
        let trimmed = store.trimmed().await?;
        if trimmed > self.cursor {
            let lost = Event::lost(self.cursor + 1, trimmed);
            self.cursor = trimmed;
            // Nothing older than the reader's own beginning is lost to it.
            if self.filter.start.is_none() {
                self.say(Logged {
                    sequence: trimmed,
                    time: now(),
                    event: lost,
                })
                .await?;
            }
        }
        let events = store.events(self.cursor, READ).await?;
        let more = !events.is_empty();
        for logged in events {
            self.cursor = logged.sequence;
            let in_time = self.filter.end.is_none_or(|end| logged.time <= end)
                && self.filter.start.is_none_or(|start| logged.time >= start);
            if in_time && self.caller.sees(&logged.event.owner) && self.filter.matches(&logged.event) {
                self.say(logged).await?;
            }
        }
        Ok(more)
    }

    async fn say(&self, logged: Logged) -> Result<(), Error> {
        self.out
            .send(Ok(logged))
            .await
            .map_err(|_| Error::Deadline("find the reader"))
    }
}
