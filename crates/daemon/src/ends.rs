//! How calls end where the handler does not say it itself, or where tonic says it with a code that means something else.

use http::{HeaderMap, HeaderName};
use tonic::{Code, Status};

use crate::status::status;

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

pub(crate) fn late() -> Status {
    status(Code::DeadlineExceeded, "the deadline passed", "DEADLINE")
}

pub(crate) fn shutting_down() -> Status {
    status(Code::Unavailable, "shutting down", "SHUTTING_DOWN")
}

pub(crate) fn token_ended() -> Status {
    status(
        Code::Unauthenticated,
        "the token of this stream was revoked or has expired",
        "TOKEN_ENDED",
    )
}

pub(crate) fn code_of(headers: &HeaderMap) -> Code {
    headers
        .get(GRPC_STATUS)
        .map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()))
}

/// tonic's own words for three mistakes of the caller carry codes that say otherwise; these are put right.
pub(crate) fn restate(headers: &mut HeaderMap) {
    if !matches!(code_of(headers), Code::OutOfRange | Code::Internal) {
        return;
    }
    let Some(said) = Status::from_header_map(headers) else {
        return;
    };
    let text = said.message();
    let better = match said.code() {
        Code::OutOfRange if text.starts_with("Error, decoded message length too large") => {
            status(Code::ResourceExhausted, too_large(text), "MAX_MESSAGE_BYTES")
        }
        Code::OutOfRange if text.starts_with("Error, encoded message length too large") => {
            status(Code::ResourceExhausted, too_large(text), "MAX_MESSAGE_BYTES")
        }
        Code::Internal if text == "Missing request message." => status(
            Code::InvalidArgument,
            "the call ended without a request message",
            "NO_MESSAGE",
        ),
        Code::Internal if text.starts_with("failed to decode Protobuf message") => {
            status(Code::InvalidArgument, text, "MALFORMED_MESSAGE")
        }
        Code::Internal if text == "Unexpected EOF decoding stream." => status(
            Code::InvalidArgument,
            "the call ended within a message",
            "MALFORMED_MESSAGE",
        ),
        _ => return,
    };
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        headers.remove(name);
    }
    if let Err(error) = better.add_header(headers) {
        tracing::error!(%error, "a status does not fit into headers");
    }
}

fn too_large(text: &str) -> String {
    format!("{} (max_message_bytes)", text.trim_start_matches("Error, "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tonics_own_words_are_restated() {
        let restated = |said: Status| {
            let mut headers = HeaderMap::new();
            said.add_header(&mut headers).unwrap();
            restate(&mut headers);
            Status::from_header_map(&headers).unwrap()
        };
        let big = restated(Status::out_of_range(
            "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
        ));
        assert_eq!(big.code(), Code::ResourceExhausted);
        assert!(big.message().contains("found 9 bytes") && big.message().contains("max_message_bytes"));
        assert_eq!(
            restated(Status::internal("Missing request message.")).code(),
            Code::InvalidArgument
        );
        assert_eq!(
            restated(Status::out_of_range("after the head of the log")).code(),
            Code::OutOfRange
        );
        assert_eq!(restated(Status::internal("ours")).message(), "ours");
    }
}
