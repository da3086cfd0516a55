//! Counters since the start: what is running, what was answered and how long it took. Held by provider.

use std::time::{Duration, SystemTime};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    pub active: u32,
    pub requests: u64,
    pub tokens: u64,
    pub last_request: Option<SystemTime>,
    answered: u64,
    answered_in: Duration,
}

impl Statistics {
    pub fn began(&mut self, now: SystemTime) {
        self.active += 1;
        self.requests += 1;
        self.last_request = Some(now);
    }

    /// `took` is the time from asking to the end of a whole answer; failed and cancelled ones do not count into it.
    pub fn ended(&mut self, took: Option<Duration>, tokens: u64) {
        self.active = self.active.saturating_sub(1);
        self.tokens = self.tokens.saturating_add(tokens);
        if let Some(took) = took {
            self.answered += 1;
            self.answered_in += took;
        }
    }

    pub fn average_ms(&self) -> f64 {
        if self.answered == 0 {
            0.0
        } else {
            self.answered_in.as_secs_f64() * 1e3 / self.answered as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_over_whole_answers() {
        let mut statistics = Statistics::default();
        for took in [Some(100), None, Some(300)] {
            statistics.began(SystemTime::UNIX_EPOCH);
            statistics.ended(took.map(Duration::from_millis), 5);
        }
        assert_eq!((statistics.active, statistics.requests, statistics.tokens), (0, 3, 15));
        assert!((statistics.average_ms() - 200.0).abs() < 1e-9);
    }
}
