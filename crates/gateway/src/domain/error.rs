//! Why a request is invalid, as far as that is known without asking another daemon.

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0} is required")]
    Missing(&'static str),
    #[error("first message must contain session_id")]
    FirstFrame,
    #[error("{0} must not be negative")]
    Negative(&'static str),
    #[error("{what} of {size} bytes is longer than {limit}")]
    TooLong {
        what: &'static str,
        size: usize,
        limit: usize,
    },
    #[error("{field} has the unknown value {value}")]
    UnknownValue { field: &'static str, value: i32 },
    #[error("{0} is not a valid time")]
    BadTime(&'static str),
    #[error("end_time is before start_time")]
    EndBeforeStart,
    #[error("a stream belongs to one session, and this one is for {0}")]
    OtherSession(String),
    #[error("a message of {size} bytes exceeds max_message_size of {limit} bytes")]
    TooLarge { size: usize, limit: usize },
    #[error("gateway session is closed")]
    Closed,
}
