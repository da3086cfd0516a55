//! Maps each error to a gRPC status, in one exhaustive match.

use nexus_client::Kind;
use nexus_daemon::status;
use tonic::{Code, Status};

use crate::{Error, domain};

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let text = error.to_string();
        match error {
            Error::Domain(error) => of_domain(&error),
            Error::SessionNotFound => status(Code::NotFound, text, "GATEWAY_SESSION_NOT_FOUND"),
            Error::MessageNotFound(_) => status(Code::NotFound, text, "MESSAGE_NOT_FOUND"),
            Error::SessionClosed => status(Code::FailedPrecondition, text, "GATEWAY_SESSION_CLOSED"),
            Error::TooManySessions(_) => status(Code::ResourceExhausted, text, "GATEWAY_SESSION_LIMIT"),
            Error::TooManyStreams(_) => status(Code::ResourceExhausted, text, "GATEWAY_STREAM_LIMIT"),
            Error::KeyReused => status(Code::InvalidArgument, text, "IDEMPOTENCY_KEY_REUSED"),
            Error::BadKey(_) => status(Code::InvalidArgument, text, "IDEMPOTENCY_KEY_INVALID"),
            Error::BeyondEnd { .. } => status(Code::OutOfRange, text, "CURSOR_BEYOND_END"),
            Error::RequiresAuth => status(Code::Unauthenticated, text, "AUTHENTICATION_REQUIRED"),
            Error::Orchestrator(error) => of_orchestrator(&error),
            Error::Store(error) => of_store(&error),
            Error::Deadline(_) => status(Code::Unavailable, text, "GATEWAY_BUSY"),
            Error::Unreadable(_) => status(Code::Internal, text, "GATEWAY_STORE_UNREADABLE"),
            Error::NoRandomness => status(Code::Internal, text, "NO_RANDOMNESS"),
        }
    }
}

fn of_domain(error: &domain::Error) -> Status {
    let (code, reason) = match error {
        domain::Error::Missing(_) | domain::Error::FirstFrame => (Code::InvalidArgument, "FIELD_REQUIRED"),
        domain::Error::Negative(_) => (Code::InvalidArgument, "NEGATIVE_VALUE"),
        domain::Error::TooLong { .. } => (Code::InvalidArgument, "VALUE_TOO_LONG"),
        domain::Error::UnknownValue { .. } => (Code::InvalidArgument, "UNKNOWN_VALUE"),
        domain::Error::BadTime(_) | domain::Error::EndBeforeStart => (Code::InvalidArgument, "INVALID_TIME"),
        domain::Error::OtherSession(_) => (Code::InvalidArgument, "OTHER_SESSION"),
        domain::Error::TooLarge { .. } => (Code::ResourceExhausted, "MAX_MESSAGE_SIZE"),
        domain::Error::Closed => (Code::FailedPrecondition, "GATEWAY_SESSION_CLOSED"),
    };
    status(code, error.to_string(), reason)
}

/// The orchestrator's refusals stay what they are; not reaching it is UNAVAILABLE, and names the next step.
fn of_orchestrator(error: &nexus_client::Error) -> Status {
    let text = error.to_string();
    let hinted = match &error.hint {
        Some(hint) => format!("the orchestrator cannot be reached: {text} ({hint})"),
        None => format!("the orchestrator cannot be reached: {text}"),
    };
    match error.kind {
        Kind::NotRunning | Kind::Refused(_) | Kind::Unavailable | Kind::Denied | Kind::Unauthenticated => {
            status(Code::Unavailable, hinted, "ORCHESTRATOR_UNAVAILABLE")
        }
        Kind::Timeout => status(Code::DeadlineExceeded, text, "ORCHESTRATOR_TIMEOUT"),
        Kind::Cancelled => status(Code::Cancelled, text, "CANCELLED"),
        Kind::NotFound => status(Code::NotFound, text, "NOT_FOUND"),
        Kind::Invalid => status(Code::InvalidArgument, text, "INVALID_ARGUMENT"),
        Kind::Exists => status(Code::AlreadyExists, text, "ALREADY_EXISTS"),
        Kind::Precondition => status(Code::FailedPrecondition, text, "FAILED_PRECONDITION"),
        Kind::Exhausted => status(Code::ResourceExhausted, text, "RESOURCE_EXHAUSTED"),
        Kind::Aborted => status(Code::Aborted, text, "ABORTED"),
        Kind::OutOfRange => status(Code::OutOfRange, text, "OUT_OF_RANGE"),
        Kind::Unimplemented => status(Code::Unimplemented, text, "ORCHESTRATOR_UNIMPLEMENTED"),
        Kind::Internal => status(Code::Internal, text, "ORCHESTRATOR_INTERNAL"),
    }
}

fn of_store(error: &nexus_store::Error) -> Status {
    use nexus_store::Error as Store;
    let text = error.to_string();
    match error {
        Store::Full { .. } | Store::LowDisk { .. } => status(Code::ResourceExhausted, text, "DISK_FULL"),
        Store::Busy | Store::Superseded | Store::Closed | Store::InUse { .. } => {
            status(Code::Unavailable, text, "GATEWAY_BUSY")
        }
        Store::LeaseLost | Store::Unknown { .. } => status(Code::Unavailable, text, "GATEWAY_STORE_LOST"),
        Store::Damaged { .. } | Store::TooNew { .. } | Store::Io { .. } => {
            status(Code::Internal, text, "GATEWAY_STORE_FAILED")
        }
    }
}
