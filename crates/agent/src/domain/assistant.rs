//! The assistant's rules: which messages a model is given, which turn runs next, and how an answer is assembled.

pub mod answer;
pub mod turn_queue;
pub mod window;
