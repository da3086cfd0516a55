//! Where messages belong in their traces: a turn is dispatched and answered by other tasks than the one that took its
//! message, and finds its way back here. In memory only; after a restart a turn goes on without its trace.

use std::collections::{HashMap, VecDeque};

use nexus_daemon::spans::TraceParent;

use super::cache::Cache;
use super::outlets::Outlet;
use crate::domain::State;

/// Messages whose parents are known. The trace of one that is forgotten ends where it was stored.
const KEPT: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Traces {
    /// By session and number.
    parents: HashMap<(u64, u64), TraceParent>,
    order: VecDeque<(u64, u64)>,
}

impl Outlet for Traces {
    fn reloaded(&mut self, _: &State, _: &Cache) {
        *self = Traces::default();
    }
}

impl Traces {
    pub fn keep(&mut self, session: u64, n: u64, parent: TraceParent) {
        if self.parents.insert((session, n), parent).is_some() {
            return;
        }
        self.order.push_back((session, n));
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.parents.remove(&oldest);
        }
    }

    pub fn of(&self, session: u64, n: u64) -> Option<&TraceParent> {
        self.parents.get(&(session, n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let parent: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            .parse()
            .unwrap();
        let mut traces = Traces::default();
        for n in 1..=KEPT as u64 + 1 {
            traces.keep(1, n, parent.clone());
            traces.keep(1, n, parent.clone());
        }
        assert_eq!(traces.of(1, 1), None);
        assert_eq!(traces.of(1, 2), Some(&parent));
        assert_eq!((traces.parents.len(), traces.order.len()), (KEPT, KEPT));
    }
}
