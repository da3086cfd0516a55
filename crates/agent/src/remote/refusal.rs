//! Converts a neighbour's failure to the reason why a turn has no answer.

use nexus_client::{Error, Kind};

use crate::domain::assistant::work::Refusal;

/// `whose` stands in front of what was said, and the next step behind it.
pub fn refusal(whose: &str, error: &Error) -> Refusal {
    let mut message = format!("{whose}: {error}");
    if let Some(hint) = &error.hint {
        message = format!("{message} ({hint})");
    }
    Refusal {
        code: code(error.kind).to_owned(),
        message,
        retryable: error.is_retryable(),
        keeps_answer: false,
    }
}

fn code(kind: Kind) -> &'static str {
    match kind {
        Kind::NotRunning | Kind::Unavailable => "UNAVAILABLE",
        Kind::Refused(_) | Kind::Denied => "PERMISSION_DENIED",
        Kind::Timeout => "DEADLINE_EXCEEDED",
        Kind::Cancelled => "CANCELLED",
        Kind::Unauthenticated => "UNAUTHENTICATED",
        Kind::NotFound => "NOT_FOUND",
        Kind::Invalid => "INVALID_ARGUMENT",
        Kind::Exists => "ALREADY_EXISTS",
        Kind::Precondition => "FAILED_PRECONDITION",
        Kind::Exhausted => "RESOURCE_EXHAUSTED",
        Kind::Aborted => "ABORTED",
        Kind::OutOfRange => "OUT_OF_RANGE",
        Kind::Unimplemented => "UNIMPLEMENTED",
        Kind::Internal => "INTERNAL",
    }
}
