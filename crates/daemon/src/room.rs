//! What all connections of a daemon share: the table of methods, the room for calls, and the end of all streams. No
//! queue: a call gets room at once or not at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{panics::log_panics_once, services::Table};

/// What all connections of one daemon share.
pub(crate) struct Shared {
    pub table: Table,
    pub max_in_flight: usize,
    pub default_deadline: Option<Duration>,
    /// Handlers of unary calls that have not answered yet.
    in_flight: AtomicUsize,
    drained: Notify,
    // The token wakes who waits; the flag is what a busy stream looks at before each frame.
    ending: AtomicBool,
    pub end: CancellationToken,
}

impl Shared {
    pub fn new(table: Table, max_in_flight: usize, default_deadline: Option<Duration>) -> Self {
        log_panics_once();
        Shared {
            table,
            max_in_flight,
            default_deadline,
            in_flight: AtomicUsize::new(0),
            drained: Notify::new(),
            ending: AtomicBool::new(false),
            end: CancellationToken::new(),
        }
    }

    /// Resolves when no unary handler is at work.
    pub async fn idle(&self) {
        loop {
            let drained = self.drained.notified();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            drained.await;
        }
    }

    /// Ends every open stream with UNAVAILABLE, and each that is opened later.
    pub fn end_streams(&self) {
        self.ending.store(true, Ordering::Release);
        self.end.cancel();
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}

/// Room for one unary handler, given back when it has answered or is dropped.
pub(crate) struct Room(Arc<Shared>);

impl Room {
    pub fn take(shared: &Arc<Shared>) -> Option<Room> {
        let before = shared.in_flight.fetch_add(1, Ordering::AcqRel);
        let room = Room(shared.clone());
        (before < shared.max_in_flight).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.drained.notify_waiters();
        }
    }
}
