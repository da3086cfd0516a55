use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A checked value of a setting.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing was given and the kind has no empty value.
    Unset,
    /// Of a [`Kind::Bool`](crate::Kind::Bool).
    Bool(bool),
    /// Of a [`Kind::Int`](crate::Kind::Int), within its bounds.
    Int(i64),
    /// Of a [`Kind::Float`](crate::Kind::Float).
    Float(f64),
    /// Of a [`Kind::Text`](crate::Kind::Text) or [`Kind::Choice`](crate::Kind::Choice).
    Text(String),
    /// An absolute path.
    Path(PathBuf),
    /// Of a [`Kind::Duration`](crate::Kind::Duration).
    Duration(Duration),
    /// Bytes.
    Size(u64),
    /// Of a [`Kind::List`](crate::Kind::List), in the order written.
    List(Vec<String>),
    /// Of a [`Kind::Map`](crate::Kind::Map).
    Map(BTreeMap<String, String>),
}

impl Value {
    /// As TOML that reads back to the same value.
    pub(crate) fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        match self {
            Value::Unset => quoted(""),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => toml::Value::Float(*value).to_string(),
            Value::Text(value) => quoted(value),
            Value::Path(value) => quoted(&value.to_string_lossy()),
            Value::Duration(value) => quoted(&humantime::format_duration(*value).to_string()),
            Value::Size(value) => quoted(&format_size(*value)),
            Value::List(values) => {
                let items: Vec<String> = values.iter().map(|v| quoted(v)).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Map(values) if values.is_empty() => "{}".to_owned(),
            Value::Map(values) => {
                let items: Vec<String> = values
                    .iter()
                    .map(|(k, v)| format!("{} = {}", quoted(k), quoted(v)))
                    .collect();
                format!("{{ {} }}", items.join(", "))
            }
        }
    }
}

impl Value {
    /// With the types that JSON has; durations and sizes as people write them.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Unset => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(value) => value.as_str().into(),
            Value::Path(value) => value.to_string_lossy().into(),
            Value::Duration(value) => humantime::format_duration(*value).to_string().into(),
            Value::Size(value) => format_size(*value).into(),
            Value::List(values) => values.as_slice().into(),
            Value::Map(values) => {
                let entry = |(k, v): (&String, &String)| (k.clone(), serde_json::Value::from(v.as_str()));
                values.iter().map(entry).collect()
            }
        }
    }
}

const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// In the largest unit that loses nothing.
pub(crate) fn format_size(bytes: u64) -> String {
    match UNITS.iter().find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// Bytes of a text such as `64MiB`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let hint = || "expected a size such as \"100MiB\", \"64KiB\" or plain bytes".to_owned();
    let number: u64 = number.parse().map_err(|_| hint())?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(hint()),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| "larger than any machine".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(parse_size("100MiB"), Ok(104_857_600));
        assert_eq!(parse_size("104857600"), Ok(104_857_600));
        assert_eq!(parse_size("1 MB"), Ok(1_000_000));
        assert_eq!(parse_size("64k"), Ok(65_536));
        assert!(parse_size("lots").is_err());
        assert!(parse_size("-1").is_err());
        assert!(parse_size("1.5GiB").is_err());
        assert!(parse_size("99999999999TiB").is_err());
    }

    #[test]
    fn a_formatted_size_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1536, 104_857_600, u64::MAX] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
