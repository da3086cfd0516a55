//! The clocks of this host, and a clock that tests set.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use super::gap::Reading;

/// The clocks of a host.
pub trait Clock: Send + Sync + 'static {
    /// What they say at this moment.
    fn read(&self) -> Reading;

    /// Resolves after each `every`, and at once when the host wakes from a sleep that was longer.
    fn tick(&self) -> BoxFuture<'_, ()>;
}

#[cfg(target_os = "macos")]
const CLOCKS: (ClockId, ClockId) = (ClockId::from_raw(8), ClockId::CLOCK_MONOTONIC);
#[cfg(not(target_os = "macos"))]
const CLOCKS: (ClockId, ClockId) = (ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME);

pub(crate) struct SystemClock {
    #[cfg(target_os = "linux")]
    timer: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
    #[cfg(not(target_os = "linux"))]
    every: Duration,
}

impl SystemClock {
    /// A timer on the boot clock: one that runs on the other is up to `every` late after a sleep.
    #[cfg(target_os = "linux")]
    pub fn new(every: Duration) -> io::Result<Self> {
        use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
        let timer = TimerFd::new(
            ClockId::CLOCK_BOOTTIME,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )?;
        timer.set(Expiration::Interval(every.into()), TimerSetTimeFlags::empty())?;
        let timer = super::readable::watch(timer.into())?;
        Ok(SystemClock { timer })
    }

    #[cfg(not(target_os = "linux"))]
    pub fn new(every: Duration) -> io::Result<Self> {
        Ok(SystemClock { every })
    }
}

fn clock(id: ClockId) -> Duration {
    // These clocks exist wherever this runs; one that does not stands still, and then tells nothing.
    clock_gettime(id).map(Duration::from).unwrap_or_default()
}

impl Clock for SystemClock {
    fn read(&self) -> Reading {
        Reading {
            awake: clock(CLOCKS.0),
            boot: clock(CLOCKS.1),
            wall: clock(ClockId::CLOCK_REALTIME),
        }
    }

    #[cfg(target_os = "linux")]
    fn tick(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut ready = match self.timer.readable().await {
                Ok(ready) => ready,
                // The runtime is shutting down; whoever waits is ended with it.
                Err(_) => return std::future::pending().await,
            };
            // What it counted is of no interest: the clocks say what happened.
            let _read = nix::unistd::read(self.timer.get_ref(), &mut [0; 8]);
            ready.clear_ready();
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn tick(&self) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(self.every))
    }
}

/// A clock for tests: it stands, and ticks when one of its hands is moved.
#[derive(Clone)]
pub struct HandClock {
    inner: Arc<(Mutex<Reading>, Notify)>,
}

impl Default for HandClock {
    fn default() -> Self {
        let reading = Reading {
            awake: Duration::from_secs(1_000_000),
            boot: Duration::from_secs(1_000_000),
            wall: Duration::from_secs(1_700_000_000),
        };
        HandClock {
            inner: Arc::new((Mutex::new(reading), Notify::new())),
        }
    }
}

impl HandClock {
    /// The host sleeps and wakes.
    pub fn sleep(&self, slept: Duration) {
        self.turn(|now| {
            now.boot += slept;
            now.wall += slept;
        });
    }

    /// The host is awake, and this process is not looked after.
    pub fn freeze(&self, frozen: Duration) {
        self.turn(|now| {
            now.awake += frozen;
            now.boot += frozen;
            now.wall += frozen;
        });
    }

    /// Somebody sets the wall clock.
    pub fn set_forward(&self, by: Duration) {
        self.turn(|now| now.wall += by);
    }

    fn turn(&self, move_hands: impl FnOnce(&mut Reading)) {
        move_hands(&mut self.inner.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.inner.1.notify_one();
    }
}

impl Clock for HandClock {
    fn read(&self) -> Reading {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.1.notified())
    }
}
