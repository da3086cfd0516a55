//! Formats times for people and for programs.

use std::time::{Duration, SystemTime};

use nexus_proto::Timestamp;

/// RFC 3339; empty for a time that is not set.
pub fn exact(time: Option<&Timestamp>) -> Option<String> {
    time.map(ToString::to_string)
}

/// How long ago, in one unit.
pub fn ago(time: Option<&Timestamp>) -> String {
    match time.and_then(|time| since(time, SystemTime::now())) {
        Some(age) if age < Duration::from_secs(1) => "now".to_owned(),
        Some(age) => format!("{} ago", span(age)),
        None => "-".to_owned(),
    }
}

pub fn since(time: &Timestamp, now: SystemTime) -> Option<Duration> {
    let then = SystemTime::try_from(*time).ok()?;
    Some(now.duration_since(then).unwrap_or_default())
}

/// The largest unit that fits, rounded down.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_use_the_largest_unit() {
        let said = [0, 59, 60, 3_599, 3_600, 86_399, 86_400 * 45].map(|s| span(Duration::from_secs(s)));
        assert_eq!(said, ["0s", "59s", "1m", "59m", "1h", "23h", "45d"]);
    }

    #[test]
    fn a_clock_that_went_back_shows_no_age() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let later = Timestamp { seconds: 20, nanos: 0 };
        assert_eq!(since(&later, now), Some(Duration::ZERO));
    }
}
