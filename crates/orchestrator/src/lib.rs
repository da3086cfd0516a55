//! The core of Nexus: sessions, messages, events, agents and tasks, durable, over one socket.
//!
//! ```text
//!  service/ ──▶ engine/ ──▶ domain/ (decides) ──▶ store.rs (facts become rows) ──▶ commit ──▶ effects, readers
//!  remote/  ──▶ daemons that registered to serve behind this one's door
//! ```

mod container_settings;
mod daemon;
pub mod domain;
pub mod engine;
mod remote;
mod service;
mod store;

pub use daemon::{Config, Orchestrator};
