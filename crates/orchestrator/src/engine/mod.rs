//! Owns the state. A caller's change is decided under one lock, queued for the log in the same order, and answered once
//! it is on disk; then its effects run, in the order of the log.
//!
//! ```text
//!   write(f) ──▶ ledger.rs: domain decides ──facts──▶ writer thread ──group commit──▶ publish.rs ──▶ ring (events)
//!       ▲                                                                                │ effects
//!       └────────────────────────────────── answer ◀─────────────────────────────────────┴──▶ outlets.rs
//!                                                     streams, agents' streams, watchers, dispatch, daemons, containers
//! ```
//!
//! A reader sees the decided state, and waits for the disk where what it saw is not yet there ([`Engine::settled`]).
//! When a group fails (disk full), the state is reloaded from disk and everything built on the group is refused.
//!
//! The ledger knows the state, the epoch and the order of the log, and no receiver. Each receiver of effects is an outlet:
//! a file with a type of its own that implements [`outlets::Outlet`]. A new subject adds such a file, and one arm for each
//! of its effects in [`outlets::follow`].

mod agent_messages;
mod agents;
mod approvals;
pub(crate) mod cache;
pub mod containers;
mod daemons;
mod dispatch;
mod edits;
mod find;
mod group;
mod housekeeping;
mod ledger;
mod links;
mod listing;
mod messages;
mod named_files;
mod once;
mod outlets;
mod publish;
mod queue;
mod random;
mod reads;
mod rebuild;
mod ring;
mod run_watch;
mod runs;
mod streams;
mod tasks;
mod timers;
pub(crate) mod tool_calls;
mod traces;
mod wake;
mod watchers;
mod wire;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nexus_daemon::{Stop, Wake};
use nexus_store::{Backend, Room, Store, Writer};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use daemons::Daemons;
pub(crate) use ledger::{Ledger, Parts};
pub use links::Link;
pub use listing::Listing;
pub(crate) use messages::Submitted;
pub use once::Once;
pub(crate) use queue::Queued;
pub use reads::Wanted;
pub use ring::Subscription;
pub use run_watch::{RunWatcher, Shown};
pub use streams::{Joined, Opened, Pull, StreamId};
pub use watchers::Watcher;

use crate::domain::{Error, Rules, Time};
use crate::store::{self, Stored};
use publish::Pending;
use ring::Ring;

/// How the engine is run.
#[derive(Clone, Debug)]
pub struct Options {
    pub rules: Rules,
    pub store: nexus_store::Options,
    /// Events and bytes of events kept in memory for readers that are nearly up to date.
    pub ring_events: usize,
    pub ring_bytes: usize,
    /// Events older than this, or beyond this many bytes of log, are trimmed; messages never are. Zero for never.
    pub event_max_age: Duration,
    pub event_max_bytes: u64,
    pub max_message_bytes: usize,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// What all clones of an engine share.
#[derive(Debug)]
pub(crate) struct Shared {
    ledger: Mutex<Ledger>,
    /// Taken at the stop, so that the writer can end.
    writer: Mutex<Option<Writer<Pending>>>,
    stored: Stored,
    log_id: Arc<str>,
    options: Options,
    /// Number of the newest transaction on disk.
    committed: watch::Sender<u64>,
    ring: Ring,
    once: once::Gates,
    room: Option<Room>,
    /// Set once, by the daemon that this engine is a part of.
    wake: OnceLock<Wake>,
    started: SystemTime,
}

impl Engine {
    /// Opens the store, loads the state and starts what runs beside the calls.
    pub fn open(backend: Arc<dyn Backend>, options: Options, stop: &Stop) -> Result<Self, nexus_store::Error> {
        let (batches, incoming) = publish::channel();
        let mut write = backend.open_write()?;
        store::prepare(write.as_mut(), backend.open_read()?.as_mut())?;
        let store = Store::with(backend, write, &options.store, batches)?;
        let stored = Stored::new(store.reader);
        let (newest, newest_time) = stored.newest()?;
        // The clock may have been set back: times never fall along the log.
        let now = wall().max(newest_time);
        let (state, last_key) = stored.load(options.rules.clone(), now)?;
        let engine = Engine {
            shared: Arc::new(Shared {
                ledger: Mutex::new(Ledger::new(state, last_key, now)),
                writer: Mutex::new(Some(store.writer)),
                stored,
                log_id: store.log_id,
                ring: Ring::new(newest, options.ring_events, options.ring_bytes),
                options,
                committed: watch::Sender::new(0),
                once: once::Gates::default(),
                room: store.room,
                wake: OnceLock::new(),
                started: SystemTime::now(),
            }),
        };
        tokio::spawn(publish::run(engine.clone(), incoming, stop.clone()));
        tokio::spawn(dispatch::run(engine.clone(), stop.token()));
        tokio::spawn(timers::run(engine.clone(), stop.token()));
        tokio::spawn(housekeeping::run(engine.clone(), stop.token()));
        Ok(engine)
    }

    /// Looks at the state.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&Ledger) -> R) -> R {
        f(&self.shared.ledger.lock())
    }

    pub(crate) fn look_mut<R>(&self, f: impl FnOnce(&mut Ledger) -> R) -> R {
        f(&mut self.shared.ledger.lock())
    }

    /// The disk of the store, if it is on one of this host.
    pub fn disk(&self) -> Option<&Room> {
        self.shared.room.as_ref()
    }

    /// Refuses what grows the store while its disk is nearly full. Asked before a change is decided.
    pub(crate) fn room(&self) -> Result<(), Error> {
        match &self.shared.room {
            Some(room) => Ok(room.check()?),
            None => Ok(()),
        }
    }

    pub fn log_id(&self) -> &str {
        &self.shared.log_id
    }

    pub fn started(&self) -> SystemTime {
        self.shared.started
    }

    pub fn max_message_bytes(&self) -> usize {
        self.shared.options.max_message_bytes
    }

    /// Ends the writer, after everything queued is on disk. False if the budget ran out.
    pub async fn close(&self, budget: Duration) -> bool {
        let writer = self.shared.writer.lock().take();
        match writer {
            Some(writer) => writer.closed(budget).await,
            None => true,
        }
    }
}

fn wall() -> Time {
    since_epoch(SystemTime::now())
}

/// A time as nanoseconds since the epoch.
pub(crate) fn since_epoch(at: SystemTime) -> Time {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
