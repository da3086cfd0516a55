//! Parses the error that a provider returns, in any of its forms, and classifies it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::{Response, StatusCode, Url, header::HeaderMap};
use serde_json::Value;
use tokio::time::timeout;

use super::read;
use crate::{
    domain::{
        failure::{Failure, Field, Kind},
        retry,
    },
    keys::Key,
};

const ERROR_BODY: usize = 64 << 10;
const ERROR_BODY_WITHIN: Duration = Duration::from_secs(5);

/// A provider's error: its words, and its code where it gives one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ProviderError {
    pub message: String,
    pub code: String,
    /// The request's field that it is about, where the provider says so by name.
    pub param: String,
}

impl ProviderError {
    /// From an object that describes an error, or from the error's text alone.
    pub fn of(error: &Value) -> Self {
        let code = [&error["code"], &error["type"], &error["status"]]
            .map(text)
            .into_iter()
            .find(|code| !code.is_empty() && code != "error");
        let mut message = [
            error,
            &error["message"],
            &error["detail"],
            &error["msg"],
            &error["error"],
        ]
        .map(text)
        .into_iter()
        .find(|message| !message.is_empty())
        .unwrap_or_default();
        // A router says who failed behind it, and how.
        let behind = text(&error["metadata"]["raw"]);
        if !behind.is_empty() {
            message = format!("{message}: {behind}");
        }
        if message.is_empty() && error.as_object().is_some_and(|fields| !fields.is_empty()) {
            message = error.to_string();
        }
        Self {
            message: clean(&message),
            code: code.unwrap_or_default(),
            param: text(&error["param"]),
        }
    }

    /// The error in a JSON document that may be something else altogether.
    pub fn within(document: &Value) -> Option<Self> {
        let error = &document["error"];
        let is_one = document["type"] == "error" || document["object"] == "error";
        match error {
            Value::Null | Value::Bool(false) if is_one => Some(Self::of(document)),
            Value::Null | Value::Bool(false) => None,
            Value::String(text) if text.is_empty() && !is_one => None,
            error => Some(Self::of(error)),
        }
    }

    /// As an error within an answer that began well.
    pub fn failure(&self) -> Failure {
        let kind = match self.code.as_str() {
            "rate_limit_error" | "rate_limit_exceeded" | "429" => Kind::RateLimited,
            "insufficient_quota"
            | "authentication_error"
            | "permission_error"
            | "billing_error"
            | "401"
            | "402"
            | "403" => Kind::Refused,
            "invalid_request_error" | "context_length_exceeded" | "request_too_large" | "400" | "413" | "422" => {
                Kind::Invalid
            }
            "model_not_found" | "not_found_error" | "404" => Kind::UnknownModel,
            _ => Kind::Server,
        };
        let message = match (self.message.is_empty(), self.code.is_empty()) {
            (false, true) => self.message.clone(),
            (false, false) => format!("{} ({})", self.message, clean(&self.code)),
            (true, false) => format!("ended its answer with the error {}", clean(&self.code)),
            (true, true) => "ended its answer with an error, and says no more".to_owned(),
        };
        Failure::new(kind, message)
    }
}

impl From<&[u8]> for ProviderError {
    fn from(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            // Some wrap it into a list.
            Ok(Value::Array(list)) if list.first().is_some_and(Value::is_object) => Self::of_document(&list[0]),
            Ok(json) if json.is_object() => Self::of_document(&json),
            _ => Self {
                message: clean(&String::from_utf8_lossy(body)),
                ..Self::default()
            },
        }
    }
}

impl ProviderError {
    fn of_document(document: &Value) -> Self {
        Self::within(document).unwrap_or_else(|| Self::of(document))
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(list) if !list.is_empty() => value.to_string(),
        _ => String::new(),
    }
}

/// An answer with a status that is no success. `model` is the one that was asked for.
pub async fn of_status(mut response: Response, model: &str) -> Failure {
    let status = response.status();
    let wait = wait_asked(response.headers());
    let url = shown(response.url());
    let body = match timeout(ERROR_BODY_WITHIN, read(&mut response, ERROR_BODY)).await {
        Ok(Ok(body)) => body,
        _ => Vec::new(),
    };
    let told = ProviderError::from(body.as_slice());
    let kind = kind(status, &told, model);
    let mut message = if told.message.is_empty() {
        format!("HTTP {}", status.as_u16())
    } else {
        format!("HTTP {}: {}", status.as_u16(), told.message)
    };
    if kind == Kind::NoSuchPath {
        message = format!("{message} (asked {url})");
    }
    let mut failure = Failure::new(kind, message);
    failure.retry_after = wait;
    if matches!(status.as_u16(), 400 | 422 | 501) {
        failure.field = refused_field(&told, &String::from_utf8_lossy(&body));
    }
    failure
}

fn kind(status: StatusCode, told: &ProviderError, model: &str) -> Kind {
    let lower = format!("{} {}", told.message, told.code).to_lowercase();
    match status {
        _ if told.code == "insufficient_quota" => Kind::Refused,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PAYMENT_REQUIRED => Kind::Refused,
        // Gemini's way to refuse a key.
        StatusCode::BAD_REQUEST if lower.contains("api key not valid") => Kind::Refused,
        StatusCode::NOT_FOUND if lower.contains("model") || (!model.is_empty() && lower.contains(model)) => {
            Kind::UnknownModel
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Kind::NoSuchPath,
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT => Kind::Server,
        StatusCode::TOO_MANY_REQUESTS => Kind::RateLimited,
        StatusCode::SERVICE_UNAVAILABLE if lower.contains("loading") && !lower.contains("overloading") => Kind::Loading,
        status if status.is_server_error() => Kind::Server,
        status if status.is_client_error() => Kind::Invalid,
        _ => Kind::Broken,
    }
}

/// The optional field that an endpoint does not take: the one it names, or the first that its text mentions. An error
/// about a field's value is no such refusal.
fn refused_field(told: &ProviderError, body: &str) -> Option<Field> {
    let lower = body.to_lowercase();
    const OF_VALUE: [&str; 6] = [
        "too large",
        "at most",
        "at least",
        "exceed",
        "greater than",
        "less than",
    ];
    if OF_VALUE.iter().any(|words| lower.contains(words)) {
        return None;
    }
    if let Some(field) = Field::ALL.into_iter().find(|field| field.name() == told.param) {
        return Some(field);
    }
    let place = |field: Field| {
        let found = lower.match_indices(field.name()).find(|(at, name)| {
            let bytes = lower.as_bytes();
            let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
            let before = at.checked_sub(1).and_then(|before| bytes.get(before));
            !is_word(before) && !is_word(bytes.get(at + name.len()))
        });
        found.map(|(at, _)| (at, field))
    };
    let first = Field::ALL.into_iter().filter_map(place).min_by_key(|(at, _)| *at);
    first.map(|(_, field)| field)
}

fn wait_asked(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(ms) = text("retry-after-ms").and_then(|value| value.trim().parse::<u64>().ok()) {
        return Some(Duration::from_millis(ms));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    retry::retry_after(text("retry-after")?, now)
}

/// An address as errors show it: without its query, which may hold a secret.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Fails only where an address has no authority, and then there is nothing to take out.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    clean(url.as_str())
}

/// One line of bounded length.
pub fn clean(text: &str) -> String {
    const MOST: usize = 400;
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    if line.chars().count() > MOST {
        line = line.chars().take(MOST).chain(['…']).collect();
    }
    line
}

/// Some servers quote the key they refuse.
pub fn redact(mut failure: Failure, key: Option<&Key>) -> Failure {
    if let Some(key) = key.map(Key::reveal).filter(|key| !key.is_empty()) {
        failure.message = failure.message.replace(key, "[key]");
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_every_family_are_read() {
        for (body, message, code) in [
            (
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                "Overloaded",
                "overloaded_error",
            ),
            (
                r#"{"error":{"message":"no quota","type":"x","code":"insufficient_quota"}}"#,
                "no quota",
                "insufficient_quota",
            ),
            (r#"{"error":"model not found"}"#, "model not found", ""),
            (
                r#"{"object":"error","message":"no such model","type":"NotFoundError","code":404}"#,
                "no such model",
                "404",
            ),
            (r#"{"detail":"Not Found"}"#, "Not Found", ""),
            (
                r#"[{"error":{"code":400,"message":"bad","status":"INVALID_ARGUMENT"}}]"#,
                "bad",
                "400",
            ),
            (
                r#"{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"cuda died"}}}"#,
                "Provider returned error: cuda died",
                "502",
            ),
            ("<html>\n bad\tgateway</html>", "<html> bad gateway</html>", ""),
        ] {
            let told = ProviderError::from(body.as_bytes());
            assert_eq!((told.message.as_str(), told.code.as_str()), (message, code));
        }
    }

    #[test]
    fn a_quoted_key_is_taken_out() {
        let key = Key::new("sk-canary".into());
        let failure = redact(Failure::new(Kind::Refused, "wrong key sk-canary!"), Some(&key));
        assert_eq!(failure.message, "wrong key [key]!");
    }

    #[test]
    fn the_field_that_is_refused_is_the_one_that_is_named() {
        for (body, field) in [
            (
                r#"{"error":{"message":"Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.","param":"max_tokens"}}"#,
                Some(Field::MaxTokens),
            ),
            (
                r#"{"error":{"message":"use 'max_completion_tokens', max_tokens is not supported"}}"#,
                Some(Field::MaxCompletionTokens),
            ),
            (
                r#"{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#,
                Some(Field::StreamOptions),
            ),
            (
                r#"{"error":{"message":"max_tokens is too large: 9","param":"max_tokens"}}"#,
                None,
            ),
            (r#"{"error":{"message":"my_temperature_x is wrong"}}"#, None),
        ] {
            let told = ProviderError::from(body.as_bytes());
            assert_eq!(refused_field(&told, body), field, "{body}");
        }
    }
}
