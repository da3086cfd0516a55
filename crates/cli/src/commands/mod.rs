//! One file for each command: ask, then show.

pub mod agents;
pub mod approvals;
pub mod backup;
pub mod completion;
pub mod config;
pub mod containers;
pub mod credential;
pub mod delete;
pub mod events;
pub mod export;
pub mod images;
pub mod init;
pub mod keys;
pub mod manual;
pub mod models;
pub mod orientation;
pub mod reset;
pub mod runs;
pub mod search;
pub mod sessions;
pub mod status;
pub mod stop;
pub mod token;
pub mod tools;
pub mod usage;
