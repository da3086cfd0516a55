//! What all connections of a daemon share: the table of methods, what callers may take, and the end of all streams. No
//! queue: a call gets room at once or not at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    caller::Caller,
    panics::log_panics_once,
    services::Table,
    shares::{Account, Limits, Resource, Shares},
};

/// What all connections of one daemon share.
pub(crate) struct Shared {
    pub table: Table,
    pub default_deadline: Option<Duration>,
    /// From the first byte of a message to its last.
    pub message_timeout: Duration,
    /// The longest message, compressed or not.
    pub max_message_bytes: usize,
    pub shares: Shares,
    drained: Notify,
    // The token wakes who waits; the flag is what a busy stream looks at before each frame.
    ending: AtomicBool,
    pub end: CancellationToken,
}

impl Shared {
    pub fn new(table: Table, limits: Limits, max_message_bytes: usize, message_timeout: Duration) -> Self {
        log_panics_once();
        Shared {
            table,
            default_deadline: None,
            message_timeout,
            max_message_bytes,
            shares: Shares::new(limits),
            drained: Notify::new(),
            ending: AtomicBool::new(false),
            end: CancellationToken::new(),
        }
    }

    /// Resolves when no unary handler is at work.
    pub async fn idle(&self) {
        loop {
            let drained = self.drained.notified();
            if self.shares.taken(Resource::Calls) == 0 {
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

/// Room for one unary handler or one open stream, given back when it has answered, has ended or is dropped.
pub(crate) struct Room {
    shared: Arc<Shared>,
    account: Arc<Account>,
    what: Resource,
}

impl Room {
    pub fn take(shared: &Arc<Shared>, account: &Arc<Account>, caller: &Caller, what: Resource) -> Result<Room, Status> {
        shared.shares.take(what, account, caller.is_admin(), 1)?;
        Ok(Room {
            shared: shared.clone(),
            account: account.clone(),
            what,
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let left = self.shared.shares.give_back(self.what, &self.account, 1);
        if left == 0 && matches!(self.what, Resource::Calls) {
            self.shared.drained.notify_waiters();
        }
    }
}
