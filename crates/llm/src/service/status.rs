//! Maps each error to gRPC: a status where the call ends, a `StreamError` where the stream continues.

use nexus_proto::llm::v1 as wire;
use tonic::{Code, Status};

use crate::domain::{error::Error, failure::Kind};

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, reason) = meaning(&error);
        nexus_daemon::status(code, error.to_string(), reason)
    }
}

pub fn in_band(request_id: &str, error: &Error) -> wire::StreamError {
    wire::StreamError {
        request_id: request_id.to_owned(),
        code: match error {
            // The caller's own limit, told apart from those of providers and of this daemon.
            Error::OverBudget(_) => "budget",
            error => name(meaning(error).0),
        }
        .into(),
        message: error.to_string(),
        retryable: error.is_retryable(),
        suggested_provider: error.suggestion().unwrap_or_default().into(),
    }
}

fn meaning(error: &Error) -> (Code, &'static str) {
    match error {
        Error::FirstWithoutRequest | Error::WithoutRequest => (Code::InvalidArgument, "REQUEST_REQUIRED"),
        Error::WithoutId => (Code::InvalidArgument, "REQUEST_ID_REQUIRED"),
        Error::Exists => (Code::AlreadyExists, "REQUEST_EXISTS"),
        Error::Invalid(_) => (Code::InvalidArgument, "REQUEST_INVALID"),
        Error::UnknownProvider { .. } => (Code::NotFound, "PROVIDER_UNKNOWN"),
        Error::UnknownModel(_) => (Code::NotFound, "MODEL_UNKNOWN"),
        Error::Keys(_) => (Code::FailedPrecondition, "KEY_FILE_UNUSABLE"),
        Error::NoModel { .. } => (Code::FailedPrecondition, "MODEL_NOT_CHOSEN"),
        Error::Budget { .. } => (Code::ResourceExhausted, "TOKEN_BUDGET_USED_UP"),
        Error::OverBudget(_) => (Code::ResourceExhausted, "BUDGET"),
        Error::Books(_) => (Code::Unavailable, "STORE_FAILED"),
        Error::Busy { .. } => (Code::ResourceExhausted, "TOO_MANY_REQUESTS"),
        Error::StreamFull(_) => (Code::ResourceExhausted, "TOO_MANY_REQUESTS_ON_STREAM"),
        Error::Deadline(_) | Error::RequestTimeout(_) => (Code::DeadlineExceeded, "REQUEST_TIMED_OUT"),
        Error::Provider { failure, .. } => match failure.kind {
            Kind::NoKey => (Code::FailedPrecondition, "PROVIDER_KEY_MISSING"),
            Kind::Refused => (Code::FailedPrecondition, "PROVIDER_REFUSED"),
            Kind::Invalid => (Code::InvalidArgument, "PROVIDER_FOUND_INVALID"),
            Kind::UnknownModel => (Code::NotFound, "MODEL_UNKNOWN"),
            Kind::NoSuchPath => (Code::NotFound, "PROVIDER_PATH_UNKNOWN"),
            Kind::Loading => (Code::Unavailable, "PROVIDER_LOADING"),
            Kind::RateLimited => (Code::ResourceExhausted, "PROVIDER_RATE_LIMITED"),
            Kind::Server => (Code::Unavailable, "PROVIDER_FAILED"),
            Kind::Unreachable => (Code::Unavailable, "PROVIDER_UNREACHABLE"),
            Kind::Silent => (Code::Unavailable, "PROVIDER_SILENT"),
            Kind::Broken => (Code::Unavailable, "PROVIDER_BROKE_OFF"),
            Kind::Resting => (Code::Unavailable, "PROVIDER_RESTING"),
        },
    }
}

/// As the gRPC documents spell them.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
