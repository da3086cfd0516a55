//! Runs daemons in the foreground by their well-known names: `nexus gateway-daemon`.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use nexus_config::services::SERVICES;

use super::programs;
use crate::{
    context::Context,
    environment::Environment,
    failure::{Exit, Failure},
};

/// Becomes the daemon; only comes back if it could not.
pub fn run(context: &Context, binary: &str, args: &[OsString]) -> Failure {
    let Some(program) = programs::find(binary) else {
        return not_here(binary);
    };
    let mut command = Command::new(&program);
    // As the supervisor would start it: what else this shell knows is none of the daemon's business.
    if let Some(service) = SERVICES.iter().find(|service| service.binary == binary) {
        command
            .env_clear()
            .envs(Environment::of_process().for_service(service, &context.root));
    }
    command.args(args).env("NEXUS_ROOT", context.root.path());
    if let Some(socket) = &context.told {
        command.env("GRPC_SOCKET_PATH", socket);
    }
    let error = command.exec();
    Failure::file("start", &program, &error)
}

/// For commands whose daemon comes later.
pub fn not_here(binary: &str) -> Failure {
    Failure::new(Exit::Failed, format!("{binary} is not part of this build")).hint("what is: nexus services status")
}
