//! How long to wait before the next attempt.

use std::time::Duration;

use crate::Redial;

/// The ceiling of the first pause; its mean is half of that.
const FIRST: Duration = Duration::from_millis(100);
/// No pause is shorter, so that a fault that shows at once cannot spin.
const FLOOR: Duration = Duration::from_millis(5);

/// Exponential with full jitter: each pause is drawn evenly from zero to a ceiling that doubles, up to the cap. Many
/// clients of a daemon that restarts then come back spread out.
#[derive(Clone, Debug)]
pub struct Backoff {
    cap: Duration,
    max_attempts: u32,
    attempts: u32,
    /// What ends a pause early, and the newest generation that was seen.
    redial: Option<(Redial, u64)>,
}

impl Backoff {
    /// `max_attempts` 0 is without end.
    pub fn new(cap: Duration, max_attempts: u32) -> Self {
        Backoff {
            cap,
            max_attempts,
            attempts: 0,
            redial: None,
        }
    }

    /// Without an end of attempts.
    pub fn endless(self) -> Self {
        Backoff {
            max_attempts: 0,
            ..self
        }
    }

    /// Each request to redial ends the pause and resets the backoff.
    pub(crate) fn woken_by(self, redial: Redial) -> Self {
        let seen = redial.generation();
        Backoff {
            redial: Some((redial, seen)),
            ..self
        }
    }

    /// The pause before the next attempt, or `None` when there shall be no further one.
    pub fn next_pause(&mut self) -> Option<Duration> {
        // Without randomness the pause is the ceiling: later than meant, never wrong.
        let draw = getrandom::u64().unwrap_or(u64::MAX);
        if let Some((redial, seen)) = &mut self.redial {
            let newest = redial.generation();
            if std::mem::replace(seen, newest) != newest {
                self.attempts = 0;
            }
        }
        self.pause_with(draw)
    }

    /// The next pause as something to wait for; `None` when there shall be no further attempt.
    pub fn pause(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let pause = self.next_pause()?;
        let first = FIRST.mul_f64(0.5).min(pause);
        let woken = self.redial.as_ref().map(|(redial, seen)| redial.after(*seen));
        Some(async move {
            let slept = tokio::time::sleep(pause);
            match woken {
                None => slept.await,
                Some(woken) => tokio::select! {
                    () = slept => {}
                    // Not all at the same instant: what was drawn, on a shorter scale.
                    () = woken => tokio::time::sleep(first).await,
                },
            }
        })
    }

    fn pause_with(&mut self, draw: u64) -> Option<Duration> {
        self.attempts = self.attempts.saturating_add(1);
        if self.max_attempts != 0 && self.attempts > self.max_attempts {
            return None;
        }
        let ceiling = FIRST.saturating_mul(1 << (self.attempts - 1).min(20)).min(self.cap);
        #[expect(clippy::cast_precision_loss, reason = "a random fraction needs no more")]
        let fraction = draw as f64 / u64::MAX as f64;
        Some(ceiling.mul_f64(fraction).max(FLOOR.min(self.cap)))
    }

    /// Sleeps for the next pause; false when there shall be no further attempt.
    pub async fn wait(&mut self) -> bool {
        match self.pause() {
            Some(pause) => {
                pause.await;
                true
            }
            None => false,
        }
    }

    /// Call this after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_the_cap() {
        let mut backoff = Backoff::new(Duration::from_secs(5), 0);
        let ceilings: Vec<_> = (0..8)
            .map(|_| backoff.pause_with(u64::MAX).unwrap().as_millis())
            .collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        for _ in 0..1000 {
            assert_eq!(backoff.pause_with(u64::MAX).unwrap(), Duration::from_secs(5));
        }
        backoff.reset();
        assert_eq!(
            backoff.pause_with(u64::MAX / 2).unwrap().as_millis(),
            50,
            "the first pause is 50 ms in the mean"
        );
        assert_eq!(backoff.pause_with(0).unwrap(), FLOOR);
    }

    #[test]
    fn attempts_end_only_if_asked_to() {
        let mut backoff = Backoff::new(Duration::from_secs(1), 2);
        assert!(backoff.next_pause().is_some());
        assert!(backoff.next_pause().is_some());
        assert_eq!(backoff.next_pause(), None);
        assert_eq!(backoff.next_pause(), None);
    }
}
