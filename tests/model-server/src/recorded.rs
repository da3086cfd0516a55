//! What was asked, and when.

use std::time::Instant;

use serde_json::Value;

use crate::Family;

#[derive(Debug, Clone)]
pub struct Recorded {
    pub at: Instant,
    pub family: Family,
    pub model: String,
    pub body: Value,
    /// Why it was found wrong.
    pub refused: Option<String>,
}

impl Recorded {
    /// The text of the last message, results of tools included.
    pub fn last(&self) -> String {
        last(self.family, &self.body)
    }
}

pub fn last(family: Family, body: &Value) -> String {
    let list = match family {
        Family::Anthropic | Family::Chat => "messages",
        Family::Responses => "input",
        Family::Gemini => "contents",
    };
    let mut text = String::new();
    if let Some(last) = body[list].as_array().and_then(|all| all.last()) {
        texts(last, &mut text);
    }
    text
}

/// Every text that a model would read. A request's JSON is no deeper than its parser allowed.
fn texts(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => {
            out.push_str(text);
            out.push('\n');
        }
        Value::Array(all) => all.iter().for_each(|one| texts(one, out)),
        Value::Object(fields) => fields.values().for_each(|one| texts(one, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
