//! Which tasks run and which wait: a bounded number of each, the most urgent first and otherwise in order of arrival.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub active: usize,
    pub waiting: usize,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("the task is known already")]
    Known,
    #[error("{0} tasks wait already")]
    Full(usize),
}

/// `T` is what is kept of a task while it waits.
#[derive(Debug)]
pub struct Queue<T> {
    limits: Limits,
    active: BTreeSet<String>,
    /// By urgency, the highest first, then by arrival.
    waiting: BTreeMap<(i32, u64), (String, T)>,
    arrivals: u64,
}

impl<T> Queue<T> {
    pub fn new(limits: Limits) -> Self {
        Queue {
            limits,
            active: BTreeSet::new(),
            waiting: BTreeMap::new(),
            arrivals: 0,
        }
    }

    pub fn knows(&self, id: &str) -> bool {
        self.active.contains(id) || self.waiting.values().any(|(waiting, _)| waiting == id)
    }

    pub fn active(&self) -> usize {
        self.active.len()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A task that came: returned if it may begin now.
    pub fn offer(&mut self, id: &str, urgency: i32, task: T) -> Result<Option<T>, Error> {
        if self.knows(id) {
            return Err(Error::Known);
        }
        if self.active.len() < self.limits.active {
            self.active.insert(id.to_owned());
            return Ok(Some(task));
        }
        if self.waiting.len() >= self.limits.waiting {
            return Err(Error::Full(self.limits.waiting));
        }
        self.arrivals += 1;
        self.waiting.insert((-urgency, self.arrivals), (id.to_owned(), task));
        Ok(None)
    }

    /// A task ended: the one that begins in its place.
    pub fn ended(&mut self, id: &str) -> Option<T> {
        if !self.active.remove(id) {
            return None;
        }
        let (_, (id, task)) = self.waiting.pop_first()?;
        self.active.insert(id);
        Some(task)
    }

    /// A task that waits is not wanted any more.
    pub fn drop_waiting(&mut self, id: &str) -> Option<T> {
        let key = *self.waiting.iter().find(|(_, (waiting, _))| waiting == id)?.0;
        self.waiting.remove(&key).map(|(_, task)| task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_urgent_goes_first_and_equals_in_order() {
        let mut queue = Queue::new(Limits { active: 1, waiting: 3 });
        assert_eq!(queue.offer("a", 2, "a"), Ok(Some("a")));
        assert_eq!(queue.offer("b", 2, "b"), Ok(None));
        assert_eq!(queue.offer("c", 4, "c"), Ok(None));
        assert_eq!(queue.offer("d", 2, "d"), Ok(None));
        assert_eq!(queue.offer("b", 2, "b"), Err(Error::Known));
        assert_eq!(queue.offer("e", 4, "e"), Err(Error::Full(3)));
        assert_eq!(queue.drop_waiting("d"), Some("d"));
        assert_eq!(queue.ended("a"), Some("c"));
        assert_eq!(queue.ended("a"), None, "it ended before");
        assert_eq!(queue.ended("c"), Some("b"));
        assert_eq!(queue.ended("b"), None);
        assert_eq!((queue.active(), queue.waiting()), (0, 0));
    }
}
