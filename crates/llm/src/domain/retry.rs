//! When the same provider is asked again: only before the first token, only for what passes, never longer than the
//! caller may have to wait.

use std::time::Duration;

use super::failure::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// After the first attempt.
    pub retries: u32,
    pub base: Duration,
    /// The longest pause of ours.
    pub longest: Duration,
    /// The longest that a provider may ask for; a longer one is not waited for.
    pub longest_asked: Duration,
}

impl Policy {
    /// The pause before the next attempt, or `None` to give up. `attempt` counts from 0, `random` is in 0..1.
    pub fn pause(&self, attempt: u32, failure: &Failure, random: f64) -> Option<Duration> {
        if attempt >= self.retries || !failure.is_passing() {
            return None;
        }
        if let Some(asked) = failure.retry_after {
            return (asked <= self.longest_asked).then_some(asked);
        }
        let whole = self.base.saturating_mul(2u32.saturating_pow(attempt)).min(self.longest);
        Some(whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0))
    }
}

/// The value of a `Retry-After` header: seconds, or a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn retry_after(value: &str, now_unix: u64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    Some(Duration::from_secs(unix_of(value)?.saturating_sub(now_unix)))
}

fn unix_of(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut parts = date.split_ascii_whitespace().skip(1);
    let day: u64 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year: u64 = parts.next()?.parse().ok()?;
    let clock = parts
        .next()?
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<Vec<u64>>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    let sane = (1970..=9999).contains(&year) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !sane || parts.next()? != "GMT" {
        return None;
    }
    // Days from 1970-01-01, with years that begin in March so that the leap day is the last one.
    let (shifted_year, shifted_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let days = shifted_year * 365 + leap_days + (shifted_month * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::failure::Kind;

    const POLICY: Policy = Policy {
        retries: 3,
        base: Duration::from_millis(500),
        longest: Duration::from_secs(20),
        longest_asked: Duration::from_secs(120),
    };

    #[test]
    fn honours_what_the_provider_asks() {
        let mut failure = Failure::new(Kind::RateLimited, "slow down");
        failure.retry_after = Some(Duration::from_secs(7));
        assert_eq!(POLICY.pause(0, &failure, 0.3), Some(Duration::from_secs(7)));
        failure.retry_after = Some(Duration::from_secs(120));
        assert_eq!(POLICY.pause(0, &failure, 0.3), Some(Duration::from_secs(120)));
        failure.retry_after = Some(Duration::from_secs(3600));
        assert_eq!(POLICY.pause(0, &failure, 0.3), None);
    }

    #[test]
    fn gives_up_on_what_does_not_pass() {
        for kind in [Kind::NoKey, Kind::Refused, Kind::Invalid, Kind::UnknownModel] {
            assert_eq!(POLICY.pause(0, &Failure::new(kind, ""), 0.0), None);
        }
    }

    #[test]
    fn reads_dates() {
        assert_eq!(unix_of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(unix_of("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_770),
            Some(Duration::from_secs(7))
        );
        assert_eq!(retry_after("2", 0), Some(Duration::from_secs(2)));
        for wrong in ["", "soon", "-3", "Sun, 06 Nov 1994", "Sun, 06 Foo 1994 08:49:37 GMT"] {
            assert_eq!(retry_after(wrong, 0), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_pause_is_bounded_and_attempts_end(attempt in 0u32..100, random in 0.0f64..1.0) {
            let pause = POLICY.pause(attempt, &Failure::new(Kind::Server, ""), random);
            prop_assert_eq!(pause.is_some(), attempt < POLICY.retries);
            prop_assert!(pause.unwrap_or_default() <= POLICY.longest);
        }

        #[test]
        fn no_header_can_upset_it(value in ".{0,60}") {
            let _ = retry_after(&value, 1_700_000_000);
        }
    }
}
