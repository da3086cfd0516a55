//! Token usage by provider, in total and today, and what a daily budget still allows.
//!
//! A request that begins within the budget is finished, so the last one may overdraw it. The offline model costs
//! nothing: it is counted but never refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{answer::Tokens, error::Error};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    pub requests: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

impl Tally {
    fn add(&mut self, tokens: Tokens) {
        self.requests = self.requests.saturating_add(1);
        self.input_tokens = self.input_tokens.saturating_add(tokens.input);
        self.output_tokens = self.output_tokens.saturating_add(tokens.output);
    }

    pub fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}

/// Also the shape of the usage file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Days since 1970-01-01 UTC that `today` belongs to.
    day: u64,
    today: BTreeMap<String, Tally>,
    total: BTreeMap<String, Tally>,
}

impl Usage {
    pub fn record(&mut self, day: u64, provider: &str, tokens: Tokens) {
        // A clock set back does not give a spent day back.
        if day > self.day {
            self.day = day;
            self.today.clear();
        }
        self.today.entry(provider.to_owned()).or_default().add(tokens);
        self.total.entry(provider.to_owned()).or_default().add(tokens);
    }

    pub fn today(&self, day: u64, provider: &str) -> Tally {
        if day > self.day {
            Tally::default()
        } else {
            self.today.get(provider).cloned().unwrap_or_default()
        }
    }

    pub fn total(&self, provider: &str) -> Tally {
        self.total.get(provider).cloned().unwrap_or_default()
    }

    /// Whether a request that costs something may begin. A budget of 0 is none.
    pub fn allow(&self, day: u64, budget: u64, free: &str) -> Result<(), Error> {
        if budget == 0 || day > self.day {
            return Ok(());
        }
        let used = self
            .today
            .iter()
            .filter(|(provider, _)| provider.as_str() != free)
            .fold(0u64, |sum, (_, tally)| sum.saturating_add(tally.tokens()));
        if used < budget {
            Ok(())
        } else {
            Err(Error::Budget { budget, used })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_budget_ends_and_begins_with_the_day() {
        let mut usage = Usage::default();
        usage.record(10, "anthropic", Tokens { input: 60, output: 40 });
        usage.record(
            10,
            "offline",
            Tokens {
                input: 900,
                output: 900,
            },
        );
        assert_eq!(usage.allow(10, 101, "offline"), Ok(()));
        assert_eq!(
            usage.allow(10, 100, "offline"),
            Err(Error::Budget { budget: 100, used: 100 })
        );
        assert_eq!(usage.allow(10, 0, "offline"), Ok(()));
        assert_eq!(usage.allow(11, 100, "offline"), Ok(()));
        usage.record(11, "anthropic", Tokens { input: 1, output: 1 });
        assert_eq!(usage.today(11, "anthropic").tokens(), 2);
        assert_eq!(usage.total("anthropic").tokens(), 102);
    }

    #[test]
    fn a_clock_set_back_gives_nothing_back() {
        let mut usage = Usage::default();
        usage.record(10, "openai", Tokens { input: 50, output: 50 });
        assert!(usage.allow(9, 100, "offline").is_err());
    }

    proptest! {
        #[test]
        fn totals_are_the_sum_of_all_days(steps in proptest::collection::vec((0u64..5, 0u64..100, 0u64..100), 0..40)) {
            let mut usage = Usage::default();
            for (day, input, output) in &steps {
                usage.record(*day, "p", Tokens { input: *input, output: *output });
            }
            let total = usage.total("p");
            prop_assert_eq!(total.requests, steps.len() as u64);
            prop_assert_eq!(total.tokens(), steps.iter().map(|(_, i, o)| i + o).sum::<u64>());
        }
    }
}
