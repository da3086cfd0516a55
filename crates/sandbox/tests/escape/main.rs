//! The real helper, as root and as an ordinary user: what is inside tries to get out, and fails.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

mod bounds;
mod calls;
mod files;
mod helper;
mod kernel;
mod life;
mod others;
mod owners;
