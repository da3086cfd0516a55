//! How a provider can fail, and what follows from each failure.

use std::{fmt, time::Duration};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No key is set for a provider that needs one, or the key file cannot be used.
    NoKey,
    /// The provider refused the key, or the account behind it (unpaid, no quota).
    Refused,
    /// The provider found the request itself wrong.
    Invalid,
    /// It does not know the model.
    UnknownModel,
    /// Nothing answers under the path that was asked: the base URL is another one.
    NoSuchPath,
    /// The server is there and still loads the model: a sign of life, and no fault.
    Loading,
    RateLimited,
    /// It answered with an error of its own (5xx, overloaded).
    Server,
    /// No connection.
    Unreachable,
    /// Too long without a byte.
    Silent,
    /// The answer ended early, or was not what the protocol says.
    Broken,
    /// Left alone for a while after failing again and again.
    Resting,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    /// For people; never holds a key.
    pub message: String,
    /// How long the provider asked us to wait.
    pub retry_after: Option<Duration>,
    /// The optional field of the request that the endpoint does not take, where it refused the request for one.
    pub field: Option<Field>,
}

/// Fields of a request that some endpoints refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    Temperature,
    ParallelToolCalls,
    ToolChoice,
    ReasoningEffort,
    Include,
}

impl Field {
    pub const ALL: [Self; 8] = [
        Self::StreamOptions,
        Self::MaxTokens,
        Self::MaxCompletionTokens,
        Self::Temperature,
        Self::ParallelToolCalls,
        Self::ToolChoice,
        Self::ReasoningEffort,
        Self::Include,
    ];

    /// As it stands in the request's JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::StreamOptions => "stream_options",
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::Temperature => "temperature",
            Self::ParallelToolCalls => "parallel_tool_calls",
            Self::ToolChoice => "tool_choice",
            Self::ReasoningEffort => "reasoning_effort",
            Self::Include => "include",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            field: None,
        }
    }

    /// Trying the same provider again may help.
    pub fn is_passing(&self) -> bool {
        match self.kind {
            Kind::RateLimited
            | Kind::Loading
            | Kind::Server
            | Kind::Unreachable
            | Kind::Silent
            | Kind::Broken
            | Kind::Resting => true,
            Kind::NoKey | Kind::Refused | Kind::Invalid | Kind::UnknownModel | Kind::NoSuchPath => false,
        }
    }

    /// Another provider, if the caller named one, may do better. A request that is wrong is wrong everywhere.
    pub fn may_fall_back(&self) -> bool {
        self.kind != Kind::Invalid
    }

    /// It says something about the provider's state of health, so the breaker counts it.
    pub fn is_sickness(&self) -> bool {
        matches!(
            self.kind,
            Kind::Server | Kind::Unreachable | Kind::Silent | Kind::Broken
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.retry_after {
            Some(wait) => write!(f, " (it asks to wait {} s)", wait.as_secs_f64().ceil()),
            None => Ok(()),
        }
    }
}
