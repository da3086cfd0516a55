//! Maps each error to a gRPC status: one arm for each, so that a new one has to be considered.

use nexus_store::Error as Store;
use tonic::{Code, Status};

use crate::domain::Error;

/// An error on its way out.
#[derive(Debug)]
pub struct Refusal(pub Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal(error)
    }
}

impl From<Refusal> for Status {
    fn from(Refusal(error): Refusal) -> Status {
        let (code, reason) = match &error {
            Error::Required(_) => (Code::InvalidArgument, "REQUIRED"),
            Error::Invalid(_) => (Code::InvalidArgument, "INVALID"),
            Error::FirstMessage(_) => (Code::InvalidArgument, "FIRST_MESSAGE"),
            Error::SessionNotFound(_) => (Code::NotFound, "SESSION_NOT_FOUND"),
            Error::SessionClosed { .. } => (Code::FailedPrecondition, "SESSION_CLOSED"),
            Error::SessionNotActive { .. } => (Code::FailedPrecondition, "SESSION_NOT_ACTIVE"),
            Error::MessageExists(_) => (Code::AlreadyExists, "MESSAGE_EXISTS"),
            Error::MessageNotFound(_) => (Code::NotFound, "MESSAGE_NOT_FOUND"),
            Error::AgentNotFound => (Code::NotFound, "AGENT_NOT_FOUND"),
            Error::RoleRefused { .. } => (Code::PermissionDenied, "ROLE"),
            Error::NotNamed { .. } => (Code::PermissionDenied, "NOT_NAMED"),
            Error::ContainerNotFound(_) => (Code::NotFound, "CONTAINER_NOT_FOUND"),
            Error::ContainerState { .. } => (Code::FailedPrecondition, "CONTAINER_STATE"),
            Error::Forbidden(_) => (Code::PermissionDenied, "POLICY_VIOLATION"),
            Error::Unenforced(_) => (Code::FailedPrecondition, "LIMIT_UNENFORCED"),
            Error::Runtime(error) => super::containers::code(error),
            Error::TaskNotFound => (Code::NotFound, "TASK_NOT_FOUND"),
            Error::RunNotFound(_) => (Code::NotFound, "RUN_NOT_FOUND"),
            Error::StepOver { .. } => (Code::FailedPrecondition, "STEP_OVER"),
            Error::CallNotFound(_) => (Code::NotFound, "EXECUTION_NOT_FOUND"),
            Error::ApprovalNotFound(_) => (Code::NotFound, "APPROVAL_NOT_FOUND"),
            Error::ApprovalDecided { .. } => (Code::FailedPrecondition, "APPROVAL_DECIDED"),
            Error::ApprovalChanged(_) => (Code::FailedPrecondition, "APPROVAL_CHANGED"),
            Error::GrantNotFound(_) => (Code::NotFound, "GRANT_NOT_FOUND"),
            Error::ToolNotFound(_) => (Code::NotFound, "TOOL_NOT_FOUND"),
            Error::ToolExists(_) => (Code::AlreadyExists, "TOOL_EXISTS"),
            Error::BuiltinTool(_) => (Code::FailedPrecondition, "BUILTIN_TOOL"),
            Error::ToolDisabled(_) => (Code::FailedPrecondition, "TOOL_DISABLED"),
            Error::ToolInUse(_) => (Code::FailedPrecondition, "TOOL_IN_USE"),
            Error::TooManyTools(_) | Error::TooManyCalls(_) | Error::TooManyGrants(_) => {
                (Code::ResourceExhausted, "LIMIT")
            }
            Error::TaskState { .. } => (Code::FailedPrecondition, "TASK_STATE"),
            Error::LeaseOver(_) => (Code::FailedPrecondition, "LEASE_OVER"),
            Error::OnlyWatches(_) => (Code::FailedPrecondition, "ONLY_WATCHES"),
            Error::StreamReplaced(_) => (Code::Aborted, "STREAM_REPLACED"),
            Error::LinkFull(_) => (Code::ResourceExhausted, "TOO_SLOW"),
            Error::InputFull(_) => (Code::ResourceExhausted, "INPUT_FULL"),
            Error::Limit { .. } => (Code::ResourceExhausted, "LIMIT"),
            Error::TooLarge { .. } => (Code::ResourceExhausted, "ANSWER_TOO_LARGE"),
            Error::TooSlow(_) => (Code::ResourceExhausted, "TOO_SLOW"),
            Error::KeyReused(_) => (Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED"),
            Error::OutOfRange(_) => (Code::OutOfRange, "CURSOR"),
            Error::Protocol { .. } => (Code::FailedPrecondition, "PROTOCOL"),
            Error::Store(Store::Full { .. } | Store::LowDisk { .. }) => (Code::ResourceExhausted, "DISK_FULL"),
            Error::Store(Store::Damaged { .. }) => (Code::DataLoss, "STORE_DAMAGED"),
            Error::Store(Store::Superseded | Store::Busy | Store::Closed) => (Code::Unavailable, "STORE_BUSY"),
            Error::Store(Store::LeaseLost) => (Code::Unavailable, "STORE_LEASE_LOST"),
            Error::Store(Store::Unknown { .. }) => (Code::Unavailable, "STORE_UNKNOWN"),
            Error::Store(Store::TooNew { .. } | Store::InUse { .. } | Store::Io { .. }) => (Code::Internal, "STORE"),
        };
        nexus_daemon::status(code, error.to_string(), reason)
    }
}

/// A code as the seed's server wrote it in its errors.
pub fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "TIMEOUT",
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

/// So that a handler can use `?` on what the engine refuses.
pub fn refuse(error: Error) -> Status {
    Refusal(error).into()
}
