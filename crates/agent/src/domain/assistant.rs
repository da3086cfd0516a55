//! What an assistant decides: which turn is answered next, what a model is shown, and what an answer consists of.

pub mod answer;
pub mod compaction;
pub mod conversation;
pub mod digest;
pub mod instructions;
pub mod role;
pub mod skill;
pub mod transcript;
pub mod turn_queue;
pub mod window;
pub mod work;
