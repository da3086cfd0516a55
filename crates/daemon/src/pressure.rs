//! Reports that connections run short: in the log at most once a second, and as degraded health until it is over.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{health::Health, shares::Limit};

/// The part of the daemon's health that says it.
const PART: &str = "connections";
/// How long nothing must happen before the health recovers.
const QUIET: Duration = Duration::from_secs(30);
/// So few slots are always short.
const FEW: usize = 20;
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A kind of listener; each has slots of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Unix,
    Tcp,
}

pub(crate) struct Pressure {
    health: Health,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    refused: usize,
    /// Of each kind of listener.
    open: [usize; 2],
    last: Option<Instant>,
    told: Option<Instant>,
    /// A task waits for quiet.
    waiting: bool,
}

impl Pressure {
    pub fn new(health: Health) -> Arc<Self> {
        Arc::new(Pressure {
            health,
            state: Mutex::default(),
        })
    }

    /// A connection was closed for want of a slot.
    pub fn refused(self: &Arc<Self>, limit: usize) {
        self.state().refused += 1;
        self.happened(|refused| {
            format!(
                "{refused} connections were refused, {limit} may be open (max_connections, max_connections_per_caller)"
            )
        });
    }

    /// So many are open now of this kind of listener; returns how many of both.
    pub fn connections(self: &Arc<Self>, kind: Kind, open: usize, limit: Limit) -> usize {
        let all = {
            let mut state = self.state();
            state.open[kind as usize] = open;
            state.open.iter().sum()
        };
        let most = limit.without_kept();
        if most > FEW && open * 10 > most * 9 {
            self.happened(|_| format!("slots are short: {open} of {} are taken (max_connections)", limit.all));
        }
        all
    }

    fn happened(self: &Arc<Self>, reason: impl FnOnce(usize) -> String) {
        let now = Instant::now();
        let mut state = self.state();
        state.last = Some(now);
        if state.told.is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            return;
        }
        state.told = Some(now);
        let reason = reason(state.refused);
        let waits = std::mem::replace(&mut state.waiting, true);
        drop(state);
        tracing::warn!(reason, "few connections are left");
        self.health.degrade(PART, Some(reason));
        if !waits {
            tokio::spawn(self.clone().until_quiet());
        }
    }

    async fn until_quiet(self: Arc<Self>) {
        loop {
            let wait = {
                let mut state = self.state();
                let quiet = state.last.map_or(QUIET, |last| last.elapsed());
                if quiet >= QUIET {
                    (state.waiting, state.refused) = (false, 0);
                    break;
                }
                QUIET - quiet
            };
            tokio::time::sleep(wait).await;
        }
        tracing::info!("connections are available again");
        self.health.degrade(PART, None);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
