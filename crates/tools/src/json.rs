//! JSON from models and servers, read within bounds: size, depth, number of values, no member twice, no number that
//! would not survive a round through a double.

use std::cell::Cell;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Longest text of one JSON value, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 32;
/// Most values in one text, the values within arrays and objects counted too.
pub const MAX_VALUES: usize = 20_000;
/// Integers beyond this are not exact as doubles (RFC 7493, section 2.2).
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Why a text is not JSON that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// More bytes than allowed.
    #[error("{bytes} bytes of JSON, {limit} allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Not JSON, too deep, too many values, a member twice, or a number that is not exact. Says where.
    #[error("{0}")]
    Invalid(String),
}

/// Reads one JSON value within the bounds above.
pub fn parse(text: &str) -> Result<Value, JsonError> {
    parse_within(text, MAX_BYTES, MAX_DEPTH)
}

/// As [`parse`], with bounds of the caller's for bytes and depth.
pub fn parse_within(text: &str, max_bytes: usize, max_depth: usize) -> Result<Value, JsonError> {
    if text.len() > max_bytes {
        return Err(JsonError::TooLarge {
            bytes: text.len(),
            limit: max_bytes,
        });
    }
    let left = Cell::new(MAX_VALUES);
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Bounded {
        depth: max_depth,
        left: &left,
    }
    .deserialize(&mut reader)
    .and_then(|value| reader.end().map(|()| value))
    .map_err(|error| JsonError::Invalid(error.to_string()))?;
    Ok(value)
}

struct Bounded<'a> {
    depth: usize,
    left: &'a Cell<usize>,
}

impl Bounded<'_> {
    /// For the values within this one.
    fn within<E: serde::de::Error>(&self) -> Result<Self, E> {
        let depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Bounded { depth, left: self.left })
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        let left = self
            .left
            .get()
            .checked_sub(1)
            .ok_or_else(|| D::Error::custom("too many values"))?;
        self.left.set(left);
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > MAX_INTEGER {
            return Err(E::custom(format_args!(
                "{value} is not exact as a number; write it as a string"
            )));
        }
        Ok(Value::from(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        if value > MAX_INTEGER {
            return Err(E::custom(format_args!(
                "{value} is not exact as a number; write it as a string"
            )));
        }
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.within()?)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self.within()?)?;
            if map.contains_key(&name) {
                return Err(A::Error::custom(format_args!("member {name:?} occurs twice")));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{MAX_DEPTH, parse, parse_within};

    #[test]
    fn plain_values_are_read_as_they_stand() {
        let text = r#"{"a":[1,-2,0.5,"x",true,null],"b":{"c":9007199254740991}}"#;
        let value = json!({"a": [1, -2, 0.5, "x", true, null], "b": {"c": 9_007_199_254_740_991_u64}});
        assert_eq!(parse(text).unwrap(), value);
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("{\"a\":1,\"a\":2}", "occurs twice"),
            ("{\"a\":1", "EOF"),
            ("{} {}", "trailing"),
            ("9007199254740993", "not exact"),
            ("-9007199254740993", "not exact"),
            ("1e999", "out of range"),
            ("NaN", "expected"),
            ("'a'", "expected"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn size_depth_and_count_are_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        assert!(parse(&nested(MAX_DEPTH + 2)).is_err());
        assert!(parse(&nested(1_000_000)).is_err());
        assert!(parse(&format!("[{}0]", "0,".repeat(30_000))).is_err());
        assert!(parse_within("\"aaaaaaaa\"", 8, 4).is_err());
    }
}
