//! The circuit breaker: a provider that fails repeatedly is not asked for a while, unless a caller names it.
//!
//! ```text
//! closed ──n failures in a row──▶ resting until t ──t passed──▶ closed, one failure from resting again
//!    ▲──────────── a success ─────────┘
//! ```

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Failures in a row; 0 never rests.
    pub failures: u32,
    pub rest: Duration,
}

#[derive(Debug, Clone, Default)]
pub struct Breaker {
    in_a_row: u32,
    until: Option<Instant>,
}

impl Breaker {
    /// How long it still rests.
    pub fn resting(&self, now: Instant) -> Option<Duration> {
        self.until
            .and_then(|until| until.checked_duration_since(now))
            .filter(|left| !left.is_zero())
    }

    pub fn failures(&self) -> u32 {
        self.in_a_row
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub fn failed(&mut self, policy: &Policy, now: Instant) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if policy.failures > 0 && self.in_a_row >= policy.failures {
            self.until = now.checked_add(policy.rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        failures: 3,
        rest: Duration::from_secs(30),
    };

    #[test]
    fn rests_after_failures_in_a_row_only() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.failed(&POLICY, now);
        breaker.failed(&POLICY, now);
        breaker.succeeded();
        breaker.failed(&POLICY, now);
        breaker.failed(&POLICY, now);
        assert_eq!(breaker.resting(now), None);
        breaker.failed(&POLICY, now);
        assert_eq!(breaker.resting(now), Some(POLICY.rest));
    }

    #[test]
    fn comes_back_on_probation() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        (0..3).for_each(|_| breaker.failed(&POLICY, now));
        let later = now + POLICY.rest;
        assert_eq!(breaker.resting(later), None);
        breaker.failed(&POLICY, later);
        assert!(breaker.resting(later).is_some());
        breaker.succeeded();
        assert_eq!(breaker.resting(later), None);
    }
}
