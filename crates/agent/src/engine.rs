//! Owns the work of one agent, in one of two roles: an assistant answers turns, a worker executes tasks.

pub mod assistant;
mod board;
pub mod worker;

pub use board::{Board, PART};
