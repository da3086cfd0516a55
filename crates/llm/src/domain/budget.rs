//! Budgets: what each run, session, agent and day has used, and what requests under way may still use.
//!
//! ```text
//! reserve: input estimate + longest answer, in every scope at once, or in none
//!    │
//!    ├── settle: what was really used takes its place
//!    └── the daemon dies: at its next start the input counts
//! ```
//!
//! A request is sent only while each of its scopes has room for all that it may use, so a budget is never overdrawn by
//! requests that run beside one another.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Run,
    Session,
    Agent,
    Day,
}

impl Kind {
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "run" => Some(Self::Run),
            "session" => Some(Self::Session),
            "agent" => Some(Self::Agent),
            "day" => Some(Self::Day),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Session => "session",
            Self::Agent => "agent",
            Self::Day => "day",
        }
    }

    /// For how many days after its last use a scope is remembered.
    pub fn kept_days(self) -> u64 {
        match self {
            Self::Run | Self::Day => 8,
            Self::Session | Self::Agent => 400,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    pub kind: Kind,
    pub id: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.id)
    }
}

/// A budget as a request names it. The limits are the caller's each time: it may raise them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub key: Key,
    pub max_tokens: Option<u64>,
    /// Millionths of a dollar.
    pub max_cost: Option<u64>,
}

/// What a request may use, or has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    pub tokens: u64,
    /// Millionths of a dollar; `None` where no price is known.
    pub cost: Option<u64>,
}

/// What a scope has used. Also the shape of its document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    pub tokens: u64,
    pub cost: u64,
    /// The day of its last use, counted from 1970-01-01 UTC.
    pub day: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    spent: Spent,
    reserved_tokens: u64,
    reserved_cost: u64,
}

/// How far a budget is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    pub scope: Scope,
    pub spent: Spent,
}

impl Use {
    /// Four fifths or more of a limit are used.
    pub fn is_nearly_up(&self) -> bool {
        let nearly =
            |used: u64, limit: Option<u64>| limit.is_some_and(|limit| u128::from(used) * 5 >= u128::from(limit) * 4);
        nearly(self.spent.tokens, self.scope.max_tokens) || nearly(self.spent.cost, self.scope.max_cost)
    }

    /// It was not before this was used.
    pub fn is_newly_up(&self, used: Amount) -> bool {
        let mut before = self.clone();
        before.spent.tokens = before.spent.tokens.saturating_sub(used.tokens);
        before.spent.cost = before.spent.cost.saturating_sub(used.cost.unwrap_or(0));
        self.is_nearly_up() && !before.is_nearly_up()
    }
}

/// Why a request is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("budget: {key} has {left} of {limit} tokens left, and this request may use {needed}")]
    Tokens {
        key: Key,
        limit: u64,
        left: u64,
        needed: u64,
    },
    #[error("budget: {key} has ${} of ${} left, and this request may cost ${}", dollars(*left), dollars(*limit), dollars(*needed))]
    Cost {
        key: Key,
        limit: u64,
        left: u64,
        needed: u64,
    },
    #[error("budget: {key} has a limit of money, and no price of {model} is known: set it with llm.prices")]
    NoPrice { key: Key, model: String },
}

pub fn dollars(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let short = text.trim_end_matches('0');
    short.strip_suffix('.').map_or(short, |whole| whole).to_owned()
}

/// All scopes that were ever named and are still remembered.
#[derive(Debug, Default)]
pub struct Budgets {
    all: BTreeMap<Key, Held>,
}

impl Budgets {
    /// As it was when the daemon last ran.
    pub fn remember(&mut self, key: Key, spent: Spent) {
        self.all.entry(key).or_default().spent = spent;
    }

    pub fn spent(&self, key: &Key) -> Spent {
        self.all.get(key).map(|held| held.spent).unwrap_or_default()
    }

    /// Reserves in every scope, or says which one has no room and changes nothing.
    pub fn reserve(&mut self, scopes: &[Scope], needed: Amount, model: &str) -> Result<(), Refused> {
        for scope in scopes {
            let held = self.all.get(&scope.key).copied().unwrap_or_default();
            held.has_room(scope, needed, model)?;
        }
        for scope in scopes {
            let held = self.all.entry(scope.key.clone()).or_default();
            held.reserved_tokens = held.reserved_tokens.saturating_add(needed.tokens);
            held.reserved_cost = held.reserved_cost.saturating_add(needed.cost.unwrap_or(0));
        }
        Ok(())
    }

    /// Puts what was really used in the place of what was reserved.
    pub fn settle(&mut self, scopes: &[Scope], reserved: Amount, used: Amount, day: u64) -> Vec<Use> {
        let settled = scopes.iter().map(|scope| {
            let held = self.all.entry(scope.key.clone()).or_default();
            held.reserved_tokens = held.reserved_tokens.saturating_sub(reserved.tokens);
            held.reserved_cost = held.reserved_cost.saturating_sub(reserved.cost.unwrap_or(0));
            held.spent.add(used, day);
            Use {
                scope: scope.clone(),
                spent: held.spent,
            }
        });
        settled.collect()
    }
}

impl Spent {
    pub fn add(&mut self, used: Amount, day: u64) {
        self.tokens = self.tokens.saturating_add(used.tokens);
        self.cost = self.cost.saturating_add(used.cost.unwrap_or(0));
        self.day = self.day.max(day);
    }
}

impl Held {
    fn has_room(&self, scope: &Scope, needed: Amount, model: &str) -> Result<(), Refused> {
        let key = || scope.key.clone();
        if let Some(limit) = scope.max_tokens {
            let left = limit.saturating_sub(self.spent.tokens.saturating_add(self.reserved_tokens));
            if needed.tokens > left {
                return Err(Refused::Tokens {
                    key: key(),
                    limit,
                    left,
                    needed: needed.tokens,
                });
            }
        }
        let Some(limit) = scope.max_cost else { return Ok(()) };
        let Some(cost) = needed.cost else {
            return Err(Refused::NoPrice {
                key: key(),
                model: model.to_owned(),
            });
        };
        let left = limit.saturating_sub(self.spent.cost.saturating_add(self.reserved_cost));
        if cost > left {
            return Err(Refused::Cost {
                key: key(),
                limit,
                left,
                needed: cost,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope(kind: Kind, max_tokens: Option<u64>, max_cost: Option<u64>) -> Scope {
        Scope {
            key: Key { kind, id: "x".into() },
            max_tokens,
            max_cost,
        }
    }

    fn amount(tokens: u64, cost: Option<u64>) -> Amount {
        Amount { tokens, cost }
    }

    #[test]
    fn all_scopes_or_none() {
        let mut budgets = Budgets::default();
        let scopes = [
            scope(Kind::Session, Some(1_000), None),
            scope(Kind::Run, Some(100), None),
        ];
        let refused = budgets
            .reserve(&scopes, amount(200, None), "p/m")
            .expect_err("too much for the run");
        assert_eq!(
            refused.to_string(),
            "budget: run x has 100 of 100 tokens left, and this request may use 200"
        );
        assert!(
            budgets.reserve(&scopes[..1], amount(1_000, None), "p/m").is_ok(),
            "the session is untouched"
        );
    }

    #[test]
    fn what_was_used_takes_the_place_of_what_was_reserved() {
        let mut budgets = Budgets::default();
        let scopes = [scope(Kind::Run, Some(100), None)];
        budgets.reserve(&scopes, amount(90, None), "p/m").expect("room");
        assert!(budgets.reserve(&scopes, amount(20, None), "p/m").is_err());
        let uses = budgets.settle(&scopes, amount(90, None), amount(30, None), 7);
        assert_eq!((uses[0].spent.tokens, uses[0].is_nearly_up()), (30, false));
        budgets.reserve(&scopes, amount(70, None), "p/m").expect("room again");
        let uses = budgets.settle(&scopes, amount(70, None), amount(50, None), 7);
        assert!(uses[0].is_nearly_up(), "80 of 100");
        assert_eq!(
            [50, 0].map(|used| uses[0].is_newly_up(amount(used, None))),
            [true, false]
        );
    }

    #[test]
    fn money_without_a_price_is_refused() {
        let mut budgets = Budgets::default();
        let scopes = [scope(Kind::Day, None, Some(2_500_000))];
        let refused = budgets
            .reserve(&scopes, amount(1, None), "p/m")
            .expect_err("no price")
            .to_string();
        assert!(refused.contains("no price of p/m is known"), "{refused}");
        let refused = budgets
            .reserve(&scopes, amount(1, Some(3_000_000)), "p/m")
            .expect_err("too much");
        assert_eq!(
            refused.to_string(),
            "budget: day x has $2.5 of $2.5 left, and this request may cost $3"
        );
    }

    proptest! {
        /// However requests come and end, what is used never passes the limit, as long as none uses more than it reserved.
        #[test]
        fn a_budget_is_never_overdrawn(steps in proptest::collection::vec((1u64..400, 0u64..100, any::<bool>()), 1..80)) {
            let mut budgets = Budgets::default();
            let scopes = [scope(Kind::Session, Some(1_000), None)];
            let mut open = Vec::new();
            for (tokens, percent, ends) in steps {
                if ends && !open.is_empty() {
                    let reserved: Amount = open.remove(0);
                    budgets.settle(&scopes, reserved, amount(reserved.tokens * percent / 100, None), 1);
                } else if budgets.reserve(&scopes, amount(tokens, None), "p/m").is_ok() {
                    open.push(amount(tokens, None));
                }
                let reserved: u64 = open.iter().map(|one| one.tokens).sum();
                prop_assert!(budgets.spent(&scopes[0].key).tokens + reserved <= 1_000);
            }
        }
    }
}
