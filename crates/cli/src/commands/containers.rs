//! Containers: run, listed, read, stopped. Whatever takes an id takes its unambiguous beginning too.

use std::io::{Read, Write};

use clap::{Args, Subcommand};
use nexus_client::Connection;
use nexus_proto::common::v1::{ResourceLimits, ResourceUsage};
use nexus_proto::orchestrator::v1::container_service_client::ContainerServiceClient;
use nexus_proto::orchestrator::v1::*;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    failure::{Exit, Failure},
    output::{
        Output, clean,
        table::table,
        time::{ago, exact},
    },
    place::Place,
};

const EXAMPLES: &str = "\
Examples:
  nexus containers run -- echo hello            in the built-in sandbox, on this host's own programs
  nexus containers run alpine:3 -- sh -c 'id'   in an image
  nexus containers run -d -l of=web alpine:3 -- sleep 600
  nexus containers logs -f 1a2b
  nexus containers exec 1a2b -- cat /etc/os-release";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum ContainersCommand {
    /// List containers
    List(ListArgs),
    /// Run a command in a new container; exits as the command does
    Run(RunArgs),
    /// Show what a container wrote
    Logs(LogsArgs),
    /// Run one more command in a running container; exits as the command does
    Exec(ExecArgs),
    /// Stop containers: asked first, killed after the timeout
    Stop(StopArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Show what running containers use
    Stats(StatsArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those of this session
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Only those that run
    #[arg(long)]
    running: bool,
    /// Only those with this label
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The image; without one: the built-in sandbox on this host's own programs
    image: Option<String>,
    /// The command and its arguments
    #[arg(last = true)]
    command: Vec<String>,
    /// In this session; otherwise in a new one, which ends with a command that is waited for
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Print the id and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Keep the container when it has ended
    #[arg(long)]
    keep: bool,
    /// A variable of its environment
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// A label
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// A host directory or file, and where it is inside
    #[arg(short = 'v', long, value_name = "SOURCE:TARGET[:ro]", value_parser = mount)]
    mount: Vec<Mount>,
    /// Let it use the network
    #[arg(long)]
    network: bool,
    /// Where it runs, inside [default: /workspace]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// `uid` or `uid:gid`
    #[arg(short, long)]
    user: Option<String>,
    /// Memory, such as 256MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<i64>,
    /// Cores, such as 0.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<f64>,
    /// Processes
    #[arg(long, value_name = "NUMBER")]
    pids: Option<i64>,
    /// When it is started again: no, on-failure, always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    restart: String,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    id: String,
    /// Go on until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only the newest lines
    #[arg(long, value_name = "LINES")]
    tail: Option<i32>,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    id: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
    /// Give it our standard input
    #[arg(short, long)]
    interactive: bool,
    /// Where it runs, inside
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: std::time::Duration,
}

#[derive(Debug, Args)]
pub struct StopArgs {
    #[arg(required = true)]
    ids: Vec<String>,
    /// From the request to stop until the kill
    #[arg(short, long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<std::time::Duration>,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    #[arg(required = true)]
    ids: Vec<String>,
    /// Also where it runs
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Without one: all that run
    ids: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

fn mount(text: &str) -> Result<Mount, String> {
    let (text, read_only) = text.strip_suffix(":ro").map_or((text, false), |text| (text, true));
    let (source, target) = text
        .split_once(':')
        .ok_or("expected SOURCE:TARGET or SOURCE:TARGET:ro")?;
    let source = std::path::absolute(source).map_err(|error| error.to_string())?;
    Ok(Mount {
        r#type: MountType::Bind.into(),
        source: source.to_string_lossy().into_owned(),
        target: target.into(),
        read_only,
    })
}

fn size(text: &str) -> Result<i64, String> {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0), ("", 0)];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .ok_or("expected a size such as 256MiB")?;
    let number: i64 = number.trim().parse().map_err(|_| "expected a size such as 256MiB")?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "expected a size such as 256MiB".into())
}

pub async fn run(place: &Place, command: ContainersCommand, output: &Output) -> Result<Exit, Failure> {
    let connection = place.connection();
    match command {
        ContainersCommand::List(args) => list(&connection, args, output).await,
        ContainersCommand::Run(args) => start(&connection, args, output).await,
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

async fn start(connection: &Connection, args: RunArgs, output: &Output) -> Result<Exit, Failure> {
    if args.image.is_none() && args.command.is_empty() {
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
    let mut command = args.command.into_iter();
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
    // The image may have to be fetched first.
    request.set_timeout(std::time::Duration::from_secs(600));
    let mut orchestrator = connection.orchestrator();
    let made = tokio::select! {
        made = orchestrator.create_container(request) => made?.into_inner(),
        _ = interrupt.recv() => {
            let failure = Failure::new(Exit::Interrupted, "interrupted before it was made");
            return Err(match &args.session {
                Some(_) => failure.hint("it may still be made; see: nexus containers list"),
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
            let stop = StopContainerRequest { container_id: id.clone(), timeout_ns: 1_000_000_000 };
            connection.orchestrator().stop_container(stop).await?;
        }
    }
    let ended = loop {
        let request = GetContainerRequest {
            container_id: id.clone(),
        };
        let one = connection
            .orchestrator()
            .get_container(request)
            .await?
            .into_inner()
            .container
            .unwrap_or_default();
        if !matches!(one.state(), ContainerState::Running | ContainerState::Restarting) {
            break one;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    if output.json {
        output.record(&json!({ "id": id, "exit_code": ended.exit_code, "oom_killed": ended.oom_killed }))?;
    }
    if ended.oom_killed {
        output.warn("it used more memory than it may");
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
        output.warn("it wrote more than is shown");
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
