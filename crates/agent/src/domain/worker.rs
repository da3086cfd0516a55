//! The worker's rules: what a task asks for, and which task runs next.

pub mod call;
pub mod older;
pub mod queue;
