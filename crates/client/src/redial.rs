//! Asks connections to be opened again: after a sleep of the host a connection may look open and be dead.

use std::sync::Arc;

use tokio::sync::watch;

/// Cheap to clone; all clones share one generation. Every connection made with [`Options`](crate::Options) that hold it
/// hears of it.
#[derive(Clone, Debug)]
pub struct Redial {
    generation: Arc<watch::Sender<u64>>,
}

impl Default for Redial {
    fn default() -> Self {
        Redial {
            generation: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Redial {
    /// Hangs up everywhere at once, calls that are open included, and ends every pause before a further attempt.
    pub fn now(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Resolves once the generation is newer than `generation`.
    pub(crate) fn after(&self, generation: u64) -> impl Future<Output = ()> + Send + use<> {
        let held = self.clone();
        let mut wishes = self.generation.subscribe();
        async move {
            // The sender is held here, so this cannot fail while we wait.
            let _newer = wishes.wait_for(|now| *now != generation).await;
            drop(held);
        }
    }
}
