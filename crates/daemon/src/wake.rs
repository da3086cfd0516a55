//! Detects that the host slept, the process was frozen or the network changed, and notifies the daemon's parts.
//!
//! ```text
//!   clocks ─▶ look ─▶ gap? ─▶ recovering: every part runs at once ─▶ recovered (slept X, took Y)
//!   logind ─▶ before_sleep parts, within a budget                       └─▶ health, log, signals
//!   routes ─▶ network signal
//! ```
//!
//! A daemon names its parts with [`Wake::on_wake`], [`Wake::before_sleep`] and [`Wake::on_network`], or reads
//! [`Wake::signals`]. Nothing here dials, and no part can keep another from recovering. Deadlines that must hold over a
//! sleep belong on the wall or boot clock; this only says when to look at them again.

mod clock;
mod gap;
mod network;
#[cfg(target_os = "linux")]
mod readable;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{BoxFuture, join_all};
use sd_notify::NotifyState;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

pub(crate) use clock::SystemClock;
pub use clock::{Clock, HandClock};
pub use gap::{Detector, Gap, Reading};
pub use network::DefaultRoutes;

use crate::{Health, Stop, ready};

/// The part of the daemon's health that tells of a recovery.
pub const PART: &str = "wake";
/// Signals kept for a reader that is busy; a slower one hears of the newest.
const SIGNALS: usize = 64;
/// logind grants five seconds.
const BEFORE_SLEEP: Duration = Duration::from_secs(4);
/// A part that has not come back by then is told by its own health, and the recovery counts as over.
const RECOVER_WITHIN: Duration = Duration::from_secs(60);

/// Why the clocks disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The host slept.
    Slept,
    /// The host was awake, this process was stopped.
    Frozen,
    /// The wall clock was set, or the virtual machine was stopped as a whole.
    ClockSet,
}

impl Kind {
    /// As it stands in `system.wake`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Slept => "slept",
            Kind::Frozen => "frozen",
            Kind::ClockSet => "clock-set",
        }
    }
}

/// The host or process was away: connections may be dead, and deadlines overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wakeup {
    /// What happened.
    pub kind: Kind,
    /// How long it was away; for a clock that was set, by how much.
    pub away: Duration,
    /// When it was noticed.
    pub at: SystemTime,
}

/// All parts have recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// What it recovered from.
    pub woke: Wakeup,
    /// How long that took.
    pub took: Duration,
    /// Parts that were not back within a minute.
    pub missing: Vec<String>,
}

/// What a daemon tells of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The host is about to sleep; parts have been told.
    Sleeping,
    /// The host is awake again.
    Woke(Wakeup),
    /// All parts are back, or a minute is over.
    Recovered(Recovered),
    /// The ways out of this host changed.
    Network {
        /// Whether there is a way out.
        up: bool,
    },
}

impl std::fmt::Display for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, back after {} ms", describe(&self.woke), millis(self.took))
    }
}

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wake").finish_non_exhaustive()
    }
}

type Act = Arc<dyn Fn(Wakeup) -> BoxFuture<'static, ()> + Send + Sync>;
type Flush = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;
type OnNetwork = Arc<dyn Fn(bool) + Send + Sync>;

/// Cheap to clone; all clones are the same daemon's.
#[derive(Clone)]
pub struct Wake {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    // One detector for all who look, so that each gap is told exactly once whoever sees it first.
    detector: Mutex<Detector>,
    health: Health,
    stop: Stop,
    signals: broadcast::Sender<Signal>,
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    on_wake: Vec<(&'static str, Act)>,
    before_sleep: Vec<(&'static str, Flush)>,
    on_network: Vec<OnNetwork>,
    follows_network: bool,
    last: Option<Recovered>,
    /// A wake in the middle of a recovery starts it over.
    recovering: Option<AbortHandle>,
}

impl Wake {
    pub(crate) fn new(clock: Arc<dyn Clock>, every: Duration, threshold: Duration, health: Health, stop: Stop) -> Self {
        let detector = Detector::new(every, threshold, clock.read());
        Wake {
            inner: Arc::new(Inner {
                clock,
                detector: Mutex::new(detector),
                health,
                stop,
                signals: broadcast::Sender::new(SIGNALS),
                parts: Mutex::default(),
            }),
        }
    }

    /// Looks whenever the clock ticks, until the daemon stops.
    pub(crate) async fn watch(self) {
        loop {
            tokio::select! {
                () = self.inner.clock.tick() => {}
                () = self.inner.stop.requested() => return,
            }
            self.look();
        }
    }

    /// `act` runs after each wake and resolves once its part is back; all of them at once, at most a minute. What it
    /// does before it gives its future is done before anyone acts on a deadline after [`Wake::look`]; it must not look
    /// itself.
    pub fn on_wake<F>(&self, part: &'static str, act: impl Fn(Wakeup) -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let act: Act = Arc::new(move |woke| Box::pin(act(woke)));
        self.parts().on_wake.push((part, act));
    }

    /// `flush` runs before the host sleeps, where somebody tells us ([`Wake::sleeping`]).
    pub fn before_sleep<F>(&self, part: &'static str, flush: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let flush: Flush = Arc::new(move || Box::pin(flush()));
        self.parts().before_sleep.push((part, flush));
    }

    /// `act` hears of each change of the ways out of this host, and whether there is one. The first one to ask starts
    /// listening, so a daemon that dials nobody outside wakes for nothing.
    pub fn on_network(&self, act: impl Fn(bool) + Send + Sync + 'static) {
        let mut parts = self.parts();
        parts.on_network.push(Arc::new(act));
        if !std::mem::replace(&mut parts.follows_network, true) {
            tokio::spawn(self.clone().follow_network());
        }
    }

    /// Hears every signal from now on.
    pub fn signals(&self) -> broadcast::Receiver<Signal> {
        self.inner.signals.subscribe()
    }

    /// The last recovery of this run.
    pub fn last(&self) -> Option<Recovered> {
        self.parts().last.clone()
    }

    /// Reads the clocks now: for who is about to act on a deadline and must know whether everyone was away. A wake that
    /// this finds is given back and told to all.
    pub fn look(&self) -> Option<Wakeup> {
        // Held until every part has heard, for another who looks at the same moment.
        let mut detector = self.inner.detector.lock().unwrap_or_else(PoisonError::into_inner);
        let gap = detector.step(self.inner.clock.read())?;
        let (kind, away) = match gap {
            Gap::Slept(away) => (Kind::Slept, away),
            Gap::Frozen(away) => (Kind::Frozen, away),
            Gap::SetForward(away) | Gap::SetBack(away) => (Kind::ClockSet, away),
        };
        let woke = Wakeup {
            kind,
            away,
            at: SystemTime::now(),
        };
        self.woke(woke);
        Some(woke)
    }

    /// The host is about to sleep: every part flushes, within what logind grants.
    pub async fn sleeping(&self) {
        let flushes = self.parts().before_sleep.clone();
        let all = join_all(flushes.iter().map(|(part, flush)| async move {
            if tokio::time::timeout(BEFORE_SLEEP, flush()).await.is_err() {
                tracing::warn!(part, "not flushed before the host sleeps");
            }
        }));
        all.await;
        ready::tell(&[NotifyState::Status("the host sleeps")]);
        tracing::info!("the host is about to sleep");
        self.tell(Signal::Sleeping);
    }

    fn woke(&self, woke: Wakeup) {
        let what = describe(&woke);
        tracing::warn!(
            kind = woke.kind.name(),
            slept_ms = millis(woke.away),
            "recovering: {what}"
        );
        self.inner.health.degrade(PART, Some(format!("recovering: {what}")));
        self.tell(Signal::Woke(woke));
        let acts = self.parts().on_wake.clone();
        let begun = acts.into_iter().map(|(part, act)| (part, act(woke))).collect();
        let task = tokio::spawn(self.clone().recover(woke, begun)).abort_handle();
        let older = self.parts().recovering.replace(task);
        if let Some(older) = older {
            older.abort();
        }
    }

    async fn recover(self, woke: Wakeup, begun: Vec<(&'static str, BoxFuture<'static, ()>)>) {
        let began = Instant::now();
        let missing = Mutex::new(begun.iter().map(|(part, _)| *part).collect::<BTreeSet<_>>());
        let all = join_all(begun.into_iter().map(|(part, back)| {
            let missing = &missing;
            async move {
                back.await;
                missing.lock().unwrap_or_else(PoisonError::into_inner).remove(part);
            }
        }));
        let _late = tokio::time::timeout(RECOVER_WITHIN, all).await;
        let missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
        let recovered = Recovered {
            woke,
            took: began.elapsed(),
            missing: missing.into_iter().map(str::to_owned).collect(),
        };
        let text = recovered.to_string();
        tracing::warn!(
            kind = woke.kind.name(),
            slept_ms = millis(woke.away),
            recovered_ms = millis(recovered.took),
            missing = recovered.missing.join(" "),
            "recovered: {text}"
        );
        crate::metrics::recovered(woke.kind.name(), woke.away, recovered.took);
        self.inner.health.recovers(text);
        self.inner.health.degrade(PART, None);
        let mut parts = self.parts();
        parts.last = Some(recovered.clone());
        parts.recovering = None;
        drop(parts);
        self.tell(Signal::Recovered(recovered));
    }

    async fn follow_network(self) {
        let following = network::follow(|ways| {
            let up = ways.is_up();
            tracing::info!(up, "the network changed");
            let acts = self.parts().on_network.clone();
            for act in acts {
                act(up);
            }
            self.tell(Signal::Network { up });
        });
        tokio::select! {
            ended = following => {
                let Err(error) = ended;
                tracing::info!(%error, "changes of the network cannot be watched on this host");
            }
            () = self.inner.stop.requested() => {}
        }
    }

    fn tell(&self, signal: Signal) {
        // Without a reader there is nobody to tell.
        let _unheard = self.inner.signals.send(signal);
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // Every change leaves the lists whole, so a panic elsewhere cannot have spoilt them.
        self.inner.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(woke: &Wakeup) -> String {
    // The clocks are read one after the other: a fraction of a second of an hour means nothing.
    let away = match millis(woke.away) {
        short @ ..10_000 => Duration::from_millis(short),
        long => Duration::from_secs((long + 500) / 1000),
    };
    let away = humantime::format_duration(away);
    match woke.kind {
        Kind::Slept => format!("the host slept {away}"),
        Kind::Frozen => format!("this process was frozen for {away}"),
        Kind::ClockSet => format!("the wall clock was set by {away}"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
