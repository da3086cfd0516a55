//! The client of the orchestrator. It keeps nothing but connections.

mod convert;
mod line;
mod orchestrator;

pub use line::{Line, LineSender, Signal, Slot};
pub use orchestrator::{MessagePosition, Orchestrator};
