//! The state of each provider: its circuit breaker, and its counters since the start.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use crate::domain::{
    breaker::{Breaker, Policy},
    failure::{Failure, Kind},
    statistics::Statistics,
};

#[derive(Default)]
pub struct Board {
    pub whole: Statistics,
    providers: BTreeMap<String, Entry>,
}

#[derive(Default, Clone)]
pub struct Entry {
    pub breaker: Breaker,
    pub statistics: Statistics,
}

impl Board {
    pub fn get(&self, provider: &str) -> Entry {
        self.providers.get(provider).cloned().unwrap_or_default()
    }

    pub fn resting(&self, provider: &str, now: Instant) -> Option<Failure> {
        let breaker = &self.providers.get(provider)?.breaker;
        let left = breaker.resting(now)?;
        let text = format!(
            "is left alone for {} s after {} failures in a row; name it to ask it all the same",
            left.as_secs_f64().ceil(),
            breaker.failures()
        );
        Some(Failure::new(Kind::Resting, text))
    }

    /// Nobody rests any more.
    pub fn forgive(&mut self) {
        for entry in self.providers.values_mut() {
            entry.breaker.succeeded();
        }
    }

    pub fn began(&mut self, provider: &str) {
        self.providers
            .entry(provider.to_owned())
            .or_default()
            .statistics
            .began(SystemTime::now());
    }

    /// `took` for a whole answer; `failure` if it ended with one; neither if the caller went away.
    pub fn ended(
        &mut self,
        provider: &str,
        took: Option<Duration>,
        failure: Option<&Failure>,
        tokens: u64,
        policy: &Policy,
    ) {
        let entry = self.providers.entry(provider.to_owned()).or_default();
        entry.statistics.ended(took, tokens);
        match failure {
            Some(failure) if failure.is_sickness() => entry.breaker.failed(policy, Instant::now()),
            Some(_) => {}
            None if took.is_some() => entry.breaker.succeeded(),
            None => {}
        }
    }
}
