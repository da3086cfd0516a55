//! Why a request gets no answer, as its caller sees it. `service/status.rs` maps it to gRPC.

use std::time::Duration;

use super::{budget::Refused, failure::Failure};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("first message must contain LLM request")]
    FirstWithoutRequest,
    #[error("request is required")]
    WithoutRequest,
    #[error("request_id is required")]
    WithoutId,
    #[error("LLM request already exists")]
    Exists,
    #[error("{0}")]
    Invalid(String),
    #[error("unknown provider {name:?}; known are {known}")]
    UnknownProvider { name: String, known: String },
    #[error("no provider is known for model {0:?}: name it as provider/model, or set llm.default_provider")]
    UnknownModel(String),
    /// Nothing was named, and who would be asked cannot be known.
    #[error("{0}; or use a provider that needs no key, such as offline")]
    Keys(String),
    #[error("no model selected for {provider}: name one as {provider}/<model>, or set llm.default_model")]
    NoModel { provider: String },
    #[error(
        "the daily budget of {budget} tokens is used up ({used} used); it is reset at midnight UTC; raise it with llm.daily_token_budget"
    )]
    Budget { budget: u64, used: u64 },
    #[error("{0}")]
    OverBudget(Refused),
    #[error("failed to write to the store of budgets and usage: {0}")]
    Books(String),
    #[error(
        "too many concurrent requests: {running} are running and {waiting} waiting (llm.max_concurrent_requests, llm.max_waiting_requests)"
    )]
    Busy { running: usize, waiting: usize },
    #[error("too many requests on one stream: at most {0} at a time")]
    StreamFull(usize),
    /// The caller's own.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Deadline(Duration),
    #[error("no answer within {} s (llm.request_timeout)", .0.as_secs_f64())]
    RequestTimeout(Duration),
    /// The last provider's failure; the text names all that were asked.
    #[error("{text}")]
    Provider {
        failure: Failure,
        text: String,
        suggestion: Option<String>,
    },
}

impl Error {
    /// From what each provider that was asked said, in order. `tried` is never empty.
    pub fn providers(tried: Vec<(String, Failure)>, suggestion: Option<String>) -> Self {
        let text = tried
            .iter()
            .map(|(name, failure)| format!("{name}: {failure}"))
            .collect::<Vec<_>>()
            .join("; then ");
        let failure = tried
            .into_iter()
            .next_back()
            .map(|(_, failure)| failure)
            .expect("a provider was asked before all of them failed");
        Self::Provider {
            failure,
            text,
            suggestion,
        }
    }

    /// The same request, sent again later, may be answered.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Exists
            | Self::Books(_)
            | Self::Busy { .. }
            | Self::StreamFull(_)
            | Self::Deadline(_)
            | Self::RequestTimeout(_) => true,
            Self::Provider { failure, .. } => failure.is_passing(),
            Self::FirstWithoutRequest
            | Self::WithoutRequest
            | Self::WithoutId
            | Self::Invalid(_)
            | Self::UnknownProvider { .. }
            | Self::UnknownModel(_)
            | Self::Keys(_)
            | Self::NoModel { .. }
            | Self::Budget { .. }
            | Self::OverBudget(_) => false,
        }
    }

    pub fn suggestion(&self) -> Option<&str> {
        match self {
            Self::Provider { suggestion, .. } => suggestion.as_deref(),
            _ => None,
        }
    }
}
