//! One file for each command: ask, then show.

pub mod agents;
pub mod completion;
pub mod delete;
pub mod events;
pub mod export;
pub mod keys;
pub mod models;
pub mod sessions;
pub mod status;
pub mod token;
