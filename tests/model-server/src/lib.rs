//! A model provider for tests that speaks the real HTTP and server-sent events of Anthropic's Messages, OpenAI's chat
//! completions, OpenAI's responses and Gemini's generateContent, and checks each request as strictly as those do.
//!
//! ```text
//! request ─▶ check/ ──refused──▶ 400 in the provider's own words
//!              │
//!              └─▶ script.rs: the next turn of the model's script ─▶ speak/: the provider's own events
//! ```
//!
//! The checks are plain functions of the request's JSON, so that a property test can ask them without a server. They
//! never know Nexus: what they refuse is what the providers' documents and error messages say is refused.

pub mod check;
mod recorded;
pub mod script;
pub mod seal;
mod server;
mod speak;

pub use check::{Family, Refused};
pub use recorded::Recorded;
pub use script::Script;
pub use server::Server;
