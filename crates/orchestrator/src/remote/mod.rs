//! Neighbours of the orchestrator: daemons that registered to serve behind its door.

pub mod front_door;
pub mod watch;
