//! Records the start and the stop as events, and reports which registered daemons answer.

use nexus_proto::words;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Engine;
use crate::domain::event::{self, About};
use crate::domain::{Error, Fact};

impl Engine {
    pub async fn started_up(&self, service: &str) -> Result<(), Error> {
        self.say(words::event::SYSTEM_STARTUP, service).await
    }

    /// Says that this run ends, and waits until everything is on disk.
    pub async fn shut_down(&self, budget: Duration) {
        if let Err(error) = self.say(words::event::SYSTEM_SHUTDOWN, "orchestrator").await {
            tracing::warn!(%error, "failed to record the stop");
        }
        if !self.close(budget).await {
            tracing::warn!("the store did not close within the budget; what was acknowledged is on disk");
        }
    }

    async fn say(&self, name: &str, service: &str) -> Result<(), Error> {
        let pid = std::process::id().to_string();
        let data = [
            ("service", service),
            ("pid", &*pid),
            ("version", env!("CARGO_PKG_VERSION")),
        ];
        self.tell(name, &data).await
    }

    /// An event of the daemon itself, on disk when this returns.
    pub(super) async fn tell(&self, name: &str, data: &[(&str, &str)]) -> Result<(), Error> {
        self.write(|_, step| {
            step.grows = false;
            let event = event::build(step, name, event::SYSTEM, About::default(), data);
            step.fact(Fact::Event { session: 0, event });
            Ok(())
        })
        .await
    }

    /// The socket of the daemon that serves this: of those that answer, the newest.
    pub fn serving(&self, service: &str) -> Option<PathBuf> {
        let daemons = self.daemons();
        let answering = self.inner.answering.lock();
        daemons
            .get(service)?
            .iter()
            .find(|socket| answering.contains(*socket))
            .cloned()
    }

    /// Whether the daemon at a socket said that it serves, as far as is known.
    pub fn is_answering(&self, socket: &Path) -> bool {
        self.inner.answering.lock().contains(socket)
    }

    /// Notes whether the daemon at a socket answers that it serves.
    pub fn set_serving(&self, socket: &Path, serving: bool) {
        let mut answering: parking_lot::MutexGuard<'_, HashSet<PathBuf>> = self.inner.answering.lock();
        let changed = if serving {
            answering.insert(socket.into())
        } else {
            answering.remove(socket)
        };
        drop(answering);
        if changed {
            self.inner.daemons_moved.notify_waiters();
        }
    }
}
