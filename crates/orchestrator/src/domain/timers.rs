//! What has to be looked at again, and when. A timer that comes due is only a reason to look: what it was for may have
//! moved on, so the one who looks decides anew.

use std::collections::BTreeSet;

use super::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    Session(u64),
    Turn(u64),
    Agent(u64),
    Task(u64),
}

#[derive(Debug, Default)]
pub struct Timers {
    due: BTreeSet<(Time, Timer)>,
}

impl Timers {
    pub fn set(&mut self, at: Time, timer: Timer) {
        self.due.insert((at, timer));
    }

    pub fn next(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub fn pop(&mut self, now: Time) -> Option<Timer> {
        let (at, _) = self.due.first()?;
        if *at > now { None } else { self.due.pop_first().map(|(_, timer)| timer) }
    }
}
