//! `nexus-orchestrator`: see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    nexus_daemon::main::<nexus_orchestrator::Orchestrator>()
}
