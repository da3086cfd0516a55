//! Clients of the daemons that registered to serve behind the orchestrator.

pub mod front_door;
#[cfg(target_os = "linux")]
pub mod logind;
pub mod watch;
