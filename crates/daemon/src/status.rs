//! The one way a daemon makes an error status: a gRPC code, a sentence, and a stable reason in the details.

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

const ERROR_INFO_URL: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const DOMAIN: &str = "nexus";
/// Longest sentence, in bytes. It travels in a header, twice, and clients give up a call whose headers are too large:
/// what repeats a caller's words back must not become as long as they are.
const SENTENCE: usize = 1024;

/// `google.rpc.Status`, as `grpc-status-details-bin` carries it.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo` without its map.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// A status whose details hold `ErrorInfo { reason, domain: "nexus" }`. `reason` is `UPPER_SNAKE_CASE` and never changes.
pub fn status(code: Code, message: impl Into<String>, reason: &'static str) -> Status {
    let message = cut(message.into());
    let info = ErrorInfo {
        reason: reason.into(),
        domain: DOMAIN.into(),
    };
    let details = Details {
        code: code as i32,
        message: message.clone(),
        details: vec![Any {
            type_url: ERROR_INFO_URL.into(),
            value: info.encode_to_vec(),
        }],
    };
    Status::with_details(code, message, Bytes::from(details.encode_to_vec()))
}

fn cut(mut message: String) -> String {
    if message.len() > SENTENCE {
        message.truncate(message.floor_char_boundary(SENTENCE));
        message.push_str("...");
    }
    message
}

/// The stable reason of a status made by [`status`], here or by another daemon; `None` if it carries none.
pub fn reason(status: &Status) -> Option<String> {
    let details = Details::decode(status.details()).ok()?;
    let any = details.details.into_iter().find(|any| any.type_url == ERROR_INFO_URL)?;
    Some(ErrorInfo::decode(any.value.as_slice()).ok()?.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_never_too_long_for_a_header() {
        let sent = status(Code::NotFound, "ä".repeat(100_000), "SESSION_NOT_FOUND");
        assert!(sent.message().len() <= SENTENCE + 3 && sent.message().ends_with("ä..."));
    }

    #[test]
    fn the_reason_survives_the_wire() {
        let sent = status(Code::NotFound, "no such session", "SESSION_NOT_FOUND");
        let mut headers = http::HeaderMap::new();
        sent.add_header(&mut headers).unwrap();
        let got = Status::from_header_map(&headers).unwrap();
        assert_eq!(got.code(), Code::NotFound);
        assert_eq!(got.message(), "no such session");
        assert_eq!(reason(&got).as_deref(), Some("SESSION_NOT_FOUND"));
        assert_eq!(reason(&Status::internal("plain")), None);
    }
}
