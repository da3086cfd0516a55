//! The orchestrator, seen from here: outbound mirror of `service/`. It keeps nothing but connections.

mod convert;
mod line;
mod orchestrator;

pub use line::{Line, Out, Signal, Slot};
pub use orchestrator::{MessagePosition, Orchestrator};
