//! Keys that the settings name by reference, resolved in the background and kept in memory.
//!
//! ```text
//! settings, index ──▶ wanted ──▶ pending ──▶ ready ──── refresh, or a change of the index or the file ──▶ again
//!                                   │  ▲
//!                                   ▼  │ soon for what passes (locked, timeout), else late
//!                                 trouble
//! ```
//!
//! Only what the settings name is resolved: the references of `[llm]`, and for a provider without one its account
//! `<provider>/default` and, if a login shell may be asked, its variables. A provider that hangs holds up nobody else.
//! A key that was good stays while its store cannot be asked; it goes once the store says that it is gone.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use nexus_credential::{Account, Error, Kind, Reference, Resolved, Resolver, Stamp};
use nexus_daemon::Credential;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Key, variables};

/// How long a key is cached: stores do not notify of changes.
const REFRESH: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Between two looks at the index while nobody asks for a key.
const LOOK: Duration = Duration::from_secs(5);

/// Cheap to clone; all clones are the same table.
#[derive(Clone)]
pub struct References(Arc<Inner>);

struct Inner {
    resolver: Resolver,
    shell: bool,
    table: Mutex<Table>,
    // Wakes the task that resolves.
    wake: Notify,
    // Counts outcomes; who waits for one reads the table again.
    settled: watch::Sender<u64>,
}

#[derive(Default)]
struct Table {
    /// What the settings say: each provider, and its reference if it has one.
    settings: BTreeMap<String, Option<Reference>>,
    wanted: BTreeMap<String, Slot>,
    index: Option<Stamp>,
    // The index has changed: somebody may want the login shell asked again, too.
    forget: bool,
}

struct Slot {
    sources: Sources,
    // Rises when an older answer is no answer any more.
    round: u64,
    busy: bool,
    due: Instant,
    // Something behind it has changed: the key is not handed out before it was asked for again.
    stale: bool,
    key: Option<Good>,
    trouble: Option<Error>,
    pause: Duration,
}

#[derive(Clone, PartialEq, Eq)]
enum Sources {
    Named(Reference),
    /// The first variable that the login shell has; none is no trouble.
    Shell(Vec<String>),
}

struct Good {
    key: Key,
    file: Option<(PathBuf, Option<Stamp>)>,
    expires: Option<SystemTime>,
}

/// What is known of a provider's key.
#[derive(Debug, Clone)]
pub enum State {
    /// No reference, so no key of ours.
    Unnamed,
    Pending,
    Ready(Key),
    Trouble(Error),
}

type Outcome = (String, u64, Result<Option<Resolved>, Error>);

impl References {
    pub fn new(resolver: Resolver, shell: bool) -> References {
        References(Arc::new(Inner {
            resolver,
            shell,
            table: Mutex::default(),
            wake: Notify::new(),
            settled: watch::Sender::new(0),
        }))
    }

    /// What the settings name from now on: every provider that takes a key, and its reference if it has one.
    pub fn want(&self, settings: BTreeMap<String, Option<Reference>>) {
        let mut table = self.0.table.lock();
        table.settings = settings;
        self.plan(&mut table);
        drop(table);
        self.0.wake.notify_one();
    }

    pub fn state(&self, provider: &str) -> State {
        let table = self.0.table.lock();
        let Some(slot) = table.wanted.get(provider) else {
            return State::Unnamed;
        };
        match (&slot.key, &slot.trouble) {
            _ if slot.stale => State::Pending,
            (Some(good), _) if !good.is_over() => State::Ready(good.key.clone()),
            (_, Some(error)) => State::Trouble(error.clone()),
            (Some(_), None) => State::Pending,
            // Only a shell may have nothing to say without that being an error.
            (None, None) => State::Unnamed,
        }
    }

    /// Whether the settings themselves name its reference, which then stands before every other source.
    pub fn is_named(&self, provider: &str) -> bool {
        let table = self.0.table.lock();
        table.settings.get(provider).is_some_and(Option::is_some)
    }

    /// Waits until what is known of a provider's key is no older than the index and the file behind it.
    pub async fn settle(&self, provider: &str) {
        let mut settled = self.0.settled.subscribe();
        self.look();
        while matches!(self.state(provider), State::Pending) {
            if settled.changed().await.is_err() {
                return;
            }
        }
    }

    /// Every provider whose key cannot be had, and why.
    pub fn troubles(&self) -> Vec<(String, Error)> {
        let table = self.0.table.lock();
        let troubles = table.wanted.iter().filter_map(|(provider, slot)| {
            let error = slot.trouble.clone()?;
            Some((provider.clone(), error))
        });
        troubles.collect()
    }

    /// Until `stop`. `told` hears of every change, to say it in the daemon's health.
    pub async fn keep(self, stop: CancellationToken, told: impl Fn()) {
        told();
        if self.0.shell {
            let names = self
                .0
                .table
                .lock()
                .settings
                .keys()
                .flat_map(|provider| variables(provider))
                .collect::<Vec<_>>();
            self.0.resolver.expect(names).await;
        }
        let mut running: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
        loop {
            self.look();
            let forget = std::mem::take(&mut self.0.table.lock().forget);
            if forget && self.0.shell {
                self.0.resolver.forget();
            }
            let next = self.begin(&mut running);
            let pause = next.saturating_duration_since(Instant::now()).min(LOOK);
            tokio::select! {
                () = stop.cancelled() => return,
                // The settings or the index may name others now.
                () = self.0.wake.notified() => told(),
                () = tokio::time::sleep(pause) => {}
                Some((provider, round, outcome)) = running.next(), if !running.is_empty() => {
                    self.note(&provider, round, outcome);
                    told();
                }
            }
        }
    }

    /// What is named, and how asking for it went. A variable of the login shell is named once it was found.
    pub fn named(&self) -> Vec<Credential> {
        let table = self.0.table.lock();
        let named = table.wanted.values().filter_map(|slot| {
            let (reference, provider) = match &slot.sources {
                Sources::Named(reference) => (reference.label(), reference.store()),
                Sources::Shell(names) if slot.key.is_some() => (format!("env:{}", names.join("|")), "shell"),
                Sources::Shell(_) => return None,
            };
            let status = match (&slot.trouble, &slot.key) {
                (Some(error), _) => error.kind.name(),
                (None, Some(_)) => "ok",
                (None, None) => "pending",
            };
            Some(Credential {
                reference,
                provider: provider.to_owned(),
                status: status.to_owned(),
            })
        });
        named.collect()
    }

    /// In one line, as health says it.
    pub fn trouble(&self) -> Option<String> {
        let troubles: Vec<String> = self
            .troubles()
            .iter()
            .map(|(provider, error)| said(provider, error))
            .collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }

    /// Notices a changed index, changed files and keys that expire.
    fn look(&self) {
        let stamp = self.0.resolver.store().stamp();
        let mut table = self.0.table.lock();
        let mut changed = false;
        if table.index != stamp {
            self.plan(&mut table);
            changed = true;
        }
        for slot in table.wanted.values_mut() {
            let Some(good) = &slot.key else { continue };
            let file = good.file.as_ref().is_some_and(|(path, seen)| Stamp::of(path) != *seen);
            if (file || good.is_over()) && !slot.stale {
                slot.again();
                changed = true;
            }
        }
        drop(table);
        if changed {
            self.0.wake.notify_one();
        }
    }

    /// Slots for what settings and index name now. All that an account could stand behind is asked again.
    fn plan(&self, table: &mut Table) {
        let store = self.0.resolver.store();
        let stamp = store.stamp();
        let index = store.load();
        let moved = table.index != stamp;
        table.index = stamp;
        table.forget |= moved;
        let mut old = std::mem::take(&mut table.wanted);
        for (provider, named) in &table.settings {
            let account = Account::new(provider, "default").ok();
            let sources = match (named, &index, account) {
                (Some(reference), ..) => Sources::Named(reference.clone()),
                // An index that cannot be read could hold it: asking for it says what is wrong.
                (None, Err(_), Some(account)) => Sources::Named(Reference::Account(account)),
                (None, Ok(index), Some(account)) if index.accounts.contains_key(&account) => {
                    Sources::Named(Reference::Account(account))
                }
                (None, ..) if self.0.shell => Sources::Shell(variables(provider)),
                (None, ..) => continue,
            };
            let slot = match old.remove(provider) {
                Some(mut slot) if slot.sources == sources => {
                    if moved {
                        slot.again();
                    }
                    slot
                }
                _ => Slot::new(sources),
            };
            table.wanted.insert(provider.clone(), slot);
        }
    }

    /// Begins all that is due. When the next is.
    fn begin(&self, running: &mut FuturesUnordered<BoxFuture<'static, Outcome>>) -> Instant {
        let now = Instant::now();
        let mut next = now + REFRESH;
        for (provider, slot) in &mut self.0.table.lock().wanted {
            if slot.busy {
                continue;
            }
            if slot.due > now {
                next = next.min(slot.due);
                continue;
            }
            slot.busy = true;
            let (provider, round, sources) = (provider.clone(), slot.round, slot.sources.clone());
            let resolver = self.0.resolver.clone();
            running.push(
                async move {
                    let outcome = sources.resolve(&resolver).await;
                    (provider, round, outcome)
                }
                .boxed(),
            );
        }
        next
    }

    fn note(&self, provider: &str, round: u64, outcome: Result<Option<Resolved>, Error>) {
        let mut table = self.0.table.lock();
        // What was asked for before a change is no answer any more; it is asked again already.
        if let Some(slot) = table.wanted.get_mut(provider).filter(|slot| slot.round == round) {
            slot.note(provider, outcome);
        }
        drop(table);
        self.0.settled.send_modify(|count| *count += 1);
    }
}

impl Good {
    fn is_over(&self) -> bool {
        self.expires.is_some_and(|time| time <= SystemTime::now())
    }
}

/// How the trouble begins that somebody ends by unlocking a store.
const WAITING: &str = "waiting-for-credential";

pub fn said(provider: &str, error: &Error) -> String {
    match error.kind {
        Kind::Locked => format!("{WAITING}: {provider}: {}", error.advice()),
        _ => format!("{provider}: {}", error.advice()),
    }
}

impl Sources {
    async fn resolve(&self, resolver: &Resolver) -> Result<Option<Resolved>, Error> {
        match self {
            Sources::Named(reference) => resolver.resolve(reference).await.map(Some),
            Sources::Shell(names) => {
                for name in names {
                    match resolver.resolve(&Reference::Env(name.clone())).await {
                        Ok(found) => return Ok(Some(found)),
                        Err(error) if error.kind == Kind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(None)
            }
        }
    }
}

impl Slot {
    fn new(sources: Sources) -> Slot {
        Slot {
            sources,
            round: 0,
            busy: false,
            due: Instant::now(),
            stale: true,
            key: None,
            trouble: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Asks again now; what is asked already is no answer any more.
    fn again(&mut self) {
        self.round += 1;
        self.busy = false;
        self.due = Instant::now();
        self.stale = true;
        self.pause = FIRST_PAUSE;
    }

    fn note(&mut self, provider: &str, outcome: Result<Option<Resolved>, Error>) {
        self.busy = false;
        self.stale = false;
        match outcome {
            Ok(found) => {
                self.due = Instant::now() + REFRESH;
                self.pause = FIRST_PAUSE;
                self.trouble = None;
                self.key = found.map(|found| {
                    tracing::info!(provider, source = found.source, "key resolved");
                    Good {
                        key: Key::new(found.secret.reveal().to_owned()),
                        file: found.file.map(|path| {
                            let stamp = Stamp::of(&path);
                            (path, stamp)
                        }),
                        expires: found.expires,
                    }
                });
            }
            Err(error) => {
                let repeated = self.trouble.as_ref() == Some(&error);
                if !repeated {
                    let (kind, kept) = (error.kind.name(), self.key.is_some());
                    tracing::warn!(provider, kind, kept, error = error.advice(), "key not resolved");
                }
                let pause = if error.kind.is_passing() { self.pause } else { REFRESH };
                self.due = Instant::now() + pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                if !error.kind.is_passing() {
                    self.key = None;
                }
                self.trouble = Some(error);
            }
        }
    }
}
