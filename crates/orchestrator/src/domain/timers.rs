//! What has to be looked at again, and when. A timer that comes due is only a reason to look: what it was for may have
//! moved on, so the one who looks decides anew, and sets it again where there is still something to come.

use std::collections::{BTreeSet, HashMap};

use super::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    Session(u64),
    Turn(u64),
    Agent(u64),
    Task(u64),
    Call(u64),
}

/// At most one time for each timer, so that this is never larger than what it is for.
#[derive(Debug, Default)]
pub struct Timers {
    due: BTreeSet<(Time, Timer)>,
    at: HashMap<Timer, Time>,
}

impl Timers {
    /// Of two times for one timer the earlier counts.
    pub fn set(&mut self, at: Time, timer: Timer) {
        match self.at.get(&timer) {
            Some(armed) if *armed <= at => return,
            Some(armed) => self.due.remove(&(*armed, timer)),
            None => false,
        };
        self.at.insert(timer, at);
        self.due.insert((at, timer));
    }

    pub fn next(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub fn pop(&mut self, now: Time) -> Option<Timer> {
        let (at, timer) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        self.at.remove(&timer);
        Some(timer)
    }

    pub fn len(&self) -> usize {
        self.due.len()
    }

    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    pub fn is_set(&self, timer: Timer) -> bool {
        self.at.contains_key(&timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_time_of_a_timer_counts_and_it_comes_once() {
        let mut timers = Timers::default();
        timers.set(20, Timer::Task(1));
        timers.set(10, Timer::Task(1));
        timers.set(30, Timer::Task(1));
        timers.set(15, Timer::Turn(1));
        assert_eq!(timers.pop(9), None);
        assert_eq!(timers.pop(40), Some(Timer::Task(1)));
        assert_eq!(timers.pop(40), Some(Timer::Turn(1)));
        assert_eq!(timers.pop(40), None);
        timers.set(50, Timer::Task(1));
        assert_eq!(timers.next(), Some(50));
    }
}
