//! Clients of the orchestrator and the model daemon. No state, no decisions.

mod llm;
mod message;
mod orchestrator;
mod refusal;

pub use llm::{AnswerStream, Ask, ContextWindows, Models};
pub use message::{Inbound, Offer, Outbound, Refusal};
pub use orchestrator::{Orchestrator, Page, Profile};
pub use refusal::refusal;
