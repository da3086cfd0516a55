//! Starting and stopping the daemons of one tree, where nothing else supervises them.
//!
//! There are no pid files: a daemon is found through its socket, and its process by the credentials that the kernel
//! gives for it. A socket that somebody else holds is never touched, only named.
//!
//! ```text
//!   start ──▶ spawn (detach: setsid, exec) ──▶ ready (health Watch, registrations)
//!   down  ──▶ process (peer of the socket, held by a pidfd) ──▶ SIGTERM ──▶ exit, or SIGKILL after the budget
//! ```

pub mod detach;
pub mod down;
pub mod process;
pub mod ready;
pub mod spawn;
pub mod start;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{failure::Failure, place::Place};

/// A daemon that `nexus up` starts.
#[derive(Debug)]
pub struct Plan {
    pub service: &'static str,
    pub binary: &'static str,
    pub args: &'static [&'static str],
}

/// The order in which they are shown; stopping goes the other way. Starting has no order.
pub const PLANS: [Plan; 4] = [
    Plan {
        service: ORCHESTRATOR,
        binary: "nexus-orchestrator",
        args: &[],
    },
    Plan {
        service: "llm",
        binary: "nexus-llm",
        args: &[],
    },
    Plan {
        service: ASSISTANT,
        binary: "nexus-agent",
        args: &["--role", "assistant", "--name", "assistant"],
    },
    Plan {
        service: "gateway",
        binary: "nexus-gateway",
        args: &[],
    },
];

pub const ORCHESTRATOR: &str = "orchestrator";
pub const ASSISTANT: &str = "agent-assistant";

pub fn socket(place: &Place, service: &str) -> Result<PathBuf, Failure> {
    Ok(if service == ORCHESTRATOR {
        place.local()?.to_path_buf()
    } else {
        place.root.socket(service)
    })
}

/// The daemons of this tree in their order: those we start, and any other that has a socket in `state/run`.
pub fn services(place: &Place) -> Vec<String> {
    let mut names: Vec<String> = PLANS.iter().map(|plan| plan.service.to_owned()).collect();
    names.extend(others(&place.root.run_dir()));
    names
}

fn others(run_dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run_dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned))
        .filter(|name| PLANS.iter().all(|plan| plan.service != name))
        .collect();
    names.sort();
    names
}
