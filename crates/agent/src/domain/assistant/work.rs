//! What an assistant is asked, and what it says: plain values between the neighbours and the turns.

use std::{collections::HashMap, sync::Arc};

use nexus_proto::{llm::v1::Tool, orchestrator::v1::RunStep};

use super::{answer::CompleteAnswer, conversation::PromptMessage, turn_queue::TurnId};

/// One message to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub turn: TurnId,
    pub session_id: String,
    pub text: String,
    /// The user message's id, if the orchestrator says it.
    pub message_id: Option<String>,
    /// What every daemon's log calls it, if the orchestrator says it.
    pub followed_by: Option<String>,
    /// Where the turn belongs in a trace, if somebody traces.
    pub traceparent: Option<String>,
    pub model: Option<String>,
    /// Where the orchestrator keeps runs: the first step of this one.
    pub step: Option<StepPlace>,
    /// What the model is told beside the message.
    pub note: Option<String>,
}

/// A step of a run, and which attempt of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepPlace {
    pub run_id: String,
    pub step: i32,
    pub attempt: i32,
    /// Of the tools that it may use; empty: none.
    pub tools_digest: String,
}

/// A later step of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct NextStep {
    pub turn: TurnId,
    pub session_id: String,
    pub followed_by: Option<String>,
    pub traceparent: Option<String>,
    pub model: Option<String>,
    pub place: StepPlace,
    /// The step before it, with the results of its calls.
    pub previous: RunStep,
    /// The model has to report and end.
    pub last: bool,
}

/// What an assistant is offered.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Message(Box<Offer>),
    Step(Box<NextStep>),
}

impl Work {
    pub fn turn(&self) -> &TurnId {
        match self {
            Work::Message(offer) => &offer.turn,
            Work::Step(step) => &step.turn,
        }
    }

    pub fn session_id(&self) -> &str {
        match self {
            Work::Message(offer) => &offer.session_id,
            Work::Step(step) => &step.session_id,
        }
    }

    pub fn traceparent(&self) -> Option<&String> {
        match self {
            Work::Message(offer) => offer.traceparent.as_ref(),
            Work::Step(step) => step.traceparent.as_ref(),
        }
    }

    pub fn model(&self) -> Option<&String> {
        match self {
            Work::Message(offer) => offer.model.as_ref(),
            Work::Step(step) => step.model.as_ref(),
        }
    }

    /// Where it belongs in a run, if the orchestrator keeps runs.
    pub fn place(&self) -> Option<&StepPlace> {
        match self {
            Work::Message(offer) => offer.step.as_ref(),
            Work::Step(step) => Some(&step.place),
        }
    }

    /// What the logs of all daemons call the message that is answered.
    pub fn followed_by(&self) -> &str {
        let known = match self {
            Work::Message(offer) => offer.followed_by.as_ref().or(offer.message_id.as_ref()),
            Work::Step(step) => step.followed_by.as_ref(),
        };
        known.map_or(&self.turn().0, |id| id)
    }
}

/// Why a turn has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub retryable: bool,
    /// What came of the answer is all that will come of it, so it is to be kept, marked as incomplete. Not so where a
    /// daemon went away: the same question, asked again, starts over.
    pub keeps_answer: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outbound {
    Delta {
        index: usize,
        text: String,
    },
    /// A piece of what the model thinks, for those who watch a run.
    Thought {
        index: usize,
        text: String,
    },
    Answer(CompleteAnswer),
    Refusal(Refusal),
}

/// What one answer is made from.
#[derive(Clone, Debug)]
pub struct Ask {
    pub session_id: String,
    pub correlation_id: String,
    /// What the logs call it.
    pub followed_by: String,
    pub model: String,
    pub provider: String,
    pub max_tokens: u64,
    pub temperature: Option<f64>,
    pub messages: Vec<PromptMessage>,
    pub tools: Arc<Vec<Tool>>,
    /// The budgets that it counts against. Each of them costs the model daemon a commit before the request leaves.
    pub scopes: Vec<Scope>,
    /// Whom the usage is of.
    pub agent_name: String,
}

/// A budget with its limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// `run`, `session`, `agent` or `day`.
    pub kind: &'static str,
    pub id: String,
    /// Zero: no limit.
    pub max_tokens: u64,
    /// Zero: no limit.
    pub max_dollars: f64,
}

/// What a model answered in a step.
#[derive(Clone, Debug)]
pub struct FinishedStep {
    pub agent_id: String,
    pub place: StepPlace,
    pub answer: CompleteAnswer,
    /// For the answer's metadata, if the run ends here.
    pub extra: HashMap<String, String>,
}
