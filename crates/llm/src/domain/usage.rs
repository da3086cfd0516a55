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

/// What usage is counted by.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// Days since 1970-01-01 UTC.
    pub day: u64,
    pub agent: String,
    /// As `provider/model`.
    pub model: String,
    pub session: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sum {
    pub requests: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Millionths of a dollar.
    pub cost: u64,
    /// Requests whose price is not known.
    pub unpriced: u64,
}

impl Sum {
    pub fn add(&mut self, tokens: Tokens, cost: Option<u64>) {
        self.requests = self.requests.saturating_add(1);
        self.input_tokens = self.input_tokens.saturating_add(tokens.input);
        self.output_tokens = self.output_tokens.saturating_add(tokens.output);
        self.cost = self.cost.saturating_add(cost.unwrap_or(0));
        self.unpriced = self.unpriced.saturating_add(u64::from(cost.is_none()));
    }

    fn join(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.cost = self.cost.saturating_add(other.cost);
        self.unpriced = self.unpriced.saturating_add(other.unpriced);
    }
}

/// By what rows of usage are told apart; they are summed up over the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupBy {
    pub day: bool,
    pub agent: bool,
    pub model: bool,
    pub session: bool,
}

impl GroupBy {
    /// `None` for a name that is none.
    pub fn with(mut self, name: &str) -> Option<Self> {
        match name {
            "day" => self.day = true,
            "agent" => self.agent = true,
            "model" => self.model = true,
            "session" => self.session = true,
            _ => return None,
        }
        Some(self)
    }

    pub fn sum(self, rows: impl IntoIterator<Item = (Cell, Sum)>) -> Vec<(Cell, Sum)> {
        let mut sums: BTreeMap<Cell, Sum> = BTreeMap::new();
        for (cell, sum) in rows {
            let only = |keep: bool, text: String| if keep { text } else { String::new() };
            let cell = Cell {
                day: if self.day { cell.day } else { 0 },
                agent: only(self.agent, cell.agent),
                model: only(self.model, cell.model),
                session: only(self.session, cell.session),
            };
            sums.entry(cell).or_default().join(sum);
        }
        sums.into_iter().collect()
    }
}

/// A day as `2026-11-30`.
pub fn date(day: u64) -> String {
    // Years begin in March, so that the leap day is the last one.
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The day of `2026-11-30`.
pub fn day(date: &str) -> Option<u64> {
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, of_month) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&of_month) {
        return None;
    }
    let (shifted_year, shifted_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let day = shifted_year * 365 + leap_days + (shifted_month * 153 + 2) / 5 + of_month - 1 - 719_468;
    (self::date(day) == date).then_some(day)
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

    #[test]
    fn rows_are_summed_over_what_is_not_asked_for() {
        let cell = |day, agent: &str, session: &str| Cell {
            day,
            agent: agent.into(),
            model: "p/m".into(),
            session: session.into(),
        };
        let mut one = Sum::default();
        one.add(Tokens { input: 2, output: 1 }, Some(5));
        let rows = [
            (cell(1, "a", "s"), one),
            (cell(1, "b", "s"), one),
            (cell(2, "a", "t"), one),
        ];
        let by_agent = GroupBy::default().with("agent").expect("known").sum(rows.clone());
        let told: Vec<_> = by_agent
            .iter()
            .map(|(cell, sum)| (cell.agent.as_str(), sum.requests, sum.cost))
            .collect();
        assert_eq!(told, [("a", 2, 10), ("b", 1, 5)]);
        assert_eq!(GroupBy::default().sum(rows)[0].1.input_tokens, 6);
        assert_eq!(GroupBy::default().with("colour"), None);
    }

    #[test]
    fn dates_are_days_and_back() {
        assert_eq!((date(0).as_str(), date(20_787).as_str()), ("1970-01-01", "2026-11-30"));
        for one in (0..60_000).step_by(97) {
            assert_eq!(day(&date(one)), Some(one));
        }
        for wrong in ["", "2026-02-30", "2026-13-01", "26-1-1", "2026-11-30-1", "1969-12-31"] {
            assert_eq!(day(wrong), None, "{wrong}");
        }
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
