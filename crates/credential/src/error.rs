use std::fmt;

use crate::Reference;

/// What became of it, for whoever has to act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Where the reference points, there is nothing.
    NotFound,
    /// It is there, and somebody must unlock the store first.
    Locked,
    /// The store or the system refuses it to us.
    Denied,
    /// What would fetch it is not installed, not running or not set up.
    MissingProvider,
    /// The provider did not answer within its deadline.
    Timeout,
    /// The reference or what was found is not what it should be.
    Malformed,
    /// It was valid until a time that has passed.
    Expired,
    /// The provider failed in a way of its own.
    Failed,
}

impl Kind {
    /// The name that programs read: `not-found`, `missing-provider`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::NotFound => "not-found",
            Kind::Locked => "locked",
            Kind::Denied => "denied",
            Kind::MissingProvider => "missing-provider",
            Kind::Timeout => "timeout",
            Kind::Malformed => "malformed",
            Kind::Expired => "expired",
            Kind::Failed => "failed",
        }
    }

    /// Whether it may be there by itself a little later, without a change of the settings.
    pub fn is_passing(self) -> bool {
        match self {
            Kind::Locked | Kind::Timeout | Kind::MissingProvider | Kind::Failed => true,
            Kind::NotFound | Kind::Denied | Kind::Malformed | Kind::Expired => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a reference did not resolve. It holds no part of a secret, and nothing that a program said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reference}: {reason}")]
pub struct Error {
    /// The kind of failure.
    pub kind: Kind,
    /// Without the arguments of a command.
    pub reference: String,
    /// What happened, as a fragment that follows the reference.
    pub reason: String,
    /// What a person can do about it.
    pub hint: Option<String>,
}

impl Error {
    pub(crate) fn new(kind: Kind, reference: &Reference, reason: impl Into<String>) -> Error {
        Error::about(kind, reference.label(), reason)
    }

    pub(crate) fn about(kind: Kind, what: impl Into<String>, reason: impl Into<String>) -> Error {
        Error {
            kind,
            reference: what.into(),
            reason: reason.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// The error and what to do about it, in one line.
    pub fn advice(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{self} ({hint})"),
            None => self.to_string(),
        }
    }
}
