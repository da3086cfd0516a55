//! The request to stop, sent once and seen everywhere. It cannot be withdrawn, and carries a reason only where the daemon
//! itself cannot go on.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// Cheap to clone; all clones are the same request.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    token: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Stop {
    /// Nobody wants a stop yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Resolves once a stop is wanted; at once if it already is.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }

    /// Whether a stop is wanted.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// For libraries that speak `CancellationToken`. Cancelling it is the same as [`Stop::trigger`].
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Wants a stop, for all clones.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Wants a stop because the daemon cannot go on: its process ends with this reason and an exit code that its
    /// supervisor restarts it after. The first reason stands.
    pub fn fail(&self, reason: impl Into<String>) {
        if self.failure.set(reason.into()).is_ok() {
            tracing::error!(reason = self.failure(), "stopping: the daemon cannot go on");
        }
        self.trigger();
    }

    /// Why the daemon cannot go on, if it cannot.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stands_and_all_clones_see_it() {
        let stop = Stop::new();
        assert_eq!((stop.failure(), stop.is_requested()), (None, false));
        let clone = stop.clone();
        clone.fail("no lease");
        clone.fail("another");
        assert!(stop.is_requested());
        assert_eq!(stop.failure(), Some("no lease"));
    }
}
