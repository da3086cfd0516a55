//! Distinguishes a sleeping host, a frozen process and a changed clock by comparing three clocks.
//!
//! ```text
//!               awake clock   boot clock    wall clock
//!   host slept     stands        goes on       goes on      Slept
//!   frozen         goes on       goes on       goes on      Frozen: the look itself came late
//!   clock set      goes on       goes on       jumps        Set
//! ```
//!
//! Reads no clock itself. Small differences are never added up: each look is compared with the one before it alone.

use std::time::Duration;

/// All three clocks, read at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Stands while the host sleeps.
    pub awake: Duration,
    /// Goes on while the host sleeps.
    pub boot: Duration,
    /// Since the epoch; can be set by anyone who may.
    pub wall: Duration,
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The host slept for this time.
    Slept(Duration),
    /// The host was awake and this process did not run for this time.
    Frozen(Duration),
    /// The wall clock was set forward by this much, or was a stopped virtual machine's.
    SetForward(Duration),
    /// The wall clock was set back by this much.
    SetBack(Duration),
}

/// Compares each reading with the one before it.
#[derive(Clone, Debug)]
pub struct Detector {
    every: Duration,
    threshold: Duration,
    last: Reading,
}

impl Detector {
    /// `every`: how often it is asked at the latest; `threshold`: less than this is no gap.
    pub fn new(every: Duration, threshold: Duration, now: Reading) -> Self {
        Detector {
            every,
            threshold,
            last: now,
        }
    }

    /// The gap between the last reading and `now`, if there is one.
    pub fn step(&mut self, now: Reading) -> Option<Gap> {
        let last = std::mem::replace(&mut self.last, now);
        let awake = now.awake.saturating_sub(last.awake);
        let boot = now.boot.saturating_sub(last.boot);
        let slept = boot.saturating_sub(awake);
        if slept >= self.threshold {
            return Some(Gap::Slept(slept));
        }
        let late = awake.saturating_sub(self.every);
        if late >= self.threshold {
            return Some(Gap::Frozen(late));
        }
        // What the wall clock should show now, had nobody set it.
        let expected = last.wall.saturating_add(boot);
        let (forward, back) = (now.wall.saturating_sub(expected), expected.saturating_sub(now.wall));
        if forward >= self.threshold {
            return Some(Gap::SetForward(forward));
        }
        (back >= self.threshold).then_some(Gap::SetBack(back))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERY: Duration = Duration::from_secs(5);
    const THRESHOLD: Duration = Duration::from_secs(10);

    fn start() -> Reading {
        Reading {
            awake: Duration::from_secs(1000),
            boot: Duration::from_secs(1500),
            wall: Duration::from_secs(1_700_000_000),
        }
    }

    fn after(reading: Reading, awake: Duration, asleep: Duration, wall: Duration) -> Reading {
        Reading {
            awake: reading.awake + awake,
            boot: reading.boot + awake + asleep,
            wall: reading.wall + wall,
        }
    }

    #[test]
    fn each_is_named_for_what_it_was() {
        let hour = Duration::from_secs(3600);
        let look = |now| Detector::new(EVERY, THRESHOLD, start()).step(now);
        assert_eq!(look(after(start(), EVERY, Duration::ZERO, EVERY)), None);
        assert_eq!(look(after(start(), EVERY, hour, EVERY + hour)), Some(Gap::Slept(hour)));
        assert_eq!(
            look(after(start(), EVERY + hour, Duration::ZERO, EVERY + hour)),
            Some(Gap::Frozen(hour))
        );
        assert_eq!(
            look(after(start(), EVERY, Duration::ZERO, EVERY + hour)),
            Some(Gap::SetForward(hour))
        );
        let back = Reading {
            wall: start().wall - hour,
            ..after(start(), EVERY, Duration::ZERO, Duration::ZERO)
        };
        assert_eq!(look(back), Some(Gap::SetBack(hour + EVERY)));
    }

    #[test]
    fn a_sleep_while_frozen_or_with_a_clock_set_at_wake_is_a_sleep() {
        let hour = Duration::from_secs(3600);
        let mut detector = Detector::new(EVERY, THRESHOLD, start());
        assert_eq!(
            detector.step(after(start(), hour, hour, Duration::ZERO)),
            Some(Gap::Slept(hour))
        );
    }

    proptest! {
        /// However long the looks go on: what stays below the threshold each time is never told.
        #[test]
        fn drift_never_adds_up(looks in proptest::collection::vec((0u64..9_000, 0u64..9_000, -9_000i64..9_000), 1..200)) {
            let mut now = start();
            let mut detector = Detector::new(EVERY, THRESHOLD, now);
            for (awake, asleep, skew) in looks {
                let (awake, asleep) = (Duration::from_millis(awake), Duration::from_millis(asleep));
                now = after(now, awake, asleep, awake + asleep);
                now.wall = if skew < 0 {
                    now.wall - Duration::from_millis(skew.unsigned_abs())
                } else {
                    now.wall + Duration::from_millis(skew.unsigned_abs())
                };
                prop_assert_eq!(detector.step(now), None);
            }
        }

        /// Every sleep is told once, with its length, and the next quiet look is quiet.
        #[test]
        fn a_sleep_is_told_once(awake in 0u64..100_000, asleep in 10_000u64..1_000_000_000, wall in 0u64..2_000_000_000) {
            let asleep = Duration::from_millis(asleep);
            let woken = after(start(), Duration::from_millis(awake), asleep, Duration::from_millis(wall));
            let mut detector = Detector::new(EVERY, THRESHOLD, start());
            prop_assert_eq!(detector.step(woken), Some(Gap::Slept(asleep)));
            prop_assert_eq!(detector.step(after(woken, EVERY, Duration::ZERO, EVERY)), None);
        }

        /// Clocks that fall, as broken hosts have them, are no reason to fail.
        #[test]
        fn no_reading_is_too_odd(readings: Vec<(u64, u64, u64)>) {
            let mut detector = Detector::new(EVERY, THRESHOLD, start());
            for (awake, boot, wall) in readings {
                let nanos = Duration::from_nanos;
                let _any = detector.step(Reading { awake: nanos(awake), boot: nanos(boot), wall: nanos(wall) });
            }
        }
    }
}
