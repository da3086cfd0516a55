//! What the assistant decides: which messages a model is shown, which turn runs now, what an answer has become.
//!
//! Nothing here waits, speaks to anyone, or looks at a clock.

pub mod answer;
pub mod turn_queue;
pub mod window;
