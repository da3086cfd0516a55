//! Errors of an engine.

use std::time::Duration;

/// What an engine answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an engine did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the fields are the words of the message, which says what each is"
)]
pub enum Error {
    /// There is no container with this id.
    #[error("no such container: {0}")]
    NotFound(String),
    /// A container has this name already.
    #[error("a container named {0} exists already")]
    Exists(String),
    /// Neither here nor, if it was asked, in the registry.
    #[error("image {image} is not here: {why}")]
    ImageNotFound { image: String, why: String },
    /// The image's registry, or the image itself, cannot be used.
    #[error("failed to get image {image}: {why}")]
    Pull { image: String, why: String },
    /// The request cannot be carried out as it stands: a command that is not there, a bad path, a bad name.
    #[error("{0}")]
    Invalid(String),
    /// The caller has no right to it on this host.
    #[error("{0}")]
    Denied(String),
    /// Not in this state: not running, or running.
    #[error("container {id} {why}")]
    State { id: String, why: String },
    /// This engine has no way to do it.
    #[error("{engine} cannot {what}")]
    Unsupported { engine: &'static str, what: String },
    /// It did not answer, or went away in the middle: it may be back.
    #[error("{engine} does not answer: {why}")]
    Unavailable { engine: &'static str, why: String },
    /// It did not answer within its deadline, and may still do what it was asked for.
    #[error("{engine} took longer than {} to {doing}", humantime(.after))]
    Timeout {
        engine: &'static str,
        doing: &'static str,
        after: Duration,
    },
    /// It works here in no way; the text says what to do.
    #[error("{engine} does not work here: {why}")]
    Unusable { engine: &'static str, why: String },
    /// Nothing on this host isolates.
    #[error("no container backend works here ({tried}); {install}")]
    NoBackend { tried: String, install: &'static str },
    /// It said so, in its own words.
    #[error("{engine}: {why}")]
    Failed { engine: &'static str, why: String },
}

impl Error {
    /// Whether the same request may work later, unchanged.
    pub fn is_passing(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Timeout { .. })
    }
}

fn humantime(after: &Duration) -> String {
    format!("{after:?}")
}
