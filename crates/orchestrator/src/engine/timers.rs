//! Handles timers that are due: idle and expired sessions, silent agents, late tasks and turns.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Engine, wall};
use crate::domain::timers::Timer;
use crate::domain::{Error, State, Step};

/// The longest sleep: the wall clock may be set meanwhile.
const LONGEST: Duration = Duration::from_secs(30);
/// Timers looked at by one change.
const AT_ONCE: usize = 64;

pub(super) async fn run(engine: Engine, stop: CancellationToken) {
    loop {
        let next = engine.look(|core| {
            let next = core.state.timers.next();
            engine
                .inner
                .timer_armed
                .store(next.unwrap_or(i64::MAX), Ordering::Relaxed);
            next
        });
        let sleep = next.map_or(LONGEST, |at| {
            let left = u64::try_from(at.saturating_sub(wall())).unwrap_or(0);
            Duration::from_nanos(left).min(LONGEST)
        });
        if !sleep.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = engine.inner.timer_moved.notified() => {}
                () = stop.cancelled() => return,
            }
            continue;
        }
        // Whoever is late because everyone was away is not late.
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
        }
    }
    Ok(())
}
