//! What each provider refuses.

pub mod anthropic;
pub mod chat;
pub mod gemini;
mod json;
pub mod responses;

use serde_json::Value;

/// Whose words a request is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `POST /v1/messages`
    Anthropic,
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1beta/models/MODEL:streamGenerateContent`
    Gemini,
}

/// A request that was found wrong, in the provider's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub message: String,
    /// The field that it is about, where the provider names it beside the message.
    pub param: Option<String>,
}

impl Refused {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: None,
        }
    }

    fn at(param: &str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: Some(param.to_owned()),
        }
    }
}

/// `model` is the one of the path for Gemini, else the body's own.
pub fn check(family: Family, model: &str, body: &Value) -> Result<(), Refused> {
    match family {
        Family::Anthropic => anthropic::check(body),
        Family::Chat => chat::check(body),
        Family::Responses => responses::check(body),
        Family::Gemini => gemini::check(model, body),
    }
}
