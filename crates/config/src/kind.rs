use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::root::{Root, user_home};
use crate::value::{Value, parse_size};

/// What a setting may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int {
        /// The smallest value that is allowed.
        min: i64,
        /// The largest value that is allowed; `i64::MAX` means no bound.
        max: i64,
    },
    /// A number with a fraction.
    Float,
    /// Any text.
    Text,
    /// `~` and `$NEXUS_ROOT` are expanded; a relative one counts from the root.
    Path,
    /// With a unit: `30s`, `5m`, `1h 30m`.
    Duration,
    /// `100MiB`, or plain bytes.
    Size,
    /// A TOML array, or separated by commas.
    List,
    /// A TOML table, or `name=value` separated by commas.
    Map,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// A value as a source gives it, before it is checked.
#[derive(Debug, Clone)]
pub(crate) enum Raw {
    /// From the environment, a flag or a default: everything is text there.
    Text(String),
    /// From the file, where a value has a type of its own.
    Typed(config::Value),
}

impl Kind {
    /// Whether an empty text means "not set".
    fn empty_is_unset(self) -> bool {
        !matches!(self, Kind::List | Kind::Map | Kind::Bool)
    }

    pub(crate) fn check(self, raw: &Raw, root: &Root) -> Result<Value, String> {
        match raw {
            Raw::Text(text) => self.check_text(text.trim(), root),
            Raw::Typed(value) => self.check_typed(value, root),
        }
    }

    fn check_text(self, text: &str, root: &Root) -> Result<Value, String> {
        if text.is_empty() && self.empty_is_unset() {
            return Ok(Value::Unset);
        }
        match self {
            Kind::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(Value::Bool(true)),
                "false" | "no" | "off" | "0" => Ok(Value::Bool(false)),
                _ => Err("expected true or false".to_owned()),
            },
            Kind::Int { min, max } => {
                let value = text.parse().map_err(|_| "expected a whole number".to_owned())?;
                in_range(value, min, max)
            }
            Kind::Float => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Value::Float(value)),
                _ => Err("expected a number".to_owned()),
            },
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Path => expand(text, root).map(Value::Path),
            Kind::Duration => duration(text).map(Value::Duration),
            Kind::Size => parse_size(text).map(Value::Size),
            Kind::List => Ok(Value::List(items(text).map(str::to_owned).collect())),
            Kind::Map => items(text)
                .map(|item| match item.split_once('=') {
                    Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
                    None => Err(format!("expected name=value, found {item:?}")),
                })
                .collect::<Result<BTreeMap<_, _>, _>>()
                .map(Value::Map),
            Kind::Choice(names) => match names.iter().find(|name| name.eq_ignore_ascii_case(text)) {
                Some(name) => Ok(Value::Text((*name).to_owned())),
                None => Err(format!("expected one of {}", names.join(", "))),
            },
        }
    }

    fn check_typed(self, value: &config::Value, root: &Root) -> Result<Value, String> {
        use config::ValueKind as V;
        match (self, &value.kind) {
            (Kind::Bool, V::Boolean(value)) => Ok(Value::Bool(*value)),
            (Kind::Int { min, max }, V::I64(value)) => in_range(*value, min, max),
            (Kind::Float, V::Float(value)) if value.is_finite() => Ok(Value::Float(*value)),
            #[expect(
                clippy::cast_precision_loss,
                reason = "a whole number written for a fraction is small"
            )]
            (Kind::Float, V::I64(value)) => Ok(Value::Float(*value as f64)),
            (Kind::Size, V::I64(value)) => u64::try_from(*value)
                .map(Value::Size)
                .map_err(|_| "a size is not negative".to_owned()),
            (Kind::Duration, V::I64(value)) => duration(&value.to_string()).map(Value::Duration),
            (Kind::List, V::Array(values)) => values.iter().map(scalar).collect::<Result<_, _>>().map(Value::List),
            (Kind::Map, V::Table(values)) => values
                .iter()
                .map(|(name, value)| Ok((name.clone(), scalar(value)?)))
                .collect::<Result<_, String>>()
                .map(Value::Map),
            (Kind::Bool | Kind::Float, V::String(_)) => Err(self.expected()),
            (Kind::Int { .. }, V::String(text)) if !text.is_empty() => Err(self.expected()),
            (_, V::String(text)) => self.check_text(text, root),
            _ => Err(self.expected()),
        }
    }

    fn expected(self) -> String {
        match self {
            Kind::Bool => "expected true or false, without quotes".to_owned(),
            Kind::Int { .. } => "expected a whole number, without quotes".to_owned(),
            Kind::Float => "expected a number, without quotes".to_owned(),
            Kind::Text | Kind::Path => "expected a text in quotes".to_owned(),
            Kind::Duration => "expected a duration such as \"30s\"".to_owned(),
            Kind::Size => "expected a size such as \"100MiB\"".to_owned(),
            Kind::List => "expected a list such as [\"a\", \"b\"]".to_owned(),
            Kind::Map => "expected a table such as { \"a\" = \"b\" }".to_owned(),
            Kind::Choice(names) => format!("expected one of {}", names.join(", ")),
        }
    }

    /// Its name, for programs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int { .. } => "int",
            Kind::Float => "float",
            Kind::Text => "text",
            Kind::Path => "path",
            Kind::Duration => "duration",
            Kind::Size => "size",
            Kind::List => "list",
            Kind::Map => "map",
            Kind::Choice(_) => "choice",
        }
    }

    /// What a person may write, for help texts.
    pub fn describe(self) -> String {
        match self {
            Kind::Bool => "true|false".to_owned(),
            Kind::Int { min, max } if max == i64::MAX => format!("number from {min}"),
            Kind::Int { min, max } => format!("number {min} to {max}"),
            Kind::Float => "number".to_owned(),
            Kind::Text => "text".to_owned(),
            Kind::Path => "path".to_owned(),
            Kind::Duration => "duration".to_owned(),
            Kind::Size => "size".to_owned(),
            Kind::List => "list".to_owned(),
            Kind::Map => "table".to_owned(),
            Kind::Choice(names) => names.join("|"),
        }
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn scalar(value: &config::Value) -> Result<String, String> {
    use config::ValueKind as V;
    match &value.kind {
        V::String(text) => Ok(text.clone()),
        V::I64(number) => Ok(number.to_string()),
        V::Boolean(value) => Ok(value.to_string()),
        V::Float(number) => Ok(number.to_string()),
        _ => Err("its entries must be texts".to_owned()),
    }
}

fn in_range(value: i64, min: i64, max: i64) -> Result<Value, String> {
    if (min..=max).contains(&value) {
        return Ok(Value::Int(value));
    }
    Err(match max {
        i64::MAX => format!("must be at least {min}"),
        _ => format!("must be from {min} to {max}"),
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    if text.chars().all(|c| c.is_ascii_digit()) {
        return Err(format!(
            "a duration needs a unit: \"{text}s\", \"{text}ms\" or \"{text}m\""
        ));
    }
    humantime::parse_duration(text).map_err(|_| "expected a duration such as \"30s\", \"5m\" or \"1h 30m\"".to_owned())
}

fn expand(text: &str, root: &Root) -> Result<PathBuf, String> {
    let home = || user_home().ok_or_else(|| "~ cannot be expanded: no home directory is known".to_owned());
    if text == "~" {
        return home();
    }
    if let Some(rest) = text.strip_prefix("~/") {
        return Ok(home()?.join(rest));
    }
    for name in ["$NEXUS_ROOT", "${NEXUS_ROOT}"] {
        match text.strip_prefix(name) {
            Some("") => return Ok(root.path().to_path_buf()),
            Some(rest) if rest.starts_with('/') => return Ok(root.path().join(rest.trim_start_matches('/'))),
            _ => {}
        }
    }
    if text.contains('$') {
        return Err("only $NEXUS_ROOT and ~ are expanded, at the beginning".to_owned());
    }
    Ok(match Path::new(text) {
        path if path.is_absolute() => path.to_path_buf(),
        path => root.path().join(path),
    })
}
