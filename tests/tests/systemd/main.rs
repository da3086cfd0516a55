//! The units under a real systemd, each test in a container of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod activation;
mod analyze;
mod config;
mod container;
mod crash;
mod install;
#[path = "../packaging/made.rs"]
mod made;
mod newer;
mod package;
mod status;
mod system;
mod upgrade;
mod watchdog;
