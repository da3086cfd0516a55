//! Records the start and the stop as events, and reports which registered daemons answer.

use nexus_proto::words;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::Engine;
use super::outlets::Outlet;
use crate::domain::event::{self, About};
use crate::domain::{Error, Fact};

/// Registered services and their sockets, newest first for each service.
pub type Daemons = HashMap<String, Vec<PathBuf>>;

/// Which of the registered daemons answer.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    /// Told when the set of registered daemons, or of those that answer, changes.
    moved: Arc<Notify>,
    /// Sockets of daemons that answer that they serve.
    answering: HashSet<PathBuf>,
}

impl Outlet for Registered {}

impl Registered {
    pub fn changed(&self) {
        self.moved.notify_waiters();
    }
}

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
        let mut daemons = self.daemons();
        let sockets = daemons.remove(service)?;
        self.look(|ledger| {
            let registered = ledger.outlets.get::<Registered>()?;
            sockets.into_iter().find(|socket| registered.answering.contains(socket))
        })
    }

    /// Whether the daemon at a socket said that it serves, as far as is known.
    pub fn is_answering(&self, socket: &Path) -> bool {
        self.look(|ledger| {
            let registered = ledger.outlets.get::<Registered>();
            registered.is_some_and(|registered| registered.answering.contains(socket))
        })
    }

    /// Notes whether the daemon at a socket answers that it serves.
    pub fn set_serving(&self, socket: &Path, serving: bool) {
        self.look_mut(|ledger| {
            let registered = ledger.outlets.of::<Registered>();
            let changed = if serving {
                registered.answering.insert(socket.into())
            } else {
                registered.answering.remove(socket)
            };
            if changed {
                registered.changed();
            }
        });
    }

    /// Waits until the set of registered daemons may have changed since this was called.
    pub fn daemons_moved(&self) -> impl Future<Output = ()> + use<> {
        let moved = self.look_mut(|ledger| ledger.outlets.of::<Registered>().moved.clone());
        moved.notified_owned()
    }
}
