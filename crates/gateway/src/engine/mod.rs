//! Owns the gateway's state and runs what the domain decides: sessions, the log of events, the streams of clients.
//!
//! A change of a session happens under that session's own turn: decide on a copy, write it, then show it. So nobody
//! sees what is not on disk, and a failed write changes nothing.

mod events;
mod once;
mod session_table;
mod sessions;
mod stream;
mod talk;
mod tend;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nexus_daemon::{Health, Stop};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use crate::{
    Config, Error,
    domain::{event::Event, session::Session},
    remote::Orchestrator,
    store::{Change, Store},
};

pub use events::Subscription;
use session_table::SessionTable;
pub use sessions::Sent;
pub use stream::{Chat, ClientFrame, Reply, Request, Wanted};
pub use watch::PART;

/// Events that wait to be written.
const NOTES: usize = 1024;

/// Cheap to clone; all clones are the same gateway.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    orchestrator: Orchestrator,
    book: Mutex<SessionTable>,
    /// Replaced by a reload.
    config: RwLock<Config>,
    health: Health,
    started: Instant,
    started_at: i64,
    streams: Arc<AtomicUsize>,
    /// The next thing to do about time may be sooner than it was.
    sooner: Notify,
    /// Sessions whose making failed half-way: the orchestrator's side must still be closed.
    abandoned: Mutex<Vec<Session>>,
    tend: Notify,
    /// Gone once flushed.
    notes: Mutex<Option<mpsc::Sender<Event>>>,
    /// Ends when every note is written.
    noting: Mutex<Option<JoinHandle<()>>>,
    /// A key of a request holds its stripe while the request runs, so that a repeat waits for the first.
    stripes: [Arc<tokio::sync::Mutex<()>>; once::STRIPES],
}

/// One open stream of a client, counted until it is dropped.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The gateway in numbers.
#[derive(Clone, Debug)]
pub struct Numbers {
    pub sessions: usize,
    pub streams: usize,
    pub started_at: i64,
    pub uptime: Duration,
    /// What does not work as it should, and why.
    pub degraded: Vec<(String, String)>,
}

impl Handle {
    /// Starts the tasks that tend the sessions; they end with `stop`.
    pub fn spawn(
        store: Store,
        sessions: Vec<Session>,
        orchestrator: Orchestrator,
        config: Config,
        health: Health,
        stop: &Stop,
    ) -> Handle {
        let (notes, noted) = mpsc::channel(NOTES);
        let (book, abandoned) = SessionTable::of(sessions);
        let handle = Handle {
            inner: Arc::new(Inner {
                store,
                orchestrator,
                book: Mutex::new(book),
                config: RwLock::new(config),
                health,
                started: Instant::now(),
                started_at: now(),
                streams: Arc::default(),
                sooner: Notify::new(),
                abandoned: Mutex::new(abandoned),
                tend: Notify::new(),
                notes: Mutex::new(Some(notes)),
                noting: Mutex::new(None),
                stripes: std::array::from_fn(|_| Arc::default()),
            }),
        };
        let token = stop.token();
        tokio::spawn(token.clone().run_until_cancelled_owned(handle.clone().keep_time()));
        tokio::spawn(token.clone().run_until_cancelled_owned(handle.clone().keep_house()));
        tokio::spawn(token.run_until_cancelled_owned(handle.clone().watch()));
        let noting = tokio::spawn(handle.clone().keep_notes(noted));
        *handle.inner.noting.lock() = Some(noting);
        handle
    }

    pub fn reload(&self, config: &Config) {
        *self.inner.config.write() = config.clone();
    }

    pub fn numbers(&self) -> Numbers {
        Numbers {
            sessions: self.inner.book.lock().len(),
            streams: self.inner.streams.load(Ordering::Relaxed),
            started_at: self.inner.started_at,
            uptime: self.inner.started.elapsed(),
            degraded: self.inner.health.degraded(),
        }
    }

    /// Everything to the disk; nothing is served after this.
    pub async fn flush(&self, budget: Duration) {
        self.inner.notes.lock().take();
        let noting = self.inner.noting.lock().take();
        if let Some(noting) = noting
            && tokio::time::timeout(budget, noting).await.is_err()
        {
            tracing::warn!("the last events were not written in time");
        }
        self.remember_use().await;
        if !self.inner.store.close(budget).await {
            tracing::warn!("the store was not closed in time");
        }
    }

    fn config(&self) -> Config {
        self.inner.config.read().clone()
    }

    fn count_stream(&self) -> Result<Counted, Error> {
        let most = self.inner.config.read().max_open_streams;
        let counted = Counted(self.inner.streams.clone());
        if counted.0.fetch_add(1, Ordering::Relaxed) >= most {
            return Err(Error::TooManyStreams(most));
        }
        Ok(counted)
    }

    /// Writes an event down soon. Waits only if very many are to be written.
    async fn note(&self, event: Event) {
        let notes = self.inner.notes.lock().clone();
        // After the flush there is no stream left that could tell of anything.
        if let Some(notes) = notes
            && notes.send(event).await.is_err()
        {
            tracing::debug!("an event came after the end of the log");
        }
    }

    async fn keep_notes(self, mut noted: mpsc::Receiver<Event>) {
        let mut batch = Vec::new();
        while noted.recv_many(&mut batch, 256).await > 0 {
            let count = batch.len();
            let change = batch.drain(..).fold(Change::default(), Change::event);
            if let Err(error) = self.inner.store.commit(change, now()).await {
                tracing::error!(%error, count, "failed to write events");
            }
        }
    }
}

/// The wall clock, in nanoseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// 32 lowercase hex digits.
fn new_id() -> Result<String, Error> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
    Ok(hex::encode(bytes))
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
