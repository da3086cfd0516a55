//! JSON Schemas of arguments: ours, our users' and those of MCP servers, which nobody trusts.
//!
//! A schema is taken only if checking arguments against it stays cheap: it is small and shallow, refers to nothing
//! outside of itself, and its patterns are bounded. What is left, a web of references that multiplies the work, is
//! stopped while arguments are checked: [`crate::coerce`] visits what the validator would visit and counts.

use std::sync::OnceLock;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// Longest schema, in bytes of compact JSON. Providers refuse longer ones.
pub const MAX_SCHEMA_BYTES: usize = 64 << 10;
/// Deepest nesting of a schema.
pub const MAX_SCHEMA_DEPTH: usize = 16;
/// Most regular expressions in one schema: each costs memory when it is compiled.
const MAX_PATTERNS: usize = 100;
/// Memory for one compiled regular expression, in bytes.
const PATTERN_BYTES: usize = 256 << 10;
/// Steps of a regular expression that cannot be matched in linear time.
const PATTERN_STEPS: usize = 100_000;

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// More bytes than providers take.
    #[error("schema of {0} bytes, {MAX_SCHEMA_BYTES} allowed")]
    TooLarge(usize),
    /// Nested deeper than providers take.
    #[error("schema nested deeper than {MAX_SCHEMA_DEPTH}")]
    TooDeep,
    /// Arguments are always an object.
    #[error("schema is not one of an object (\"type\": \"object\")")]
    NotAnObject,
    /// Refers to something that would have to be fetched, or by a base that moves.
    #[error("schema refers outside of itself: {0}")]
    Remote(String),
    /// More patterns than are compiled.
    #[error("schema with more than {MAX_PATTERNS} patterns")]
    TooManyPatterns,
    /// Not a valid JSON Schema.
    #[error("invalid schema: {0}")]
    Invalid(String),
}

/// A schema that arguments can be checked against.
#[derive(Debug)]
pub struct Schema {
    root: Value,
    /// Compiled on first use where it is our own: a process that calls no tool does not pay for it.
    validator: OnceLock<Validator>,
}

impl Schema {
    /// Takes a schema somebody else wrote. It is compiled at once, so that its mistakes show where it is registered.
    pub fn new(root: Value) -> Result<Schema, SchemaError> {
        let bytes = root.to_string().len();
        if bytes > MAX_SCHEMA_BYTES {
            return Err(SchemaError::TooLarge(bytes));
        }
        examine(&root)?;
        if root.get("type").and_then(Value::as_str) != Some("object") {
            return Err(SchemaError::NotAnObject);
        }
        let validator = compile(&root)?;
        Ok(Schema {
            root,
            validator: OnceLock::from(validator),
        })
    }

    /// Takes a schema of our own, which a test has compiled.
    pub(crate) fn builtin(root: Value) -> Schema {
        Schema {
            root,
            validator: OnceLock::new(),
        }
    }

    /// The schema as JSON.
    pub fn as_value(&self) -> &Value {
        &self.root
    }

    /// The first mistakes in `arguments`, each as `at <path>: <what was expected>`. Empty: they fit.
    pub(crate) fn mistakes(&self, arguments: &Value, most: usize) -> Vec<String> {
        let validator = self
            .validator
            .get_or_init(|| compile(&self.root).expect("a test compiles every built-in schema"));
        validator
            .iter_errors(arguments)
            .take(most)
            .map(|error| {
                let path = error.instance_path().as_str();
                let place = if path.is_empty() { "/" } else { path };
                // Masked: the value may be a megabyte, and the model knows it.
                format!("at {place}: {}", error.masked())
            })
            .collect()
    }
}

fn compile(root: &Value) -> Result<Validator, SchemaError> {
    jsonschema::options()
        .offline()
        .with_pattern_options(
            PatternOptions::fancy_regex()
                .backtrack_limit(PATTERN_STEPS)
                .size_limit(PATTERN_BYTES),
        )
        .build(root)
        .map_err(|error| {
            let mut text = error.masked_with("this").to_string();
            text.truncate(text.floor_char_boundary(512));
            SchemaError::Invalid(text)
        })
}

/// Walks the schema as data, iteratively: depth, references, patterns.
fn examine(root: &Value) -> Result<(), SchemaError> {
    // There `id` meant what `$id` means now.
    let old = root
        .get("$schema")
        .and_then(Value::as_str)
        .is_some_and(|draft| draft.contains("draft-04") || draft.contains("draft-03"));
    let mut patterns = 0;
    let mut open = vec![(root, 0)];
    while let Some((value, depth)) = open.pop() {
        if depth > MAX_SCHEMA_DEPTH {
            return Err(SchemaError::TooDeep);
        }
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    match (key.as_str(), inner) {
                        ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(to)) if !leads_inside(root, to) => {
                            return Err(SchemaError::Remote(to.chars().take(200).collect()));
                        }
                        // References are resolved against the root; an id further in would move their base.
                        ("$id", Value::String(id)) if depth > 0 => {
                            return Err(SchemaError::Remote(id.chars().take(200).collect()));
                        }
                        ("id", Value::String(id)) if depth > 0 && old => {
                            return Err(SchemaError::Remote(id.chars().take(200).collect()));
                        }
                        ("pattern", Value::String(_)) => patterns += 1,
                        ("patternProperties", Value::Object(inner)) => patterns += inner.len(),
                        _ => {}
                    }
                    open.push((inner, depth + 1));
                }
            }
            Value::Array(list) => open.extend(list.iter().map(|inner| (inner, depth + 1))),
            _ => {}
        }
        if patterns > MAX_PATTERNS {
            return Err(SchemaError::TooManyPatterns);
        }
    }
    Ok(())
}

/// A JSON Pointer to a place that is there. Anchors are refused too: the walk that counts the work does not know them.
fn leads_inside(root: &Value, to: &str) -> bool {
    to == "#"
        || to.strip_prefix('#').is_some_and(|pointer| {
            !pointer.contains('%') && pointer.starts_with('/') && root.pointer(pointer).is_some()
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Schema, SchemaError};

    #[test]
    fn schemas_that_cost_or_reach_too_much_are_refused() {
        let deep = (0..20).fold(json!({}), |inner, _| json!({ "not": inner }));
        let wide: Value = (0..5000)
            .map(|n| (format!("p{n}"), json!({"type": "string"})))
            .collect::<serde_json::Map<_, _>>()
            .into();
        for (schema, expected) in [
            (json!({"type": "object", "properties": {"a": deep}}), "deeper"),
            (json!({"type": "object", "properties": wide}), "bytes"),
            (json!({"type": "string"}), "not one of an object"),
            (
                json!({"type": "object", "properties": {"a": {"$ref": "http://example.com/a"}}}),
                "outside",
            ),
            (
                json!({"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}}),
                "outside",
            ),
            (
                json!({"type": "object", "properties": {"a": {"$ref": "#here"}, "b": {"$anchor": "here"}}}),
                "outside",
            ),
            (
                json!({"type": "object", "properties": {"a": {"$ref": "#/missing"}}}),
                "outside",
            ),
            (
                json!({"type": "object", "properties": {"a": {"$id": "http://example.com/b", "type": "string"}}}),
                "outside",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "strin"}}}),
                "invalid",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
                "invalid",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "((a{1000}){1000}){1000}"}}}),
                "invalid",
            ),
        ] {
            let error = Schema::new(schema.clone()).expect_err(&schema.to_string());
            assert!(error.to_string().contains(expected), "{schema}: {error}");
        }
        let patterns: serde_json::Map<_, _> = (0..200).map(|n| (format!("p{n}"), json!({"pattern": "a"}))).collect();
        let many = json!({"type": "object", "properties": patterns});
        assert_eq!(Schema::new(many).unwrap_err(), SchemaError::TooManyPatterns);
    }

    #[test]
    fn usual_schemas_of_other_programs_are_taken() {
        for schema in [
            json!({"type": "object"}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {}, "additionalProperties": false}),
            json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "$defs": {"n": {"type": "integer"}},
                   "properties": {"a": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}], "default": null, "title": "A"}}}),
            json!({"type": "object", "properties": {"id": {"type": "string", "format": "uuid", "pattern": "^(?!x)[a-z]+$"}}}),
        ] {
            Schema::new(schema.clone()).unwrap_or_else(|error| panic!("{schema}: {error}"));
        }
    }
}
