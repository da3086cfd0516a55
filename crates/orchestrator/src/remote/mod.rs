//! Neighbours of the orchestrator: daemons that registered to serve behind its door.

pub mod front_door;
#[cfg(target_os = "linux")]
pub mod logind;
pub mod runtime;
pub mod watch;
