//! Why a call failed, typed, and what to do about it.

use std::{error::Error as StdError, fmt, io, sync::Arc, time::Duration};

use tonic::{Code, Status};

use crate::{Address, details};

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The socket file does not exist, or no process accepts on it.
    #[error("nothing is listening on {address}")]
    NotRunning {
        /// Where the connection was tried.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The process behind the socket belongs to a user that [`crate::ServerUid`] does not accept.
    #[error("{address} belongs to uid {uid}, which is not trusted here")]
    Foreign {
        /// Where the connection was tried.
        address: Address,
        /// The user of the process that listens there.
        uid: u32,
    },
    /// The connection was not there within [`crate::Options::dial_timeout`].
    #[error("no connection to {address} within {after:?}")]
    Timeout {
        /// Where the connection was tried.
        address: Address,
        /// The time limit that passed.
        after: Duration,
    },
    /// File permissions keep this user from the socket.
    #[error("this user may not open {address}")]
    Denied {
        /// Where the connection was tried.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The address cannot be used at all: too long for a socket, or TLS settings that do not fit.
    #[error("{0}")]
    Unusable(String),
    /// The TLS handshake failed.
    #[error("no TLS connection to {address}")]
    Tls {
        /// Where the connection was tried.
        address: Address,
        /// What the TLS library or the system said.
        source: io::Error,
    },
    /// Any other failure to connect.
    #[error("no connection to {address}")]
    Failed {
        /// Where the connection was tried.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
}

/// What a caller can act upon. One value for each thing to do, whatever the wire said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing listens at the address.
    NotRunning,
    /// Another user's process (this uid) listens there; nothing was sent to it.
    Refused(u32),
    /// The deadline passed; whether the call took effect is unknown.
    Timeout,
    /// The caller gave up.
    Cancelled,
    /// The caller is known and may not do this.
    Denied,
    /// The server does not know who calls.
    Unauthenticated,
    /// What the call names does not exist, or not for this caller.
    NotFound,
    /// The request itself is wrong.
    Invalid,
    /// The name or id is taken.
    Exists,
    /// The state of what the call names does not allow it.
    Precondition,
    /// A named limit is reached.
    Exhausted,
    /// Another call got in between.
    Aborted,
    /// The cursor of a stream does not belong to the log, or lies beyond its end.
    OutOfRange,
    /// The server does not offer this call.
    Unimplemented,
    /// The server cannot answer now; the same call may work soon.
    Unavailable,
    /// A fault of the server.
    Internal,
}

/// Shows its message; the hint is for the line below.
#[derive(Clone, Debug)]
pub struct Error {
    /// What can be done about it.
    pub kind: Kind,
    /// One line, without the hint.
    pub message: String,
    /// The next step for a person.
    pub hint: Option<String>,
    /// The stable reason of a daemon's own refusal.
    pub reason: Option<String>,
}

impl Error {
    /// An error with the usual hint of its kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            hint: hint(kind).map(str::to_owned),
            reason: None,
        }
    }

    /// Whether the same call may succeed later without anyone changing it.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, Kind::NotRunning | Kind::Unavailable | Kind::Timeout)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        if let Some(dial) = dial_error(&status) {
            return Error::from(dial);
        }
        let kind = kind(status.code());
        let message = if status.message().is_empty() {
            status.code().description().to_lowercase()
        } else {
            status.message().to_owned()
        };
        let mut error = Error::new(kind, message);
        error.reason = details::reason(status.details());
        if let Some(hint) = hint_for_reason(error.reason.as_deref()) {
            error.hint = Some(hint.to_owned());
        }
        error
    }
}

impl From<&DialError> for Error {
    fn from(dial: &DialError) -> Self {
        let kind = match dial {
            DialError::NotRunning { .. } => Kind::NotRunning,
            DialError::Foreign { uid, .. } => Kind::Refused(*uid),
            DialError::Timeout { .. } => Kind::Timeout,
            DialError::Denied { .. } => Kind::Denied,
            DialError::Unusable(_) => Kind::Invalid,
            DialError::Tls { .. } | DialError::Failed { .. } => Kind::Unavailable,
        };
        let mut error = Error::new(kind, chain(dial));
        match dial {
            DialError::Denied { .. } => {
                error.hint = Some(
                    "run this as the user that owns the daemons, or let its config give the socket a group".into(),
                );
            }
            DialError::Tls { .. } => {
                error.hint =
                    Some("check that the server speaks TLS there and that its certificate is trusted (tls_ca)".into());
            }
            DialError::Failed { .. } => error.hint = Some("check the address and the network".into()),
            _ => {}
        }
        error
    }
}

/// A failed dial as a status: the same code for every gRPC client, and the cause kept for [`Error::from`].
pub(crate) fn dial_status(dial: Arc<DialError>) -> Status {
    let code = match &*dial {
        DialError::Timeout { .. } => Code::DeadlineExceeded,
        DialError::Foreign { .. } | DialError::Denied { .. } => Code::PermissionDenied,
        DialError::Unusable(_) => Code::InvalidArgument,
        DialError::NotRunning { .. } | DialError::Tls { .. } | DialError::Failed { .. } => Code::Unavailable,
    };
    let mut status = Status::new(code, chain(&*dial));
    status.set_source(dial);
    status
}

fn dial_error(status: &Status) -> Option<&DialError> {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            return Some(dial);
        }
        source = error.source();
    }
    None
}

/// The whole story in one line, for places that show no causes.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn kind(code: Code) -> Kind {
    match code {
        Code::Cancelled => Kind::Cancelled,
        Code::InvalidArgument => Kind::Invalid,
        Code::DeadlineExceeded => Kind::Timeout,
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists => Kind::Exists,
        Code::PermissionDenied => Kind::Denied,
        Code::ResourceExhausted => Kind::Exhausted,
        Code::FailedPrecondition => Kind::Precondition,
        Code::Aborted => Kind::Aborted,
        Code::OutOfRange => Kind::OutOfRange,
        Code::Unimplemented => Kind::Unimplemented,
        Code::Unavailable => Kind::Unavailable,
        Code::Unauthenticated => Kind::Unauthenticated,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Kind::Internal,
    }
}

/// The reason of an error where the disk of the daemon that was asked has too little room.
pub(crate) const DISK_FULL: &str = "DISK_FULL";

/// The reason of a daemon that stops, be it to start again.
const SHUTTING_DOWN: &str = "SHUTTING_DOWN";

/// What helps for a reason that a daemon gave; more exact than what helps for its kind.
fn hint_for_reason(reason: Option<&str>) -> Option<&'static str> {
    match reason {
        Some(DISK_FULL) => Some("make room on that disk; nexus sessions prune removes old sessions"),
        Some(SHUTTING_DOWN) => {
            Some("it is stopping; if it is being restarted, the same call works in a moment: nexus services status")
        }
        _ => None,
    }
}

fn hint(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::NotRunning => Some("start it with: nexus up"),
        Kind::Refused(_) => Some(
            "another user's process holds this socket; use your own (NEXUS_ROOT, grpc_socket_path), or ask that user to stop it",
        ),
        Kind::Timeout => Some("see whether it is busy or stuck: nexus status"),
        Kind::Denied => {
            Some("the daemon's config gives users and groups their roles; a token carries one too: nexus token new")
        }
        Kind::Unauthenticated => {
            Some("set NEXUS_TOKEN to a token; the user that Nexus runs as makes one with: nexus token new")
        }
        Kind::Exhausted => Some("try again later, or raise the limit that the message names"),
        Kind::OutOfRange => Some("the log is another one now, or shorter: read again without a cursor"),
        Kind::Unimplemented => {
            Some("the daemon does not serve this call: it may be of another build; see nexus status")
        }
        Kind::Unavailable => Some("see what is missing: nexus status"),
        Kind::Internal => Some("a fault of the daemon: its log is under state/logs"),
        Kind::Cancelled | Kind::NotFound | Kind::Invalid | Kind::Exists | Kind::Precondition | Kind::Aborted => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_daemon_names_the_command() {
        let dial = DialError::NotRunning {
            address: Address::Unix("/run/x.sock".into()),
            source: io::Error::from(io::ErrorKind::NotFound),
        };
        let error = Error::from(dial_status(Arc::new(dial)));
        assert_eq!(error.kind, Kind::NotRunning);
        assert!(error.message.contains("/run/x.sock"), "{error}");
        assert_eq!(error.hint.as_deref(), Some("start it with: nexus up"));
        assert!(error.is_retryable());
    }

    #[test]
    fn a_status_keeps_its_words_and_its_reason() {
        let status = Status::with_details(
            Code::ResourceExhausted,
            "maximum sessions limit reached: 100",
            details::encode("session_limit").into(),
        );
        let error = Error::from(status);
        assert_eq!(error.kind, Kind::Exhausted);
        assert_eq!(error.to_string(), "maximum sessions limit reached: 100");
        assert_eq!(error.reason.as_deref(), Some("session_limit"));
        assert!(!error.is_retryable());
    }

    #[test]
    fn a_full_disk_has_its_own_hint() {
        let details = details::encode(DISK_FULL).into();
        let error = Error::from(Status::with_details(
            Code::ResourceExhausted,
            "only 1 byte is free",
            details,
        ));
        assert!(error.hint.unwrap().contains("make room"));
    }

    #[test]
    fn a_daemon_that_is_being_restarted_is_not_to_be_started() {
        let details = details::encode(SHUTTING_DOWN).into();
        let error = Error::from(Status::with_details(Code::Unavailable, "shutting down", details));
        let hint = error.hint.unwrap();
        assert!(hint.contains("in a moment") && !hint.contains("nexus up"), "{hint}");
    }

    #[test]
    fn a_status_without_words_still_says_something() {
        assert!(!Error::from(Status::new(Code::Aborted, "")).message.is_empty());
    }
}
