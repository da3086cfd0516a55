//! Executes decisions about containers: calls their engine, and reports the result to the domain.
//!
//! A call is carried out to its end also where its caller goes away: nobody would clean up half a container. One task at a
//! time works on a container; a task that finds it taken leaves the work to the other ([`Hold`]).

mod calls;
mod clean;
mod image_shares;
mod images;
mod make;
mod mounts;
mod owner;
mod runtime;
mod share;
mod watch;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus_daemon::{Caller, Health};
use nexus_proto::common::v1::ResourceUsage;
use nexus_runtime::{Found, PullPolicy, Stats};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use owner::Pair;
pub(crate) use work::ContainerWork;

use super::Engine;
use crate::domain::Error;
use crate::domain::container::Policy;
use crate::domain::sessions::View;
use runtime::{Runtime, within};

/// Labels by which a container is known to be ours, in every engine.
const OWNER: &str = "nexus.owner";
const CONTAINER: &str = "nexus.container";
const SESSION: &str = "nexus.session";

/// How containers are run.
#[derive(Clone, Debug)]
pub struct Options {
    pub policy: Policy,
    /// A directory for each session, and for each of its volumes.
    pub workspaces: PathBuf,
    pub volumes: PathBuf,
    /// What is ours, and never mounted.
    pub state: PathBuf,
    /// Host paths that sessions may allow; empty: any, for sessions of our own user.
    pub paths: Vec<PathBuf>,
    pub pull: PullPolicy,
    /// Bytes of all images that one user had fetched.
    pub user_image_bytes: u64,
    pub require_limits: bool,
    /// Who commands run as that do not say; empty: our own user, or nobody where that is root.
    pub user: String,
    /// Callers whose containers act for another user of the host than the caller.
    pub owners: Vec<Pair>,
    pub stop_timeout: Duration,
    pub pull_timeout: Duration,
    pub engine_timeout: Duration,
    /// Shares of memory in percent that are told when they are passed.
    pub marks: Vec<u32>,
    pub sample_every: Duration,
    /// What one user may have in workspaces and volumes: bytes, and files of any kind.
    /// On the bare host: who commands run as, and who their directories belong to, instead of who made the session.
    pub bare_user: Option<(u32, Option<u32>)>,
    /// Of the log of one container.
    pub log_bytes: u64,
    pub user_bytes: u64,
    pub user_files: u64,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Containers {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    runtime: Runtime,
    options: Options,
    health: Health,
    /// Containers that somebody works on.
    held: Mutex<HashSet<u64>>,
    /// Told when one of them is free again.
    freed: Notify,
    /// Told when there may be work to do.
    moved: Arc<Notify>,
    /// Told when files of a session are to be removed.
    thrown: Notify,
    /// The bytes that users have in workspaces and volumes.
    shares: share::Shares,
    /// For each container the CPU time that it had used when that was last read.
    samples: Mutex<HashMap<u64, (Instant, Duration)>>,
    image_shares: image_shares::ImageShares,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Containers")
            .field("runtime", &self.runtime)
            .finish_non_exhaustive()
    }
}

/// While this lives nobody else works on the container.
struct Hold {
    inner: Arc<Inner>,
    key: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.inner.held.lock().remove(&self.key);
        // Work that others left to the holder may have to be done.
        self.inner.moved.notify_one();
        self.inner.freed.notify_waiters();
    }
}

/// The caller of a call about containers.
#[derive(Clone, Debug)]
pub struct Requester {
    pub principal: Arc<str>,
    /// `Some` where only own sessions are seen.
    pub only_own: bool,
    pub admin: bool,
}

impl Requester {
    /// Refuses those whose role has no business with containers.
    pub fn of(caller: &Caller) -> Result<Requester, Error> {
        View::of(caller, "use containers")?;
        Ok(Requester {
            principal: caller.principal.clone(),
            only_own: !caller.is_admin(),
            admin: caller.is_admin(),
        })
    }

    fn view(&self) -> View<'_> {
        if self.only_own {
            View::Own(&self.principal)
        } else {
            View::All
        }
    }
}

impl Containers {
    pub fn new(engine: Engine, runtime: nexus_runtime::Config, options: Options, health: Health) -> Self {
        Containers {
            inner: Arc::new(Inner {
                image_shares: image_shares::ImageShares::new(runtime.directory.clone()),
                runtime: Runtime::new(runtime),
                options,
                health,
                held: Mutex::default(),
                freed: Notify::new(),
                moved: engine.container_work(),
                thrown: Notify::new(),
                shares: share::Shares::default(),
                samples: Mutex::default(),
                engine,
            }),
        }
    }

    fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    fn options(&self) -> &Options {
        &self.inner.options
    }

    fn hold(&self, key: u64) -> Option<Hold> {
        self.inner.held.lock().insert(key).then(|| Hold {
            inner: self.inner.clone(),
            key,
        })
    }

    /// Waits until nobody else works on the container.
    async fn held(&self, key: u64) -> Result<Hold, Error> {
        let until = tokio::time::Instant::now() + self.options().engine_timeout + self.options().stop_timeout;
        loop {
            let freed = self.inner.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(hold) = self.hold(key) {
                return Ok(hold);
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(Error::Runtime(nexus_runtime::Error::Unavailable {
                    engine: "containers",
                    why: "another call works on this container".into(),
                }));
            }
        }
    }

    async fn ask<T>(
        &self,
        found: &Found,
        doing: &'static str,
        work: impl Future<Output = nexus_runtime::Result<T>>,
    ) -> Result<T, Error> {
        self.ask_for(found, doing, self.options().engine_timeout, work).await
    }

    /// An engine that does not answer degrades this daemon; once it answers the daemon recovers, and the engine is
    /// reconciled: what it was asked before it went away it may have done.
    async fn ask_for<T>(
        &self,
        found: &Found,
        doing: &'static str,
        after: Duration,
        work: impl Future<Output = nexus_runtime::Result<T>>,
    ) -> Result<T, Error> {
        let done = within(found, doing, after, work).await;
        let (health, name) = (&self.inner.health, found.engine.name());
        match &done {
            Err(error) if error.is_passing() => health.degrade(name, Some(error.to_string())),
            _ if health.degraded().iter().any(|(part, _)| part == name) => {
                health.degrade(name, None);
                self.spawn_look(found.clone());
            }
            _ => {}
        }
        done.map_err(Error::Runtime)
    }

    async fn engine_of(&self, name: &str) -> Result<Found, Error> {
        let found = self.inner.runtime.named(name).await;
        if let Err(error) = &found {
            self.inner.health.degrade(name, Some(error.to_string()));
        }
        found.map_err(Error::Runtime)
    }

    /// What tells our containers from those of others.
    fn own(&self) -> BTreeMap<String, String> {
        [(OWNER.to_owned(), self.engine().log_id().to_owned())].into()
    }

    /// The resources that a container uses, as clients read them.
    fn usage(&self, key: u64, stats: &Stats, started: Option<i64>) -> ResourceUsage {
        let now = Instant::now();
        let before = self.inner.samples.lock().insert(key, (now, stats.cpu));
        let (since, used) = match before {
            Some((at, cpu)) if stats.cpu >= cpu => (now.duration_since(at), stats.cpu - cpu),
            _ => {
                let started = started.map_or(0, |at| super::wall().saturating_sub(at));
                (Duration::from_nanos(u64::try_from(started).unwrap_or(0)), stats.cpu)
            }
        };
        let share = if since.is_zero() {
            0.0
        } else {
            used.as_secs_f64() / since.as_secs_f64() * 100.0
        };
        let memory = stats.memory_bytes as f64 * 100.0;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        ResourceUsage {
            cpu_percent: share,
            memory_usage: number(stats.memory_bytes),
            memory_limit: number(stats.memory_limit),
            memory_percent: if stats.memory_limit == 0 {
                0.0
            } else {
                memory / stats.memory_limit as f64
            },
            network_rx: number(stats.network_rx),
            network_tx: number(stats.network_tx),
            block_read: number(stats.block_read),
            block_write: number(stats.block_write),
            pids_count: number(stats.pids),
        }
    }
}

/// Nanoseconds since the epoch.
fn time(at: std::time::SystemTime) -> Option<i64> {
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok()
}
