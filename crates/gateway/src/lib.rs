//! `nexus-gateway`: what user interfaces talk to. It serves `gateway.v1`: sessions that belong to the caller who made
//! them, each in front of one session of the orchestrator, and answers in chunks as they are produced.
//!
//! ```text
//! client ──▶ service/ ──▶ engine/ ──▶ remote/ ──StreamMessages──▶ orchestrator
//!               ▲           │  └────▶ store.rs (sessions, events, first answers)
//!               └─ chunks ──┘
//!                     domain/ (session, conversation, answers, filters: decide, never wait)
//! ```
//!
//! It keeps no message: the orchestrator does. It never echoes what a user wrote, never shows one caller another
//! caller's sessions or events, and never ends a client's stream because the orchestrator restarts.

mod config;
mod daemon;
pub mod domain;
pub mod engine;
mod error;
pub mod remote;
mod service;
pub mod store;

pub use config::Config;
pub use daemon::Gateway;
pub use error::Error;
