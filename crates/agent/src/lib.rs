//! The agent daemon: it runs what the orchestrator gives it, and owns nothing that must survive it.
//!
//! As `assistant` it answers conversations. For each turn it reads the session from the orchestrator, shows a model the
//! newest part that fits, passes the answer on piece by piece and then whole.
//!
//! Architecture invariant: no conversation is kept here between turns, and no turn outlives the stream it came on. What
//! is lost with this process, or with the stream, the orchestrator offers again.

mod daemon;
mod domain;
mod engine;
mod remote;
mod service;

pub use daemon::{Agent, Config};
