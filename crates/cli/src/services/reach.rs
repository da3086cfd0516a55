//! Finds the supervisor of this tree, and starts one if none runs.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};

use super::{
    control::{self, Conversation, Request},
    model::Snapshot,
    table::{self, ORCHESTRATOR},
};
use crate::{
    context::Context,
    environment::Environment,
    failure::{Exit, Failure},
    supervise::{detach, own_program},
};

const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// `None` if none runs.
pub async fn running(context: &Context, request: &Request) -> Result<Option<(Conversation, Snapshot)>, Failure> {
    match control::dial(&table::control_socket(&context.root)).await? {
        Some(stream) => begin(context, stream, request).await,
        None => Ok(None),
    }
}

/// Starts one if none runs.
pub async fn or_start(context: &Context, request: &Request) -> Result<(Conversation, Snapshot), Failure> {
    let socket = table::control_socket(&context.root);
    let give_up = Instant::now() + PATIENCE;
    let mut started: Option<Child> = None;
    loop {
        if let Some(stream) = control::dial(&socket).await? {
            if let Some(begun) = begin(context, stream, request).await? {
                return Ok(begun);
            }
            continue;
        }
        match &mut started {
            None => started = Some(spawn(context)?),
            Some(child) => {
                let ended = child.try_wait().ok().flatten();
                // Of two at once one wins; the other one's is ours as well.
                if ended.is_some_and(|status| status.code() != Some(i32::from(Exit::Refused as u8))) {
                    return Err(failed(context, "the supervisor did not stay"));
                }
            }
        }
        if Instant::now() > give_up {
            return Err(failed(context, "the supervisor did not come up"));
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn begin(
    context: &Context,
    stream: UnixStream,
    request: &Request,
) -> Result<Option<(Conversation, Snapshot)>, Failure> {
    let Some((conversation, snapshot)) = Conversation::begin(stream, request).await? else {
        return Ok(None);
    };
    let served = snapshot
        .find(ORCHESTRATOR)
        .and_then(|service| service.endpoints.first());
    if let (Some(served), Some(asked)) = (served, context.orchestrator_socket())
        && served.addr != asked.display().to_string()
    {
        let said = format!(
            "the supervisor of this tree keeps the orchestrator at {}, not at {}",
            served.addr,
            asked.display()
        );
        return Err(Failure::new(Exit::Refused, said)
            .hint("leave --socket and GRPC_SOCKET_PATH out, or: nexus down, then start it with them"));
    }
    Ok(Some((conversation, snapshot)))
}

fn log(context: &Context) -> std::path::PathBuf {
    context.root.log_dir().join("supervisor.err.log")
}

fn failed(context: &Context, what: &str) -> Failure {
    let said = fs::read_to_string(log(context)).unwrap_or_default();
    let said = said.trim();
    let message = if said.is_empty() {
        what.to_owned()
    } else {
        format!("{what}: {said}")
    };
    Failure::new(Exit::Failed, message).hint("to see it at work: nexus supervise")
}

fn spawn(context: &Context) -> Result<Child, Failure> {
    context
        .root
        .create()
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let log = log(context);
    // What an earlier one had to say is of no use now.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&log)
        .map_err(|error| Failure::file("open", &log, &error))?;
    let own = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Failed, format!("failed to find this program: {error}")))?;
    let shim =
        own_program().map_err(|error| Failure::new(Exit::Failed, format!("failed to find this program: {error}")))?;
    let environment = Environment::of_process();
    let handed = environment
        .sealed()
        .map_err(|error| Failure::new(Exit::Failed, format!("failed to hand over the environment: {error}")))?;
    let mut command = Command::new(shim);
    command
        .env_clear()
        .envs(environment.for_supervisor())
        .arg(detach::WITH_ENVIRONMENT)
        .arg(&own)
        .arg("supervise")
        .arg("--root")
        .arg(context.root.path())
        .current_dir(context.root.path())
        .stdin(handed)
        .stdout(Stdio::null())
        .stderr(file);
    if let Some(told) = &context.told {
        command.arg("--socket").arg(told);
    }
    command.spawn().map_err(|error| Failure::file("start", &own, &error))
}
