//! Errors of a call: one variant for each thing that the caller can do about it.

use crate::domain;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Domain(#[from] domain::Error),
    #[error("gateway session not found")]
    SessionNotFound,
    #[error("message not found: {0}")]
    MessageNotFound(String),
    #[error("gateway session is closed")]
    SessionClosed,
    #[error("maximum gateway sessions limit reached: {0}")]
    TooManySessions(usize),
    #[error("maximum gateway streams limit reached: {0}")]
    TooManyStreams(usize),
    #[error("idempotency-key was used for another request")]
    KeyReused,
    #[error("idempotency-key is longer than {0} bytes or not plain ASCII")]
    BadKey(usize),
    #[error("after_sequence {after} is beyond the newest message, {newest}")]
    BeyondEnd { after: u64, newest: u64 },
    #[error("this session requires authentication")]
    RequiresAuth,
    #[error(transparent)]
    Orchestrator(#[from] nexus_client::Error),
    #[error("failed to use the gateway's store")]
    Store(#[from] nexus_store::Error),
    #[error("failed to {0} in time")]
    Deadline(&'static str),
    #[error("failed to read what the gateway stored: {0}")]
    Unreadable(String),
    #[error("no random numbers from the system")]
    NoRandomness,
}
