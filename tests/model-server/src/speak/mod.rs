//! Answers in each provider's own events.

mod anthropic;
mod chat;
mod gemini;
mod responses;

use serde_json::{Value, json};

use crate::{Family, Refused};

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Stop,
    Calls,
    Length,
    Filter,
}

#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub input: u64,
    pub output: u64,
}

/// Writes one answer as server-sent events.
pub trait Speaker: Send {
    fn begin(&mut self, usage: Usage) -> String;
    fn text(&mut self, text: &str) -> String;
    fn think(&mut self, text: &str) -> String;
    /// Arguments as they are, JSON or not.
    fn call(&mut self, id: u64, name: &str, arguments: &str) -> String;
    fn end(&mut self, end: End, usage: Usage) -> String;
}

pub fn speaker(family: Family, model: &str) -> Box<dyn Speaker> {
    match family {
        Family::Anthropic => Box::new(anthropic::Anthropic::new(model)),
        Family::Chat => Box::new(chat::Chat::new(model)),
        Family::Responses => Box::new(responses::Responses::new(model)),
        Family::Gemini => Box::new(gemini::Gemini::new(model)),
    }
}

/// An error in the middle of an answer.
pub fn error_event(family: Family, message: &str) -> String {
    match family {
        Family::Anthropic => named(
            "error",
            &json!({"type": "error", "error": {"type": "overloaded_error", "message": message}}),
        ),
        Family::Chat => {
            data(&json!({"error": {"message": message, "type": "server_error", "code": null, "param": null}}))
        }
        Family::Responses => named(
            "error",
            &json!({"type": "error", "code": "server_error", "message": message, "param": null, "sequence_number": 1}),
        ),
        Family::Gemini => data(&json!({"error": {"code": 503, "message": message, "status": "UNAVAILABLE"}})),
    }
}

/// The body of an answer with a status that is no success.
pub fn error(family: Family, status: u16, message: &str, param: Option<&str>) -> Value {
    let kind = |status: u16| match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    match family {
        Family::Anthropic => {
            json!({"type": "error", "error": {"type": kind(status), "message": message}, "request_id": "req_1"})
        }
        Family::Chat | Family::Responses => {
            let kind = if status == 400 {
                "invalid_request_error"
            } else {
                "server_error"
            };
            let code = if status == 429 {
                json!("rate_limit_exceeded")
            } else {
                Value::Null
            };
            json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
        }
        Family::Gemini => {
            let name = match status {
                400 => "INVALID_ARGUMENT",
                404 => "NOT_FOUND",
                429 => "RESOURCE_EXHAUSTED",
                503 => "UNAVAILABLE",
                _ => "INTERNAL",
            };
            json!({"error": {"code": status, "message": message, "status": name}})
        }
    }
}

pub fn refused(family: Family, refused: &Refused) -> Value {
    error(family, 400, &refused.message, refused.param.as_deref())
}

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn named(name: &str, value: &Value) -> String {
    format!("event: {name}\ndata: {value}\n\n")
}

/// Arguments come in two pieces.
fn halves(text: &str) -> [&str; 2] {
    let mut at = text.len() / 2;
    while !text.is_char_boundary(at) {
        at += 1;
    }
    let (first, second) = text.split_at(at);
    [first, second]
}
