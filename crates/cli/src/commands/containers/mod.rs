//! `nexus containers`: runs, lists, reads and stops containers. An unambiguous prefix of an id is accepted as the id.

mod args;
mod run;

use std::io::{Read, Write};

use nexus_client::Connection;
use nexus_proto::common::v1::ResourceUsage;
use nexus_proto::orchestrator::v1::container_service_client::ContainerServiceClient;
use nexus_proto::orchestrator::v1::*;
use serde_json::{Value, json};

pub use args::ContainersCommand;
use args::{ExecArgs, ListArgs, StatsArgs};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::{
        Output, clean,
        table::table,
        time::{ago, exact},
    },
};

pub async fn run(context: &Context, command: ContainersCommand, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    match command {
        ContainersCommand::List(args) => list(&connection, args, output).await,
        ContainersCommand::Run(args) => run::start(&connection, args, output).await,
        ContainersCommand::Logs(args) => {
            let id = find(&connection, &args.id).await?.id;
            logs(&connection, id, args.follow, args.tail.unwrap_or(0), output).await?;
            Ok(Exit::Ok)
        }
        ContainersCommand::Exec(args) => exec(&connection, args, output).await,
        ContainersCommand::Stop(args) => {
            let timeout = args
                .timeout
                .map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
            for id in &args.ids {
                let container_id = find(&connection, id).await?.id;
                let request = StopContainerRequest {
                    container_id,
                    timeout_ns: timeout,
                };
                done(
                    connection
                        .orchestrator()
                        .stop_container(request)
                        .await?
                        .into_inner()
                        .container_id,
                    "stopped",
                    output,
                )?;
            }
            Ok(Exit::Ok)
        }
        ContainersCommand::Rm(args) => {
            for id in &args.ids {
                let request = RemoveContainerRequest {
                    container_id: find(&connection, id).await?.id,
                    force: args.force,
                };
                done(
                    connection
                        .orchestrator()
                        .remove_container(request)
                        .await?
                        .into_inner()
                        .container_id,
                    "removed",
                    output,
                )?;
            }
            Ok(Exit::Ok)
        }
        ContainersCommand::Stats(args) => stats(&connection, args, output).await,
    }
}

fn done(id: String, what: &str, output: &Output) -> Result<(), Failure> {
    if output.json {
        output.record(&json!({ "id": id, "done": what }))?;
    } else {
        output.line(id)?;
    }
    Ok(())
}

async fn all(connection: &Connection, filter: ContainerFilter) -> Result<Vec<Container>, Failure> {
    let request = ListContainersRequest { filter: Some(filter) };
    Ok(connection
        .orchestrator()
        .list_containers(request)
        .await?
        .into_inner()
        .containers)
}

/// By its id, or the beginning of that.
async fn find(connection: &Connection, id: &str) -> Result<Container, Failure> {
    let all = all(connection, ContainerFilter::default()).await?;
    let mut found = all.into_iter().filter(|one| one.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            Err(Failure::new(Exit::NotFound, format!("no container {id}")).hint("see them with: nexus containers list"))
        }
        (Some(_), Some(_)) => Err(Failure::usage(format!("several containers begin with {id}"))),
    }
}

fn state(one: &Container) -> String {
    let name = one
        .state()
        .as_str_name()
        .trim_start_matches("CONTAINER_STATE_")
        .to_lowercase();
    match one.state() {
        ContainerState::Exited if one.oom_killed => format!("{name} ({}, out of memory)", one.exit_code),
        ContainerState::Exited => format!("{name} ({})", one.exit_code),
        _ => name,
    }
}

fn shown(one: &Container) -> Value {
    let config = one.config.clone().unwrap_or_default();
    let command = [config.command, config.args].concat();
    json!({
        "id": one.id, "session_id": one.session_id, "image": one.image, "backend": one.backend,
        "state": one.state().as_str_name(), "exit_code": one.exit_code, "oom_killed": one.oom_killed,
        "command": command, "labels": config.labels,
        "created_at": exact(one.created_at.as_ref()), "started_at": exact(one.started_at.as_ref()),
        "exited_at": exact(one.exited_at.as_ref()), "restart_count": one.restart_count,
        "unenforced_limits": one.unenforced_limits, "error": one.error, "note": one.note,
    })
}

async fn list(connection: &Connection, args: ListArgs, output: &Output) -> Result<Exit, Failure> {
    let filter = ContainerFilter {
        session_id: args.session.unwrap_or_default(),
        state: if args.running {
            ContainerState::Running.into()
        } else {
            0
        },
        labels: args.label.into_iter().collect(),
        ..ContainerFilter::default()
    };
    let found = all(connection, filter).await?;
    if output.json {
        output.value(&found.iter().map(shown).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    if found.is_empty() {
        output.note("no containers; run one with: nexus containers run -- echo hello");
        return Ok(Exit::Ok);
    }
    let rows = found.iter().map(|one| {
        let config = one.config.clone().unwrap_or_default();
        let command = [config.command, config.args].concat().join(" ");
        let command = crate::output::table::cut(&command, 40);
        [
            one.id.clone(),
            one.image.clone(),
            state(one),
            one.backend.clone(),
            ago(one.created_at.as_ref()),
            command,
        ]
    });
    output.line(table(
        output,
        ["ID", "IMAGE", "STATE", "BACKEND", "CREATED", "COMMAND"],
        rows,
    ))?;
    Ok(Exit::Ok)
}

async fn logs(connection: &Connection, id: String, follow: bool, tail: i32, output: &Output) -> Result<(), Failure> {
    let request = ContainerLogsRequest {
        container_id: id,
        follow,
        since: None,
        tail,
    };
    let mut pieces = ContainerServiceClient::new(connection.channel())
        .container_logs(request)
        .await?
        .into_inner();
    while let Some(piece) = pieces.message().await? {
        if output.json {
            let stream = if piece.is_stderr { "stderr" } else { "stdout" };
            output.record(&json!({ "stream": stream, "data": String::from_utf8_lossy(&piece.data) }))?;
        } else {
            show(output, &piece.data, piece.is_stderr)?;
        }
    }
    Ok(())
}

/// To the same stream that it was written to; a terminal gets no control characters of a stranger.
fn show(output: &Output, data: &[u8], is_stderr: bool) -> Result<(), Failure> {
    let cleaned;
    let data = if output.terminal {
        cleaned = clean(&String::from_utf8_lossy(data));
        cleaned.as_bytes()
    } else {
        data
    };
    if is_stderr {
        std::io::stderr().lock().write_all(data)?;
    } else {
        let mut out = std::io::stdout().lock();
        out.write_all(data)?;
        out.flush()?;
    }
    Ok(())
}

async fn exec(connection: &Connection, args: ExecArgs, output: &Output) -> Result<Exit, Failure> {
    let mut stdin = None;
    if args.interactive {
        let mut read = Vec::new();
        std::io::stdin().lock().read_to_end(&mut read)?;
        stdin = Some(read.into());
    }
    let mut request = tonic::Request::new(ExecContainerRequest {
        container_id: find(connection, &args.id).await?.id,
        command: args.command,
        working_dir: args.workdir.unwrap_or_default(),
        stdin,
        timeout_ns: i64::try_from(args.timeout.as_nanos()).unwrap_or(i64::MAX),
        ..ExecContainerRequest::default()
    });
    request.set_timeout(args.timeout + std::time::Duration::from_secs(30));
    let mut client = ContainerServiceClient::new(connection.channel());
    let done = client.exec_container(request).await?.into_inner();
    if output.json {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        output.value(&json!({
            "exit_code": done.exit_code, "stdout": text(&done.stdout), "stderr": text(&done.stderr),
            "truncated": done.truncated, "timed_out": done.timed_out,
        }))?;
    } else {
        show(output, &done.stdout, false)?;
        show(output, &done.stderr, true)?;
    }
    if done.truncated {
        output.warn("the output was longer than is shown");
    }
    if done.timed_out {
        return Err(Failure::new(Exit::TimedOut, "the command took too long"));
    }
    if done.exit_code == 0 {
        Ok(Exit::Ok)
    } else {
        exit(done.exit_code)
    }
}

/// As the command inside did.
fn exit(code: i32) -> Result<Exit, Failure> {
    std::process::exit(code)
}

async fn stats(connection: &Connection, args: StatsArgs, output: &Output) -> Result<Exit, Failure> {
    let mut wanted = Vec::new();
    if args.ids.is_empty() {
        let running = ContainerFilter {
            state: ContainerState::Running.into(),
            ..ContainerFilter::default()
        };
        wanted = all(connection, running).await?;
    }
    for id in &args.ids {
        wanted.push(find(connection, id).await?);
    }
    let mut client = ContainerServiceClient::new(connection.channel());
    let mut rows: Vec<(String, ResourceUsage)> = Vec::new();
    for one in wanted {
        let request = ContainerStatsRequest {
            container_id: one.id.clone(),
        };
        let used = client
            .container_stats(request)
            .await?
            .into_inner()
            .resources
            .unwrap_or_default();
        rows.push((one.id, used));
    }
    if output.json {
        let all: Vec<_> = rows
            .iter()
            .map(|(id, used)| {
                json!({
                    "id": id, "cpu_percent": used.cpu_percent, "memory_usage": used.memory_usage,
                    "memory_limit": used.memory_limit, "memory_percent": used.memory_percent, "pids": used.pids_count,
                    "network_rx": used.network_rx, "network_tx": used.network_tx,
                    "block_read": used.block_read, "block_write": used.block_write,
                })
            })
            .collect();
        output.value(&all)?;
        return Ok(Exit::Ok);
    }
    let mib = |bytes: i64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    let rows = rows.into_iter().map(|(id, used)| {
        [
            id,
            format!("{:.1} %", used.cpu_percent),
            mib(used.memory_usage),
            mib(used.memory_limit),
            used.pids_count.to_string(),
        ]
    });
    output.line(table(output, ["ID", "CPU", "MEMORY", "LIMIT", "PIDS"], rows))?;
    Ok(Exit::Ok)
}
