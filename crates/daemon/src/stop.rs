//! The request to stop, sent once and seen everywhere. It carries no reason and cannot be withdrawn.

use std::future::Future;
use tokio_util::sync::CancellationToken;

/// Cheap to clone; all clones are the same request.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    token: CancellationToken,
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
}
