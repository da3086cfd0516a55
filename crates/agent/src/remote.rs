//! Clients of the orchestrator and the model daemon. No state, no decisions.

mod driver;
mod llm;
mod message;
mod orchestrator;
mod refusal;
pub mod worker;

pub use llm::{AnswerStream, ContextWindows, Models};
pub use message::{Inbound, new_id};
pub use orchestrator::{Line, Orchestrator, Page, Profile};
pub use refusal::refusal;
