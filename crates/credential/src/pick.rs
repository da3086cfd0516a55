//! Takes one value from a text that holds several.

use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use crate::{Secret, dotenv};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Missing,
    /// Neither JSON nor lines of `NAME=value`, or the value is no text.
    Form,
}

/// `key` is a path in JSON (`accounts[0].token`), or a name in lines of `NAME=value`.
pub(crate) fn pick(text: &str, key: &str) -> Result<Secret, Wrong> {
    if !text.trim_start().starts_with(['{', '[']) {
        let mut lines = dotenv::parse(text).map_err(|_| Wrong::Form)?;
        let at = lines.iter().position(|(name, _)| name == key).ok_or(Wrong::Missing)?;
        return Ok(lines.swap_remove(at).1);
    }
    let mut whole: Value = serde_json::from_str(text).map_err(|_| Wrong::Form)?;
    let found = in_json(&whole, key).map(|value| match value {
        Value::String(text) => Secret::of(text).ok_or(Wrong::Missing),
        Value::Number(number) => Secret::of(&Zeroizing::new(number.to_string())).ok_or(Wrong::Missing),
        Value::Null => Err(Wrong::Missing),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(Wrong::Form),
    });
    wipe(&mut whole);
    found.unwrap_or(Err(Wrong::Missing))
}

fn in_json<'a>(whole: &'a Value, key: &str) -> Option<&'a Value> {
    // A name with dots in it is found as it stands.
    if let Some(value) = whole.get(key) {
        return Some(value);
    }
    let pointer: String = key
        .split('.')
        .flat_map(|part| part.split('['))
        .map(|step| step.trim_end_matches(']').replace('~', "~0").replace('/', "~1"))
        .filter(|step| !step.is_empty())
        .map(|step| format!("/{step}"))
        .collect();
    whole.pointer(&pointer).filter(|_| !pointer.is_empty())
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(values) => values.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_in_json_and_in_lines() {
        let json = r#"{"a.b": "dotted", "accounts": [{"token": "first"}, {"token": 42}], "none": null, "yes": true}"#;
        let text = |key| pick(json, key).map(|secret| secret.reveal().to_owned());
        assert_eq!(text("a.b").unwrap(), "dotted");
        assert_eq!(text("accounts[0].token").unwrap(), "first");
        assert_eq!(text("accounts[1].token").unwrap(), "42");
        assert_eq!(text("accounts[2].token"), Err(Wrong::Missing));
        assert_eq!(text("none"), Err(Wrong::Missing));
        assert_eq!(text("accounts"), Err(Wrong::Form));
        assert_eq!(text("yes"), Err(Wrong::Form));
        assert_eq!(pick("A=1\nB='two words'\n", "B").unwrap().reveal(), "two words");
        assert_eq!(pick("A=1\n", "B"), Err(Wrong::Missing));
        assert_eq!(pick("{\"A\": ", "A"), Err(Wrong::Form));
    }
}
