//! `apply_patch`: several files changed by one text, all of them or none.
//!
//! [`parse`] reads the text, [`plan`] works out what becomes of each file, by files that a caller reads; only then
//! somebody writes. A patch that does not fit anywhere changes nothing.

mod apply;
mod parse;
mod plan;

pub use parse::{Change, Hunk, Line, MAX_FILES, Patch, parse, paths};
pub use plan::{Plan, Step, plan};

#[cfg(test)]
mod tests;
