//! `nexus containers run`: runs a container to its end, and removes it when interrupted.

use std::time::Duration;

use nexus_client::Connection;
use nexus_proto::common::v1::ResourceLimits;
use nexus_proto::orchestrator::v1::*;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{args::RunArgs, exit, logs, shown};
use crate::{
    failure::{Exit, Failure},
    output::Output,
};

/// Longest until it runs: its image may have to be fetched first.
const PREPARATION: Duration = Duration::from_secs(600);
/// Between the end of what it wrote and the word that it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

async fn session(connection: &Connection, args: &RunArgs) -> Result<String, Failure> {
    let config = SessionConfig {
        policy: Some(SessionPolicy {
            allow_network: args.network,
            allowed_paths: args.mount.iter().map(|mount| mount.source.clone()).collect(),
            ..SessionPolicy::default()
        }),
        ..SessionConfig::default()
    };
    let request = CreateSessionRequest {
        metadata: Some(SessionMetadata {
            name: "nexus containers run".into(),
            ..SessionMetadata::default()
        }),
        config: Some(config),
    };
    Ok(connection
        .orchestrator()
        .create_session(request)
        .await?
        .into_inner()
        .session_id)
}

pub async fn start(connection: &Connection, args: RunArgs, output: &Output) -> Result<Exit, Failure> {
    if args.image.is_none() && args.command().is_empty() {
        return Err(Failure::usage("name an image, or a command after `--`"));
    }
    // From here on nothing is left behind by who ends us.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let own = match &args.session {
        Some(_) => None,
        None => Some(session(connection, &args).await?),
    };
    let session_id = own.clone().or(args.session.clone()).unwrap_or_default();
    let ended = run_in(connection, &session_id, args, &mut interrupt, output).await;
    if let (Some(session_id), false) = (own, matches!(ended, Ok(None))) {
        let reason = "its container has ended".to_owned();
        connection
            .orchestrator()
            .close_session(CloseSessionRequest { session_id, reason })
            .await?;
    }
    match ended? {
        None | Some(0) => Ok(Exit::Ok),
        Some(code) => exit(code),
    }
}

/// How it ended; `None` if it is left running or kept.
async fn run_in(
    connection: &Connection,
    session_id: &str,
    args: RunArgs,
    interrupt: &mut Signal,
    output: &Output,
) -> Result<Option<i32>, Failure> {
    let mut command = args.command().into_iter();
    let config = ContainerConfig {
        image: args.image.unwrap_or_default(),
        command: command.next().into_iter().collect(),
        args: command.collect(),
        env: args.env.into_iter().collect(),
        labels: args.label.into_iter().collect(),
        mounts: args.mount,
        network_mode: if args.network { "bridge".into() } else { String::new() },
        working_dir: args.workdir.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        resources: Some(ResourceLimits {
            memory_bytes: args.memory.unwrap_or(0),
            nano_cpus: args.cpus.map_or(0, |cpus| (cpus * 1e9) as i64),
            pids_limit: args.pids.unwrap_or(0),
            memory_swap: 0,
        }),
        restart_policy: Some(RestartPolicy {
            name: args.restart,
            ..RestartPolicy::default()
        }),
        ..ContainerConfig::default()
    };
    let mut request = tonic::Request::new(CreateContainerRequest {
        session_id: session_id.into(),
        config: Some(config),
    });
    request.set_timeout(PREPARATION);
    let mut orchestrator = connection.orchestrator();
    let made = tokio::select! {
        made = orchestrator.create_container(request) => made?.into_inner(),
        _ = interrupt.recv() => {
            let failure = Failure::new(Exit::Interrupted, "interrupted before it was made");
            return Err(match &args.session {
                Some(_) => failure.hint("it may still be created; see: nexus containers list"),
                None => failure,
            });
        }
    };
    let container = made.container.unwrap_or_default();
    if !container.note.is_empty() {
        output.warn(&container.note);
    }
    if !container.unenforced_limits.is_empty() {
        output.warn(&format!(
            "not limited on this host: {}",
            container.unenforced_limits.join(", ")
        ));
    }
    if args.detach {
        if output.json {
            output.value(&shown(&container))?;
        } else {
            output.line(&made.container_id)?;
        }
        return Ok(None);
    }
    let id = made.container_id;
    tokio::select! {
        read = logs(connection, id.clone(), true, 0, output) => read?,
        _ = interrupt.recv() => {
            stop(connection, &id).await?;
        }
    }
    let ended = tokio::select! {
        ended = ending(connection, &id) => ended?,
        // It may be one that is started again and again.
        _ = interrupt.recv() => {
            stop(connection, &id).await?;
            ending(connection, &id).await?
        }
    };
    if output.json {
        output.record(&json!({ "id": id, "exit_code": ended.exit_code, "oom_killed": ended.oom_killed }))?;
    }
    if ended.oom_killed {
        output.warn("the container ended because its memory limit was exceeded");
    }
    if args.keep {
        output.note(&format!("kept: {id}"));
        if ended.exit_code != 0 {
            return exit(ended.exit_code).map(|_| None);
        }
        return Ok(None);
    }
    let request = RemoveContainerRequest {
        container_id: id,
        force: true,
    };
    connection.orchestrator().remove_container(request).await?;
    Ok(Some(ended.exit_code))
}

async fn stop(connection: &Connection, id: &str) -> Result<(), Failure> {
    let request = StopContainerRequest {
        container_id: id.to_owned(),
        timeout_ns: 1_000_000_000,
    };
    connection.orchestrator().stop_container(request).await?;
    Ok(())
}

/// Waits until it does not run, nor is to run again.
async fn ending(connection: &Connection, id: &str) -> Result<Container, Failure> {
    loop {
        let container_id = id.to_owned();
        let answer = connection
            .orchestrator()
            .get_container(GetContainerRequest { container_id })
            .await?;
        let one = answer.into_inner().container.unwrap_or_default();
        if !matches!(one.state(), ContainerState::Running | ContainerState::Restarting) {
            return Ok(one);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
