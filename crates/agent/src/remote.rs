//! The neighbours, as this daemon needs them: calls out, in our own words. No state, no decisions.

mod llm;
mod message;
mod orchestrator;
mod refusal;

pub use llm::{Ask, Models, Spoken, Windows};
pub use message::{Inbound, Offer, Outbound, Refusal};
pub use orchestrator::{Orchestrator, Page, Profile};
pub use refusal::refusal;
