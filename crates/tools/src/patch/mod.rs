//! `apply_patch`: several files changed by one text.

mod parse;

pub use parse::{Change, Hunk, Line, MAX_FILES, Patch, parse, paths};
