//! The daemon's own `agent.v1`.

mod agent;

pub use agent::{Service, Work};
