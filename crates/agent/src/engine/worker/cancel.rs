//! The wish that a task ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, Default)]
pub struct Cancel {
    token: CancellationToken,
    force: Arc<AtomicBool>,
}

impl Cancel {
    /// `force`: killed, not asked.
    pub fn cancel(&self, force: bool) {
        if force {
            self.force.store(true, Ordering::Relaxed);
        }
        self.token.cancel();
    }

    pub async fn wanted(&self) {
        self.token.cancelled().await;
    }

    pub fn is_wanted(&self) -> bool {
        self.token.is_cancelled()
    }

    pub fn is_forced(&self) -> bool {
        self.force.load(Ordering::Relaxed)
    }
}
