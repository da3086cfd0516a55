//! Handles timers that are due: idle and expired sessions, silent agents, late tasks and turns.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Engine, wall};
use crate::domain::timers::Timer;
use crate::domain::{Error, State, Step, Time};

/// The longest sleep: the wall clock may be set meanwhile.
const LONGEST: Duration = Duration::from_secs(30);
/// Timers handled by one change.
const AT_ONCE: usize = 64;

/// What the timer task sleeps until. A change that needs it earlier wakes it.
#[derive(Debug)]
pub(crate) struct Alarm {
    armed: Time,
    moved: Arc<Notify>,
}

impl Default for Alarm {
    fn default() -> Self {
        Alarm {
            armed: Time::MAX,
            moved: Arc::default(),
        }
    }
}

impl Alarm {
    /// Wakes the timer task where a timer is due before it would look again.
    pub fn check(&self, state: &State) {
        if state.timers.next().is_some_and(|at| at < self.armed) {
            self.ring();
        }
    }

    /// Wakes the timer task.
    pub fn ring(&self) {
        self.moved.notify_one();
    }

    fn arm(&mut self, state: &State) -> Option<Time> {
        let next = state.timers.next();
        self.armed = next.unwrap_or(Time::MAX);
        next
    }
}

pub(super) async fn run(engine: Engine, stop: CancellationToken) {
    let moved = engine.look(|ledger| ledger.alarm.moved.clone());
    loop {
        let next = engine.look_mut(|ledger| ledger.alarm.arm(&ledger.state));
        let sleep = next.map_or(LONGEST, |at| {
            let left = u64::try_from(at.saturating_sub(wall())).unwrap_or(0);
            Duration::from_nanos(left).min(LONGEST)
        });
        if !sleep.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = moved.notified() => {}
                () = stop.cancelled() => return,
            }
            continue;
        }
        // A host that slept makes nobody late: the wake is noted before a timer is acted on.
        engine.look_at_clocks();
        if let Err(error) = engine.write(look).await {
            tracing::warn!(%error, "failed to act on a timer");
            if stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn look(state: &mut State, step: &mut Step<'_>) -> Result<(), Error> {
    for _ in 0..AT_ONCE {
        match state.timers.pop(step.now) {
            None => break,
            Some(Timer::Session(key)) => state.session_due(step, key),
            Some(Timer::Turn(key)) => state.turn_due(step, key),
            Some(Timer::Agent(key)) => state.agent_due(step, key),
            Some(Timer::Task(key)) => state.task_due(step, key),
            Some(Timer::Call(key)) => state.call_due(step, key),
        }
    }
    Ok(())
}
