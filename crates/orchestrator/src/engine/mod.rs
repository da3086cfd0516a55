//! Owns the state. A caller's change is decided under one lock, queued for the log in the same order, and answered once
//! it is on disk; then its effects run, in the order of the log.
//!
//! ```text
//!   write(f) ──lock──▶ domain decides ──facts──▶ writer thread ──group commit──▶ publish.rs
//!       ▲                                                                          │ ring (events), streams, agents,
//!       └───────────────────────────── answer ◀────────────────────────────────────┘ dispatch of turns
//! ```
//!
//! A reader sees the decided state, and waits for the disk where what it saw is not yet there ([`Engine::settled`]).
//! When a group fails (disk full), the state is reloaded from disk and everything built on the group is refused.

mod agent_messages;
mod agents;
pub(crate) mod cache;
pub mod containers;
mod dispatch;
mod find;
mod group;
mod housekeeping;
mod life;
mod links;
mod listing;
mod messages;
mod once;
mod publish;
mod reads;
mod rebuild;
mod ring;
mod streams;
mod tasks;
mod timers;
mod traces;
mod wake;
mod watchers;
mod wire;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nexus_daemon::Stop;
use nexus_store::{Backend, Room, Store, Transaction, Writer};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

pub use links::Link;
pub use listing::Listing;
pub(crate) use messages::Submitted;
pub use once::Once;
pub use reads::Wanted;
pub use ring::Subscription;
pub use streams::{Joined, Opened, Pull, StreamId};
pub use watchers::Watcher;

use crate::domain::ids::Ids;
use crate::domain::{Effect, Error, Fact, Rules, State, Step, Time};
use crate::store::{self, Answer, Changes, Stored};
use cache::Cache;
use group::EventSession;
use links::Links;
use publish::{Draft, Pending};
use ring::Ring;
use streams::Streams;
use traces::Traces;
use watchers::Watchers;

/// Deleted sessions whose files may wait to be removed.
const DELETED: usize = 10_000;

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
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    core: Mutex<Core>,
    /// Taken at the stop, so that the writer can end.
    writer: Mutex<Option<Writer<Pending>>>,
    stored: Stored,
    log_id: Arc<str>,
    options: Options,
    /// Number of the newest transaction on disk.
    committed: watch::Sender<u64>,
    ring: Ring,
    /// Sessions whose first turn wants an assistant; a set, so that it is bounded by the sessions there are.
    dispatch: Mutex<BTreeSet<u64>>,
    dispatch_more: Notify,
    timer_moved: Notify,
    /// What the timer task sleeps until; a change that needs it earlier wakes it.
    timer_armed: AtomicI64,
    daemons_moved: Notify,
    containers_moved: Notify,
    /// Deleted sessions whose files are still there. What does not fit is found by the look of the next start.
    deleted: Mutex<Vec<Arc<str>>>,
    /// Sockets of daemons that answer that they serve.
    answering: Mutex<HashSet<PathBuf>>,
    once: once::Gates,
    room: Option<Room>,
    /// Set once, by the daemon that this engine is a part of.
    wake: std::sync::OnceLock<nexus_daemon::Wake>,
    started: SystemTime,
}

/// What one lock guards.
#[derive(Debug)]
pub(crate) struct Core {
    pub state: State,
    pub cache: Cache,
    ids: Ids,
    last_time: Time,
    /// Number of the newest transaction that was queued.
    tx: u64,
    epoch: u64,
    pub streams: Streams,
    pub links: Links,
    pub watchers: Watchers,
    pub traces: Traces,
}

impl Core {
    /// The wall clock, never falling.
    fn now(&mut self) -> Time {
        self.last_time = self.last_time.max(wall());
        self.last_time
    }
}

/// A change that was decided and queued: its answer, and when it is on disk.
pub(crate) struct Queued<R> {
    pub answer: R,
    done: Option<oneshot::Receiver<Result<(), Error>>>,
}

impl<R> Queued<R> {
    /// Does not wait: for what may happen again after a crash.
    pub fn answer_now(self) -> R {
        self.answer
    }

    /// Waits until it is on disk.
    pub async fn done(self) -> Result<R, Error> {
        match self.done {
            None => Ok(self.answer),
            Some(done) => done
                .await
                .map_err(|_| nexus_store::Error::Closed)?
                .map(|()| self.answer),
        }
    }
}

impl Engine {
    /// Opens the store, loads the state and starts what runs beside the calls.
    pub fn open(backend: Arc<dyn Backend>, options: Options, stop: &Stop) -> Result<Self, nexus_store::Error> {
        let (batches, incoming) = publish::channel();
        let mut write = backend.open_write()?;
        store::prepare(write.as_mut(), backend.open_read()?.as_mut())?;
        let store = Store::with(backend, write, &options.store, batches)?;
        let stored = Stored::new(store.reader);
        let rules = options.rules.clone();
        let (newest, newest_time) = stored.newest()?;
        // The clock may have been set back: times never fall along the log.
        let now = wall().max(newest_time);
        let (state, last_key) = stored.load(rules, now)?;
        let core = Core {
            state,
            cache: Cache::default(),
            ids: Ids::new(last_key, random),
            last_time: now,
            tx: 0,
            epoch: 1,
            streams: Streams::default(),
            links: Links::default(),
            watchers: Watchers::default(),
            traces: Traces::default(),
        };
        let engine = Engine {
            inner: Arc::new(Inner {
                core: Mutex::new(core),
                writer: Mutex::new(Some(store.writer)),
                stored,
                log_id: store.log_id,
                ring: Ring::new(newest, options.ring_events, options.ring_bytes),
                options,
                committed: watch::Sender::new(0),
                dispatch: Mutex::new(BTreeSet::new()),
                dispatch_more: Notify::new(),
                timer_moved: Notify::new(),
                timer_armed: AtomicI64::new(i64::MAX),
                daemons_moved: Notify::new(),
                containers_moved: Notify::new(),
                deleted: Mutex::default(),
                answering: Mutex::default(),
                once: once::Gates::default(),
                room: store.room,
                wake: std::sync::OnceLock::new(),
                started: SystemTime::now(),
            }),
        };
        tokio::spawn(publish::run(engine.clone(), incoming));
        tokio::spawn(dispatch::run(engine.clone(), stop.token()));
        tokio::spawn(timers::run(engine.clone(), stop.token()));
        tokio::spawn(housekeeping::run(engine.clone(), stop.token()));
        Ok(engine)
    }

    /// Decides a change, waits until it is on disk, and gives its answer.
    pub(crate) async fn write<R>(
        &self,
        f: impl FnOnce(&mut State, &mut Step<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.queue(|core, step| f(core.state, step)).await?.done().await
    }

    /// Decides a change and queues it; the caller waits for the disk when it wants to.
    pub(crate) async fn queue<R>(
        &self,
        f: impl FnOnce(&mut CoreParts<'_>, &mut Step<'_>) -> Result<R, Error>,
    ) -> Result<Queued<R>, Error> {
        self.queue_with(f, |_| None).await
    }

    /// As [`Engine::queue`], with one more change on disk that is made of the answer.
    pub(crate) async fn queue_with<R>(
        &self,
        f: impl FnOnce(&mut CoreParts<'_>, &mut Step<'_>) -> Result<R, Error>,
        beside: impl FnOnce(&R) -> Option<Answer>,
    ) -> Result<Queued<R>, Error> {
        let writer = self.inner.writer.lock().clone().ok_or(nexus_store::Error::Closed)?;
        let permit = writer.reserve().await?;
        let mut core = self.inner.core.lock();
        let now = core.now();
        let core = &mut *core;
        let mut step = Step::new(now, &mut core.ids);
        let mut parts = CoreParts {
            state: &mut core.state,
            cache: &mut core.cache,
            streams: &mut core.streams,
            links: &mut core.links,
            traces: &mut core.traces,
            epoch: core.epoch,
        };
        let answer = f(&mut parts, &mut step)?;
        let Step {
            facts, effects, grows, ..
        } = step;
        let mut changes = Changes::with_capacity(facts.len());
        for fact in &facts {
            changes.fact(fact, &core.state, now);
        }
        if let Some(answer) = beside(&answer) {
            changes.keep(&answer);
        }
        // What follows from changes that are not on disk yet waits for them, even if it changes nothing itself.
        let follows = !effects.is_empty() && *self.inner.committed.borrow() < core.tx;
        if changes.is_empty() && !follows {
            self.run_effects(core, effects);
            self.timer_may_have_moved(core);
            return Ok(Queued { answer, done: None });
        }
        core.tx += 1;
        let drafts = facts
            .into_iter()
            .filter_map(|fact| self.draft(core, now, fact))
            .collect();
        let (tell, done) = oneshot::channel();
        let receipt = Pending {
            tx: core.tx,
            epoch: core.epoch,
            drafts,
            first: 0,
            effects,
            tell: Some(tell),
        };
        permit.send(Transaction {
            epoch: core.epoch,
            grows: grows && !changes.is_empty(),
            ops: changes.into_ops(),
            receipt,
        });
        self.timer_may_have_moved(core);
        Ok(Queued {
            answer,
            done: Some(done),
        })
    }

    /// What of a fact is an event, with what is needed to show it.
    fn draft(&self, core: &mut Core, time: Time, fact: Fact) -> Option<Draft> {
        core.cache.follow(&fact, &mut core.state, core.tx);
        match fact {
            Fact::Message { session, message, .. } => {
                let found = core.state.sessions.get(session);
                let found = found.expect("a message is decided with its session");
                let of = EventSession {
                    session,
                    creator: found.creator.clone(),
                    metadata: found.metadata.clone(),
                };
                let id = found.id.clone();
                Some(Draft::Message { id, of, message, time })
            }
            Fact::Event { session, event } => {
                let found = core.state.sessions.get(session);
                let (creator, metadata) = found.map_or_else(
                    || ("".into(), Arc::default()),
                    |session| (session.creator.clone(), session.metadata.clone()),
                );
                let of = EventSession {
                    session,
                    creator,
                    metadata,
                };
                let event = Box::new(event);
                Some(Draft::Event { of, event })
            }
            _ => None,
        }
    }

    /// The disk of the store, if it is on one of this host.
    pub fn disk(&self) -> Option<&Room> {
        self.inner.room.as_ref()
    }

    /// Refuses what grows the store while its disk is nearly full. Asked before a change is decided.
    pub(crate) fn room(&self) -> Result<(), Error> {
        match &self.inner.room {
            Some(room) => Ok(room.check()?),
            None => Ok(()),
        }
    }

    /// Waits until transaction `tx` is on disk, or has failed and is undone.
    pub(crate) async fn settled(&self, tx: u64) -> Result<(), Error> {
        if *self.inner.committed.borrow() >= tx {
            return Ok(());
        }
        let mut committed = self.inner.committed.subscribe();
        let settled = tokio::time::timeout(
            self.inner.options.store.read_deadline,
            committed.wait_for(|at| *at >= tx),
        );
        settled
            .await
            .map_err(|_| nexus_store::Error::Busy)?
            .map_err(|_| nexus_store::Error::Closed)?;
        Ok(())
    }

    /// Waits until what was seen in this epoch, at this transaction, is on disk; false if it was undone.
    pub(crate) async fn came_to_be(&self, (epoch, tx): (u64, u64)) -> Result<bool, Error> {
        if *self.inner.committed.borrow() >= tx {
            return Ok(true);
        }
        self.settled(tx).await?;
        Ok(self.look(|core| core.epoch == epoch))
    }

    /// Looks at the state.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&Core) -> R) -> R {
        f(&self.inner.core.lock())
    }

    pub(crate) fn look_mut<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        f(&mut self.inner.core.lock())
    }

    pub fn log_id(&self) -> &str {
        &self.inner.log_id
    }

    pub fn started(&self) -> SystemTime {
        self.inner.started
    }

    pub fn max_message_bytes(&self) -> usize {
        self.inner.options.max_message_bytes
    }

    /// Waits until the set of registered daemons may have changed.
    pub fn daemons_moved(&self) -> impl Future<Output = ()> + use<'_> {
        self.inner.daemons_moved.notified()
    }

    /// Ends the writer, after everything queued is on disk. False if the budget ran out.
    pub async fn close(&self, budget: Duration) -> bool {
        let writer = self.inner.writer.lock().take();
        match writer {
            Some(writer) => writer.closed(budget).await,
            None => true,
        }
    }

    fn timer_may_have_moved(&self, core: &Core) {
        if core
            .state
            .timers
            .next()
            .is_some_and(|at| at < self.inner.timer_armed.load(Ordering::Relaxed))
        {
            self.inner.timer_moved.notify_one();
        }
    }

    /// The files of a deleted session are to go.
    fn session_gone(&self, id: Arc<str>) {
        let mut deleted = self.inner.deleted.lock();
        if deleted.len() < DELETED {
            deleted.push(id);
        }
        drop(deleted);
        self.inner.containers_moved.notify_one();
    }

    /// Sessions that were deleted since this was asked the last time.
    pub(crate) fn take_deleted(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut *self.inner.deleted.lock())
    }

    fn dispatch_later(&self, session: u64) {
        self.inner.dispatch.lock().insert(session);
        self.inner.dispatch_more.notify_one();
    }
}

/// What a change may touch: the state, and the streams that a decision has to be seen together with.
pub(crate) struct CoreParts<'a> {
    pub state: &'a mut State,
    pub cache: &'a mut Cache,
    pub streams: &'a mut Streams,
    pub links: &'a mut Links,
    pub traces: &'a mut Traces,
    /// Rises when the state is reloaded from disk: results looked up before may no longer hold.
    pub epoch: u64,
}

/// Registered services and their sockets, newest first for each service.
pub type Daemons = HashMap<String, Vec<PathBuf>>;

fn wall() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Asks the kernel for many at once: a system call for each id would be a good part of storing a message.
fn random() -> u64 {
    const MANY: usize = 64;
    thread_local! {
        static LEFT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }
    LEFT.with_borrow_mut(|left| {
        if left.is_empty() {
            let mut bytes = [0; 8 * MANY];
            getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
            left.extend(bytes.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes)));
        }
        left.pop().expect("it was just filled")
    })
}

/// Effects that touch nothing but the core, told apart so that the order of the log is the order of their run.
impl Engine {
    pub(crate) fn run_effects(&self, core: &mut Core, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Stored { session, n } => {
                    core.cache.stored(session, n);
                    core.streams.wake(session);
                }
                Effect::Dispatch { session } => self.dispatch_later(session),
                Effect::Offer {
                    session,
                    n,
                    agent,
                    request,
                } => self.offer(core, session, n, agent, *request),
                Effect::TurnEnded { session, n, error } => core.turn_ended(session, n, error),
                Effect::SessionGone { id } => self.session_gone(id),
                Effect::Close { session, id } => core.close_streams(session, &id),
                Effect::Deliver { agent, message, mail } => self.deliver(core, agent, *message, mail),
                Effect::Task { task, note } => core.tell_task(task, &note),
                Effect::Containers => self.inner.containers_moved.notify_one(),
                Effect::Daemons => self.inner.daemons_moved.notify_waiters(),
                Effect::Unlink { agent } => drop(core.links.end(agent, Error::AgentNotFound)),
            }
        }
    }
}
