use std::collections::BTreeMap;
use std::fmt::Write;

use serde::de::DeserializeOwned;

use crate::error::{Errors, Mistake, Origin};
use crate::extract::from_fields;
use crate::setting::{Schema, Setting};
use crate::value::Value;

/// The checked values of one section, each with where it came from.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) schema: Schema,
    pub(crate) values: BTreeMap<&'static str, (Value, Origin)>,
}

/// A setting whose value differs between two loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key of the setting.
    pub key: &'static str,
    /// It can be applied without a restart.
    pub live: bool,
}

impl Settings {
    /// The section that these values are of.
    pub fn section(&self) -> &'static str {
        self.schema.section
    }

    /// The typed struct; its field names are the keys, further keys are passed over.
    pub fn extract<T: DeserializeOwned>(&self) -> Result<T, Errors> {
        let entries = self.values.iter().map(|(key, (value, _))| (*key, value.clone()));
        from_fields(entries).map_err(|(key, reason)| {
            let known = self.schema.find(key);
            let (value, origin) = match self.values.get(key) {
                Some((value, origin)) => (Some(value.to_toml()), origin.clone()),
                None => (None, Origin::Default),
            };
            Errors(vec![Mistake {
                origin,
                key: if key.is_empty() {
                    self.section().to_owned()
                } else {
                    self.full(key)
                },
                value: value.filter(|_| known.is_some_and(|s| !s.secret)),
                reason,
                nearest: None,
            }])
        })
    }

    /// The value of a key; none if the table has no such key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).map(|(value, _)| value)
    }

    /// The source of a key's value; none if the table has no such key.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|(_, origin)| origin)
    }

    /// What differs in `newer`, in the order of the table.
    pub fn diff(&self, newer: &Settings) -> Vec<Change> {
        self.changed(newer)
            .map(|s| Change {
                key: s.key,
                live: s.live,
            })
            .collect()
    }

    /// These settings with every live one taken from `newer`: what holds after a reload.
    pub fn with_live_of(&self, newer: &Settings) -> Settings {
        let mut merged = self.clone();
        for setting in self.changed(newer).filter(|s| s.live) {
            if let Some(value) = newer.values.get(setting.key) {
                merged.values.insert(setting.key, value.clone());
            }
        }
        merged
    }

    fn changed<'a>(&'a self, newer: &'a Settings) -> impl Iterator<Item = &'a Setting> {
        self.schema
            .settings
            .iter()
            .filter(|s| self.get(s.key) != newer.get(s.key))
    }

    /// The section as TOML that reads back to the same values, with a comment on where each came from.
    pub fn dump(&self) -> String {
        let mut out = format!("[{}]\n", self.section());
        for setting in &self.schema.settings {
            let Some((value, origin)) = self.values.get(setting.key) else {
                continue;
            };
            let line = match value {
                Value::Unset => format!("# {} is not set", setting.key),
                _ if setting.secret => format!("# {} is set and not shown", setting.key),
                value => format!("{} = {}", setting.key, value.to_toml()),
            };
            writeln!(out, "{line}  # {origin}").expect("writing to a string cannot fail");
        }
        out
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.section())
    }
}
