//! From the text a model sent to arguments that fit a tool's schema, or an error that says what to correct.

use serde_json::{Map, Value};

use crate::{
    coerce,
    error::{Code, Error},
    json::{self, JsonError},
    schema::Schema,
    suggest,
};

/// How many mistakes one error names.
const MISTAKES: usize = 3;

/// A number that is brought into its range instead of being refused: a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamp {
    /// The member's name.
    pub member: &'static str,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
}

/// Arguments that fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// An object; numbers and JSON in strings are what the schema names.
    pub arguments: Value,
    /// What was changed and the model is told: times out of range.
    pub notes: Vec<String>,
}

/// Reads and checks the arguments that a model sent for a call. Empty text means no arguments.
pub(crate) fn check(schema: &Schema, clamps: &[Clamp], text: &str) -> Result<Checked, Error> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    let value = json::parse(text).map_err(|error| match error {
        JsonError::TooLarge { .. } => Error::new(Code::TooLarge, format!("the arguments are too large: {error}")),
        JsonError::Invalid(why) => Error::new(
            Code::InvalidArguments,
            format!("the arguments are not valid JSON: {why}"),
        )
        .with_next("Send one JSON object with the tool's members."),
    })?;
    check_value(schema, clamps, value)
}

/// As [`check`], for arguments that were read already.
pub(crate) fn check_value(schema: &Schema, clamps: &[Clamp], mut value: Value) -> Result<Checked, Error> {
    let costly = coerce::coerce(schema.as_value(), &mut value);
    let Value::Object(members) = &mut value else {
        return Err(
            Error::new(Code::InvalidArguments, "at /: the arguments are not an object")
                .with_next("Send one JSON object with the tool's members."),
        );
    };
    costly.map_err(|coerce::Costly| {
        Error::new(
            Code::InvalidArguments,
            "the arguments cannot be checked: too many combinations of schema and value",
        )
        .with_next("Send fewer and flatter arguments.")
    })?;
    unknown_members(schema.as_value(), members)?;
    let notes = clamps
        .iter()
        .filter_map(|clamp| brought_into_range(clamp, members))
        .collect();
    let mistakes = schema.mistakes(&value, MISTAKES);
    if !mistakes.is_empty() {
        return Err(Error::new(Code::InvalidArguments, mistakes.join("; ")).with_next(members_of(schema.as_value())));
    }
    Ok(Checked {
        arguments: value,
        notes,
    })
}

/// Refuses members that the schema does not name, where it names some and says nothing of others. Whoever wrote the
/// schema may be generous; the model meant something by the member, and it would be lost unseen.
fn unknown_members(schema: &Value, members: &Map<String, Value>) -> Result<(), Error> {
    const OPEN: [&str; 9] = [
        "patternProperties",
        "unevaluatedProperties",
        "$ref",
        "allOf",
        "anyOf",
        "oneOf",
        "if",
        "dependentSchemas",
        "dependencies",
    ];
    let open = matches!(
        schema.get("additionalProperties"),
        Some(Value::Object(_) | Value::Bool(true))
    ) || OPEN.iter().any(|key| schema.get(key).is_some());
    let Some(known) = schema.get("properties").and_then(Value::as_object).filter(|_| !open) else {
        return Ok(());
    };
    let Some(unknown) = members.keys().find(|name| !known.contains_key(*name)) else {
        return Ok(());
    };
    let shown: String = unknown.chars().take(64).collect();
    let near = suggest::nearest(unknown, known.keys().map(String::as_str), 1);
    let hint = near
        .first()
        .map_or(String::new(), |near| format!("; did you mean {near:?}?"));
    Err(Error::new(
        Code::InvalidArguments,
        format!("at /{shown}: there is no member {shown:?}{hint}"),
    )
    .with_next(members_of(schema)))
}

/// The members of the schema's root, required ones marked.
fn members_of(schema: &Value) -> String {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let names: Vec<String> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|known| known.keys())
        .take(40)
        .map(|name| {
            if required.contains(&name.as_str()) {
                format!("{name} (required)")
            } else {
                name.clone()
            }
        })
        .collect();
    if names.is_empty() {
        "The tool takes no arguments.".to_owned()
    } else {
        format!("Members: {}.", names.join(", "))
    }
}

fn brought_into_range(clamp: &Clamp, members: &mut Map<String, Value>) -> Option<String> {
    let value = members.get_mut(clamp.member)?;
    let asked = value.as_f64()?;
    let used = asked.clamp(clamp.min, clamp.max);
    if used == asked {
        return None;
    }
    let note = format!("{} {value} is out of range; {used} is used", clamp.member);
    *value = if used.fract() == 0.0 {
        Value::from(used as i64)
    } else {
        Value::from(used)
    };
    Some(note)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Clamp, check};
    use crate::{error::Code, schema::Schema};

    const TIME: [Clamp; 1] = [Clamp {
        member: "wait_s",
        min: 0.25,
        max: 60.0,
    }];

    fn schema() -> Schema {
        Schema::new(json!({
            "type": "object",
            "properties": {"path": {"type": "string"}, "limit": {"type": "integer", "minimum": 1, "maximum": 2000}, "wait_s": {"type": "number", "minimum": 0.25, "maximum": 60}},
            "required": ["path"]
        }))
        .unwrap()
    }

    #[test]
    fn what_fits_is_returned_with_what_was_put_right() {
        let checked = check(&schema(), &TIME, r#"{"path":"a","limit":"5","wait_s":900}"#).unwrap();
        assert_eq!(checked.arguments, json!({"path": "a", "limit": 5, "wait_s": 60}));
        assert_eq!(checked.notes, ["wait_s 900 is out of range; 60 is used"]);
        let checked = check(&schema(), &TIME, r#"{"path":"a","wait_s":"0"}"#).unwrap();
        assert_eq!(checked.arguments, json!({"path": "a", "wait_s": 0.25}));
        let nothing = Schema::new(json!({"type": "object", "properties": {}})).unwrap();
        assert_eq!(check(&nothing, &[], "  ").unwrap().arguments, json!({}));
    }

    #[test]
    fn mistakes_name_the_place_and_what_was_expected() {
        for (text, expected) in [
            ("{}", "\"path\" is a required"),
            (r#"{"path":1}"#, "at /path: value is not of type \"string\""),
            (
                r#"{"path":"a","limit":0}"#,
                "at /limit: value is less than the minimum of 1",
            ),
            (r#"{"path":"a","limit":2001}"#, "at /limit"),
            (r#"{"path":"a","limit":null}"#, "at /limit"),
            (r#"{"pth":"a"}"#, "there is no member \"pth\"; did you mean \"path\"?"),
            (r#"{"path":"a","colour":1}"#, "there is no member \"colour\""),
            (r#"{"path":"a""#, "not valid JSON"),
            (r#"["a"]"#, "not an object"),
            (r#""{\"path\":\"a\"}x""#, "not an object"),
        ] {
            let error = check(&schema(), &TIME, text).expect_err(text);
            assert_eq!(error.code, Code::InvalidArguments);
            assert!(error.what.contains(expected), "{text}: {error}");
        }
        let next = check(&schema(), &TIME, "{}").unwrap_err().next;
        assert_eq!(next, "Members: limit, path (required), wait_s.");
    }

    #[test]
    fn arguments_that_are_one_string_of_json_are_read() {
        assert_eq!(
            check(&schema(), &[], r#""{\"path\":\"a\"}""#).unwrap().arguments,
            json!({"path": "a"})
        );
    }

    /// A model quotes a megabyte in a wrong place: it does not come back in the error.
    #[test]
    fn errors_do_not_repeat_values() {
        let text = json!({"path": ["x".repeat(1 << 20)]}).to_string();
        assert!(check(&schema(), &[], &text).unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn patterns_that_backtrack_end() {
        let schema = Schema::new(
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?=(a+)+$)(a|aa)+b$"}}}),
        )
        .unwrap();
        let text = json!({"a": "a".repeat(5000)}).to_string();
        assert_eq!(check(&schema, &[], &text).unwrap_err().code, Code::InvalidArguments);
    }
}
