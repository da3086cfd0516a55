//! The worker executes calls of tools: over the real orchestrator, in the real sandbox, killed while it works.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod backends;
mod commands;
mod desk;
mod files;
mod lives;
