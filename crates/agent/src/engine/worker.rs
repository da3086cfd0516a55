//! Executes calls of tools. Who asks for them, and who is told, is not its affair.
//!
//! A command outlives this process: its container collects its output, and a record says whose it is.

mod cancel;
mod outcome;
mod output;
mod tools;

pub use cancel::Cancel;
pub use outcome::Outcome;
pub use output::Output;
pub use tools::{NAMES, Notice, Settings, TIDY_EVERY, Tools, workbench};
