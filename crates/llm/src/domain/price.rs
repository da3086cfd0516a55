//! What models cost: a dated table of ours, which the settings override.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    answer::{Cached, Tokens},
    catalogue,
};

/// In dollars for a million tokens, or millionths of a dollar for one.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Price {
    input: f64,
    output: f64,
    /// Input that was read from the provider's cache.
    #[serde(default)]
    cache_read: Option<f64>,
    /// Input that was written to it.
    #[serde(default)]
    cache_write: Option<f64>,
}

impl Price {
    const FREE: Self = Self {
        input: 0.0,
        output: 0.0,
        cache_read: None,
        cache_write: None,
    };

    /// The most that a request may cost, in millionths of a dollar.
    pub fn most(&self, input: u64, output: u64) -> u64 {
        let dearest = self.input.max(self.cache_write.unwrap_or(0.0));
        micros(input as f64 * dearest + output as f64 * self.output)
    }

    pub fn of(&self, tokens: Tokens, cached: Cached) -> u64 {
        let read = cached.read.min(tokens.input);
        let written = cached.written.min(tokens.input - read);
        let plain = tokens.input - read - written;
        micros(
            plain as f64 * self.input
                + read as f64 * self.cache_read.unwrap_or(self.input)
                + written as f64 * self.cache_write.unwrap_or(self.input)
                + tokens.output as f64 * self.output,
        )
    }

    /// `INPUT OUTPUT`, in dollars for a million tokens; then, where there is a cache, reading and writing it.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers: Option<Vec<f64>> = text
            .split([' ', ',', '/'])
            .filter(|word| !word.is_empty())
            .map(|word| {
                word.trim_start_matches('$')
                    .parse()
                    .ok()
                    .filter(|price: &f64| price.is_finite() && *price >= 0.0)
            })
            .collect();
        match numbers?[..] {
            [input, output] => Some(Self {
                input,
                output,
                ..Self::FREE
            }),
            [input, output, read, write] => Some(Self {
                input,
                output,
                cache_read: Some(read),
                cache_write: Some(write),
            }),
            _ => None,
        }
    }
}

/// Rounded up: a budget is not to be overdrawn by fractions.
fn micros(cost: f64) -> u64 {
    // A float that is too large becomes the largest number.
    cost.ceil() as u64
}

#[derive(Debug, Deserialize)]
struct Table {
    model: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    provider: String,
    id: String,
    #[serde(flatten)]
    price: Price,
}

/// The prices in force.
#[derive(Debug, Clone, Default)]
pub struct Prices {
    known: BTreeMap<(String, String), Price>,
    /// By `provider/model`.
    set: BTreeMap<String, Price>,
}

impl Prices {
    /// Ours, and those of the settings, which were checked.
    pub fn new(set: &BTreeMap<String, String>) -> Self {
        let table: Table = toml::from_str(include_str!("prices.toml")).expect("a test reads this table");
        Self {
            known: table
                .model
                .into_iter()
                .map(|entry| ((entry.provider, entry.id), entry.price))
                .collect(),
            set: set
                .iter()
                .filter_map(|(name, text)| Some((name.clone(), Price::parse(text)?)))
                .collect(),
        }
    }

    /// A dated name of a model costs what the model does.
    pub fn find(&self, provider: &str, model: &str) -> Option<Price> {
        if provider == catalogue::OFFLINE {
            return Some(Price::FREE);
        }
        let set = self.set.get(&format!("{provider}/{model}"));
        let known = |model: &str| self.known.get(&(provider.to_owned(), model.to_owned()));
        set.or_else(|| known(model)).or_else(|| known(undated(model)?)).copied()
    }
}

/// Without `-20250929`, `-2025-08-07` or `-latest`.
fn undated(model: &str) -> Option<&str> {
    if let Some(name) = model.strip_suffix("-latest") {
        return Some(name);
    }
    let digits = |text: &str, many: usize| text.len() == many && text.bytes().all(|byte| byte.is_ascii_digit());
    let (name, last) = model.rsplit_once('-')?;
    if digits(last, 8) {
        return Some(name);
    }
    let (name, month) = name.rsplit_once('-')?;
    let (name, year) = name.rsplit_once('-')?;
    (digits(year, 4) && digits(month, 2) && digits(last, 2)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(set: &[(&str, &str)]) -> Prices {
        let set = set.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Prices::new(&set.collect())
    }

    #[test]
    fn every_model_that_we_know_has_a_price() {
        let prices = prices(&[]);
        for provider in [catalogue::ANTHROPIC, catalogue::OPENAI, catalogue::GEMINI] {
            for model in catalogue::models(provider) {
                assert!(prices.find(provider, &model.id).is_some(), "{provider}/{}", model.id);
            }
        }
        assert_eq!(prices.find("offline", "script"), Some(Price::FREE));
        assert_eq!(prices.find("openai", "gpt-99"), None);
        assert_eq!(
            prices.find("openai", "gpt-4o-2024-08-06"),
            prices.find("openai", "gpt-4o")
        );
        assert_ne!(prices.find("openai", "gpt-4o-mini"), prices.find("openai", "gpt-4o"));
    }

    #[test]
    fn the_settings_override_the_table() {
        let prices = prices(&[("openai/gpt-4o", "1 2"), ("rack/llama", "0 0")]);
        let price = prices.find("openai", "gpt-4o").expect("set");
        let tokens = Tokens {
            input: 1_000,
            output: 10,
        };
        assert_eq!(price.of(tokens, Cached::default()), 1_020);
        assert_eq!(prices.find("rack", "llama").map(|price| price.most(9, 9)), Some(0));
        for wrong in ["", "1", "1 x", "1 2 3", "-1 2", "inf 1"] {
            assert_eq!(Price::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_cache_is_cheaper_to_read_and_dearer_to_write() {
        let price = Price::parse("3 15 0.3 6").expect("valid");
        let tokens = Tokens { input: 100, output: 0 };
        let cached = |read, written| price.of(tokens, Cached { read, written });
        assert_eq!(
            [cached(0, 0), cached(100, 0), cached(0, 100), cached(50, 50)],
            [300, 30, 600, 315]
        );
        assert_eq!(price.most(100, 0), 600, "what may be written is reserved");
        assert_eq!(cached(900, 900), 30, "never more than there was");
    }
}
