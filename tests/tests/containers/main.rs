//! Every engine is held to the same: what its trait promises, on the real thing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;
mod conformance;
mod images;
mod orchestrated;
mod ordinary;
