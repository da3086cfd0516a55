//! Small questions to a piece of JSON, with the place it stands at.

use serde_json::{Map, Value};

use super::Refused;

pub fn object<'a>(value: &'a Value, at: &str) -> Result<&'a Map<String, Value>, Refused> {
    value
        .as_object()
        .ok_or_else(|| Refused::at(at, format!("{at}: Input should be an object")))
}

pub fn array<'a>(value: &'a Value, at: &str) -> Result<&'a [Value], Refused> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| Refused::at(at, format!("{at}: Input should be an array")))
}

pub fn text<'a>(value: &'a Value, at: &str) -> Result<&'a str, Refused> {
    value
        .as_str()
        .ok_or_else(|| Refused::at(at, format!("{at}: Input should be a string")))
}

pub fn whole_number(value: &Value, at: &str, least: u64) -> Result<u64, Refused> {
    value
        .as_u64()
        .filter(|number| *number >= least)
        .ok_or_else(|| Refused::at(at, format!("{at}: Input should be an integer of at least {least}")))
}

/// Absent, or a number within bounds.
pub fn within(value: &Value, at: &str, most: f64) -> Result<(), Refused> {
    let is_fine = value.is_null() || value.as_f64().is_some_and(|number| (0.0..=most).contains(&number));
    if is_fine {
        Ok(())
    } else {
        Err(Refused::at(at, format!("{at}: Input should be between 0 and {most}")))
    }
}

/// Refuses members that are none of these.
pub fn only(fields: &Map<String, Value>, at: &str, known: &[&str]) -> Result<(), Refused> {
    match fields.keys().find(|field| !known.contains(&field.as_str())) {
        None => Ok(()),
        Some(field) => {
            let at = if at.is_empty() {
                field.clone()
            } else {
                format!("{at}.{field}")
            };
            Err(Refused::at(&at, format!("{at}: Extra inputs are not permitted")))
        }
    }
}

/// `[a-zA-Z0-9_-]`, of this length.
pub fn is_name(text: &str, longest: usize) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=longest).contains(&text.len()) && text.bytes().all(plain)
}

pub const IMAGES: [&str; 4] = ["image/png", "image/jpeg", "image/webp", "image/gif"];

/// `data:image/png;base64,...`
pub fn is_image_url(url: &str) -> bool {
    let parts = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    parts.is_some_and(|(kind, data)| IMAGES.contains(&kind) && crate::seal::is_base64(data))
}
