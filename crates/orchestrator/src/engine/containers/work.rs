//! What the domain wants done with containers, as an outlet.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::engine::Engine;
use crate::engine::outlets::Outlet;

/// Deleted sessions whose files may wait to be removed.
const DELETED: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct ContainerWork {
    moved: Arc<Notify>,
    /// Deleted sessions whose files are still there. Those that do not fit are found by the look of the next start.
    deleted: Vec<Arc<str>>,
}

impl Outlet for ContainerWork {}

impl ContainerWork {
    /// Containers are to be stopped, started or removed.
    pub fn changed(&self) {
        self.moved.notify_one();
    }

    /// A session was deleted: its files are to be removed once its containers are.
    pub fn session_gone(&mut self, id: Arc<str>) {
        if self.deleted.len() < DELETED {
            self.deleted.push(id);
        }
        self.changed();
    }
}

impl Engine {
    /// Told when there may be work for containers.
    pub(super) fn container_work(&self) -> Arc<Notify> {
        self.look_mut(|ledger| ledger.outlets.of::<ContainerWork>().moved.clone())
    }

    /// Deleted sessions whose last container is gone. Each is given once.
    pub(super) fn take_deleted(&self) -> Vec<Arc<str>> {
        self.look_mut(|ledger| {
            let work = ledger.outlets.of::<ContainerWork>();
            if work.deleted.is_empty() {
                return Vec::new();
            }
            let containers = ledger.state.containers.iter();
            let used: HashSet<&str> = containers.map(|one| &*one.session_id).collect();
            work.deleted.extract_if(.., |id| !used.contains(&**id)).collect()
        })
    }
}
