//! What models get wrong in arguments and is certain enough to be put right: a number written as a string, an object or
//! array written as a string of JSON.
//!
//! The walk visits each pair of a schema and a value that a validator would visit, and counts: a schema whose references
//! multiply the work, or lead in a circle, is stopped here before the validator sees the arguments.

use serde_json::{Map, Number, Value};

use crate::json;

/// Pairs of schema and value that one check may visit.
const MAX_STEPS: u32 = 50_000;
/// Longest chain of schemas and values within one another.
const MAX_CHAIN: u32 = 128;

/// The arguments cannot be checked with bounded work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Costly;

/// Puts right what can be, in place. Leaves everything else for the validator to name.
pub(crate) fn coerce(root: &Value, value: &mut Value) -> Result<(), Costly> {
    Walk { root, steps: 0 }.visit(root, value, 0, true)
}

struct Walk<'a> {
    root: &'a Value,
    steps: u32,
}

impl<'a> Walk<'a> {
    /// Recursion ends at [`MAX_CHAIN`], whatever the schema and the value are.
    fn visit(&mut self, schema: &'a Value, value: &mut Value, chain: u32, change: bool) -> Result<(), Costly> {
        self.steps += 1;
        if self.steps > MAX_STEPS || chain > MAX_CHAIN {
            return Err(Costly);
        }
        let Some(schema) = schema.as_object() else {
            return Ok(());
        };
        if change && let Some(better) = coerced(schema, value) {
            *value = better;
        }
        self.in_place(schema, value, chain + 1, change)?;
        match value {
            Value::Object(members) => self.members(schema, members, chain + 1, change),
            Value::Array(items) => self.items(schema, items, chain + 1, change),
            _ => Ok(()),
        }
    }

    /// Schemas that speak of the same value.
    fn in_place(
        &mut self,
        schema: &'a Map<String, Value>,
        value: &mut Value,
        chain: u32,
        change: bool,
    ) -> Result<(), Costly> {
        for key in ["$ref", "$dynamicRef", "$recursiveRef"] {
            if let Some(target) = schema.get(key).and_then(|to| self.resolve(to)) {
                self.visit(target, value, chain, change)?;
            }
        }
        for all in list(schema, "allOf") {
            self.visit(all, value, chain, change)?;
        }
        for key in ["anyOf", "oneOf"] {
            let change = change && self.choose(list(schema, key), value);
            for option in list(schema, key) {
                let fits = change && self.kinds(option).admits(value);
                self.visit(option, value, chain, fits)?;
            }
        }
        for key in ["not", "if", "then", "else"] {
            if let Some(inner) = schema.get(key) {
                self.visit(inner, value, chain, false)?;
            }
        }
        for key in ["dependentSchemas", "dependencies"] {
            for inner in schema
                .get(key)
                .and_then(Value::as_object)
                .into_iter()
                .flat_map(Map::values)
            {
                self.visit(inner, value, chain, false)?;
            }
        }
        Ok(())
    }

    /// Makes `value` one that an option admits, if none does yet; true if exactly one does then.
    fn choose(&self, options: &'a [Value], value: &mut Value) -> bool {
        if !options.iter().any(|option| self.kinds(option).admits(value)) {
            let better = options
                .iter()
                .find_map(|option| self.target(option).and_then(|option| coerced(option, value)));
            if let Some(better) = better {
                *value = better;
            }
        }
        options.iter().filter(|option| self.kinds(option).admits(value)).count() == 1
    }

    fn members(
        &mut self,
        schema: &'a Map<String, Value>,
        members: &mut Map<String, Value>,
        chain: u32,
        change: bool,
    ) -> Result<(), Costly> {
        let named = schema.get("properties").and_then(Value::as_object);
        let patterns = schema.get("patternProperties").and_then(Value::as_object);
        for (name, value) in members.iter_mut() {
            let own = named.and_then(|named| named.get(name));
            if let Some(inner) = own {
                self.visit(inner, value, chain, change)?;
            }
            // Which patterns fit is the validator's to find: all are counted, and nothing is changed for them.
            for inner in patterns.into_iter().flat_map(Map::values) {
                self.visit(inner, value, chain, false)?;
            }
            for key in ["additionalProperties", "unevaluatedProperties"] {
                if own.is_none()
                    && let Some(inner) = schema.get(key)
                {
                    self.visit(inner, value, chain, change && patterns.is_none())?;
                }
            }
        }
        Ok(())
    }

    fn items(
        &mut self,
        schema: &'a Map<String, Value>,
        items: &mut [Value],
        chain: u32,
        change: bool,
    ) -> Result<(), Costly> {
        // Before 2020-12 a list in `items` meant what `prefixItems` means now.
        let first = if schema.contains_key("prefixItems") {
            list(schema, "prefixItems")
        } else {
            list(schema, "items")
        };
        for (place, value) in items.iter_mut().enumerate() {
            match first.get(place) {
                Some(inner) => self.visit(inner, value, chain, change)?,
                None => {
                    for key in ["items", "additionalItems", "unevaluatedItems"] {
                        if let Some(inner) = schema.get(key) {
                            self.visit(inner, value, chain, change && key == "items")?;
                        }
                    }
                }
            }
            if let Some(inner) = schema.get("contains") {
                self.visit(inner, value, chain, false)?;
            }
        }
        Ok(())
    }

    fn resolve(&self, to: &Value) -> Option<&'a Value> {
        let to = to.as_str()?.strip_prefix('#')?;
        if to.is_empty() {
            Some(self.root)
        } else {
            self.root.pointer(to)
        }
    }

    /// The schema itself, or what it refers to, over a few references.
    fn target(&self, mut schema: &'a Value) -> Option<&'a Map<String, Value>> {
        for _ in 0..8 {
            match schema.get("$ref").and_then(|to| self.resolve(to)) {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema.as_object()
    }

    fn kinds(&self, schema: &'a Value) -> Kinds<'a> {
        self.target(schema).map_or(Kinds(None), Kinds::of)
    }
}

/// The types that a schema names; `None` if it names none, and so admits all.
struct Kinds<'a>(Option<Vec<&'a str>>);

impl<'a> Kinds<'a> {
    fn of(schema: &'a Map<String, Value>) -> Kinds<'a> {
        Kinds(match schema.get("type") {
            Some(Value::String(one)) => Some(vec![one.as_str()]),
            Some(Value::Array(several)) => Some(several.iter().filter_map(Value::as_str).collect()),
            _ => None,
        })
    }

    fn admits(&self, value: &Value) -> bool {
        let name = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.0
            .as_ref()
            .is_none_or(|kinds| kinds.contains(&name) || (name == "number" && kinds.contains(&"integer")))
    }
}

/// A better value, if the schema names types, `value` is of none of them, and it can be read as one.
fn coerced(schema: &Map<String, Value>, value: &Value) -> Option<Value> {
    let kinds = Kinds::of(schema).0?;
    match value {
        // Some models write 5.0 for 5; programs that read integers do not take it.
        Value::Number(number) if kinds.contains(&"integer") && !kinds.contains(&"number") && number.is_f64() => {
            let float = number.as_f64()?;
            let whole = float.fract() == 0.0 && float.abs() <= json::MAX_INTEGER as f64;
            whole.then(|| Value::from(float as i64))
        }
        Value::String(text) if !kinds.contains(&"string") => {
            let text = text.trim();
            let number = || text.parse::<Number>().ok().filter(|_| text.len() <= 32);
            if kinds.contains(&"integer")
                && let Some(number) = number().filter(|number| number.is_i64() || number.is_u64())
            {
                return json::parse(&number.to_string()).ok();
            }
            if kinds.contains(&"number")
                && let Some(number) = number()
            {
                return json::parse(&number.to_string()).ok();
            }
            let wanted = (kinds.contains(&"object") && text.starts_with('{'))
                || (kinds.contains(&"array") && text.starts_with('['));
            wanted.then(|| json::parse(text).ok()).flatten()
        }
        _ => None,
    }
}

fn list<'a>(schema: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    schema.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Costly, coerce};

    fn check(schema: Value, before: Value, after: Value) {
        let mut value = before.clone();
        coerce(&schema, &mut value).unwrap();
        assert_eq!(value, after, "{schema} of {before}");
    }

    #[test]
    fn strings_become_what_the_schema_names() {
        let of = |kind: Value| json!({"properties": {"a": kind}});
        for (kind, before, after) in [
            (json!({"type": "integer"}), json!("5"), json!(5)),
            (json!({"type": "integer"}), json!(" -7 "), json!(-7)),
            (json!({"type": "integer"}), json!(5.0), json!(5)),
            (json!({"type": "integer"}), json!("5.5"), json!("5.5")),
            (json!({"type": "integer"}), json!("five"), json!("five")),
            (
                json!({"type": "integer"}),
                json!("9007199254740993"),
                json!("9007199254740993"),
            ),
            (json!({"type": "number"}), json!("0.5"), json!(0.5)),
            (json!({"type": "boolean"}), json!("true"), json!("true")),
            (json!({"type": "string"}), json!("5"), json!("5")),
            (json!({"type": ["string", "integer"]}), json!("5"), json!("5")),
            (json!({}), json!("5"), json!("5")),
            (json!({"type": "object"}), json!("{\"b\":1}"), json!({"b": 1})),
            (json!({"type": "object"}), json!("[1]"), json!("[1]")),
            (
                json!({"type": "array", "items": {"type": "integer"}}),
                json!("[\"1\",2]"),
                json!([1, 2]),
            ),
            (json!({"type": "array"}), json!("[1"), json!("[1")),
            (
                json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}),
                json!("5"),
                json!(5),
            ),
            (
                json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
                json!("5"),
                json!("5"),
            ),
            (
                json!({"anyOf": [{"type": "object", "properties": {"n": {"type": "integer"}}}, {"type": "null"}]}),
                json!({"n": "3"}),
                json!({"n": 3}),
            ),
            (json!({"allOf": [{"type": "integer"}]}), json!("5"), json!(5)),
        ] {
            check(of(kind), json!({"a": before}), json!({"a": after}));
        }
    }

    #[test]
    fn references_within_the_schema_are_followed() {
        let tree = json!({"properties": {"next": {"$ref": "#"}, "n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}});
        check(
            tree,
            json!({"n": "1", "next": {"n": "2", "next": {"n": "3"}}}),
            json!({"n": 1, "next": {"n": 2, "next": {"n": 3}}}),
        );
    }

    /// A server sends a schema whose check would take for ever or overflow the stack.
    #[test]
    fn schemas_that_multiply_the_work_are_stopped() {
        let mut defs = serde_json::Map::new();
        for n in 0..60 {
            let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
            defs.insert(format!("d{n}"), json!({"anyOf": [next.clone(), next]}));
        }
        let doubling = json!({"$ref": "#/$defs/d0", "$defs": defs});
        let twice = json!({"allOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]});
        let nested = (0..30).fold(json!({}), |inner, _| json!({ "a": inner }));
        for (schema, value) in [
            (json!({"$ref": "#"}), json!({})),
            (doubling, json!({})),
            (twice, nested),
        ] {
            assert_eq!(coerce(&schema, &mut value.clone()), Err(Costly), "{schema}");
        }
    }
}
