//! Settings as a serde source: a flat struct whose field names are the keys.
//!
//! An unset value is `None` to an `Option` and `""` to a `String`, a duration is what serde makes of
//! `std::time::Duration`; no self-describing format can say both, hence a deserializer of our own.

use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::value::Value;

type Failure = de::value::Error;

pub(crate) struct Fields<I> {
    pub(crate) entries: I,
    pub(crate) current: Option<(&'static str, Value)>,
    /// The key that was being read, for the message when it does not fit.
    pub(crate) at: std::rc::Rc<std::cell::Cell<&'static str>>,
}

impl<'de, I: Iterator<Item = (&'static str, Value)>> MapAccess<'de> for Fields<I> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failure> {
        self.current = self.entries.next();
        match &self.current {
            Some((key, _)) => {
                self.at.set(key);
                seed.deserialize(StrDeserializer::new(key)).map(Some)
            }
            None => {
                self.at.set("");
                Ok(None)
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failure> {
        let (_, value) = self
            .current
            .take()
            .ok_or_else(|| de::Error::custom("a value without a key"))?;
        seed.deserialize(ValueReader(value))
    }
}

pub(crate) fn from_fields<T: de::DeserializeOwned>(
    entries: impl Iterator<Item = (&'static str, Value)>,
) -> Result<T, (&'static str, String)> {
    let at = std::rc::Rc::new(std::cell::Cell::new(""));
    let fields = Fields {
        entries,
        current: None,
        at: at.clone(),
    };
    T::deserialize(MapAccessDeserializer::new(fields)).map_err(|e| (at.get(), e.to_string()))
}

struct ValueReader(Value);

impl<'de> Deserializer<'de> for ValueReader {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.0 {
            Value::Unset => visitor.visit_str(""),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Int(value) => visitor.visit_i64(value),
            Value::Float(value) => visitor.visit_f64(value),
            Value::Text(value) => visitor.visit_string(value),
            Value::Path(value) => visitor.visit_string(value.to_string_lossy().into_owned()),
            Value::Duration(value) => visitor.visit_map(MapDeserializer::new(
                [("secs", value.as_secs()), ("nanos", u64::from(value.subsec_nanos()))].into_iter(),
            )),
            Value::Size(value) => visitor.visit_u64(value),
            Value::List(values) => visitor.visit_seq(SeqDeserializer::new(values.into_iter())),
            Value::Map(values) => visitor.visit_map(MapDeserializer::new(values.into_iter())),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.0 {
            Value::Unset => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match self.0 {
            Value::Text(text) => text.into_deserializer().deserialize_enum(name, variants, visitor),
            _ => Err(de::Error::custom("only a text chooses among variants")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}
