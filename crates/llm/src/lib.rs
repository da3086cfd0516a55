//! `nexus-llm`: the one door to language models. It serves `llm.v1`, knows the catalogue, counts usage, keeps budgets,
//! and is the only daemon that reads provider keys.
//!
//! ```text
//! service/ ──▶ engine/ ──▶ provider/ ──HTTP, SSE──▶ anthropic, openai, ollama, ...
//!                │            ▲ keys.rs
//!                └─▶ domain/ (route, retry, breaker, usage: decide, never wait)
//! ```
//!
//! It never asks a provider that the caller did not name or the settings did not choose, never starts an answer over
//! once a part of it was sent, and never shows a key: not in a log, not in an error, not in `Debug`.

pub mod config;
mod daemon;
pub mod domain;
pub mod engine;
pub mod keys;
pub mod provider;
mod service;
pub mod store;

pub use daemon::Llm;
