//! How the services are, found out without a supervisor: asked at their sockets, with what was wanted as it was left.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use nexus_client::{Connection, Kind};
use nexus_config::Root;
use nexus_daemon::StatusFile;
use tokio::time::timeout;

use super::{
    ask::{self, DaemonReport, Degradation},
    model::{Check, Desired, Endpoint, Manager, Service, Snapshot, State, Verdict, stamp},
    peer::{Found, look},
    process,
    table::{self, Entry, Socket, TABLE},
};
use crate::{
    context::Context,
    failure::Failure,
    supervise::{Disabled, Memory},
};

/// A daemon that takes longer than this for a word about itself hangs.
const PATIENCE: Duration = Duration::from_secs(2);

pub async fn all(context: &Context) -> Result<Snapshot, Failure> {
    let memory = Memory::read(&context.root);
    let disabled = Disabled::read(&context.root).unwrap_or_default().disabled;
    let sockets = table::sockets(context)?;
    let each = TABLE.iter().zip(&sockets).map(|(entry, socket)| {
        let desired = match memory.services.get(entry.name) {
            _ if disabled.iter().any(|name| name == entry.name) => Desired::Disabled,
            Some(before) if before.wanted => Desired::Running,
            _ => Desired::Stopped,
        };
        one(context, entry, socket, desired)
    });
    Ok(Snapshot::new(join_all(each).await, None))
}

/// Asks each daemon that runs now, whatever the supervisor heard last.
pub async fn deepen(context: &Context, snapshot: Snapshot) -> Result<Snapshot, Failure> {
    let sockets = table::sockets(context)?;
    let Snapshot {
        services, supervisor, ..
    } = snapshot;
    let each = services.into_iter().map(|mut service| {
        let known = TABLE.iter().zip(&sockets).find(|(entry, _)| entry.name == service.id);
        async move {
            if let Some((entry, socket)) = known.filter(|_| service.pid.is_some()) {
                service.checks.retain(|check| check.id == "process");
                if socket.path.symlink_metadata().is_err() {
                    put_without_socket(entry, socket, &mut service);
                } else {
                    put(context, entry, socket, &mut service).await;
                }
            }
            service
        }
    });
    Ok(Snapshot::new(join_all(each).await, supervisor))
}

/// Before anybody was asked.
pub fn unseen(context: &Context, entry: &Entry, socket: &Socket, desired: Desired) -> Service {
    Service {
        id: entry.name.to_owned(),
        kind: "daemon".to_owned(),
        desired,
        state: State::Stopped,
        since: None,
        pid: None,
        start_time: None,
        version: None,
        manager: Manager::None,
        enabled_at_login: false,
        restarts: 0,
        last_exit: None,
        next_retry_at: None,
        endpoints: vec![Endpoint {
            name: "grpc".to_owned(),
            addr: socket.path.display().to_string(),
            port: None,
            listening: false,
            auth: "peer-uid".to_owned(),
        }],
        checks: Vec::new(),
        credentials: Vec::new(),
        last_error: None,
        log: context.root.log_dir().join(format!("{}.log", entry.name)),
    }
}

/// What is found at its socket.
pub async fn one(context: &Context, entry: &Entry, socket: &Socket, desired: Desired) -> Service {
    let mut service = unseen(context, entry, socket, desired);
    let wrong = |state, message: &str, fix: &str| {
        let check = check("socket", Verdict::Fail, message.to_owned(), None, Some(fix.to_owned()));
        (state, check)
    };
    let there = match look(&socket.path).await {
        Ok(Found::Absent) => match running_without_socket(&context.root, entry.name) {
            Some(pid) => {
                service.pid = Some(pid);
                service.start_time = process::start_time(pid);
                put_without_socket(entry, socket, &mut service);
                return service;
            }
            None => Ok(false),
        },
        Ok(Found::Stale) if desired == Desired::Running => {
            Err(wrong(State::Failed, "died, and no supervisor restarts it", "nexus up"))
        }
        Ok(Found::Stale) => Ok(false),
        Ok(Found::Other) => Err(wrong(State::Foreign, "what is there is not a socket", "move it away")),
        Ok(Found::Denied) => Err(wrong(
            State::Foreign,
            "belongs to another user",
            "set another socket_path",
        )),
        Ok(Found::Running(peer)) => {
            let daemon = peer
                .daemon()
                .or_else(|| running_without_socket(&context.root, entry.name));
            service.pid = daemon;
            service.start_time = daemon.and_then(process::start_time);
            if !peer.is_ours() {
                let message = format!("belongs to uid {}", peer.uid);
                Err(wrong(State::Foreign, &message, "set another socket_path"))
            } else if peer.is_of_another_tree(&context.root.state()) {
                Err(wrong(
                    State::Foreign,
                    "serves another NEXUS_ROOT",
                    "set another socket_path, or: nexus --root THAT down",
                ))
            } else {
                if process::is_of_init(peer.pid) {
                    service.manager = Manager::Systemd;
                }
                Ok(true)
            }
        }
        Err(error) => {
            let message = error.to_string();
            Err(wrong(State::Failed, &message, "nexus services restart"))
        }
    };
    match there {
        Ok(false) if desired == Desired::Running => {
            let fix = Some("nexus up".to_owned());
            service.checks.push(check(
                "process",
                Verdict::Fail,
                "does not run, and no supervisor runs that would start it".to_owned(),
                None,
                fix,
            ));
        }
        Ok(false) => {}
        Ok(true) => {
            put(context, entry, socket, &mut service).await;
            if service.manager == Manager::None {
                let message = "runs, and no supervisor runs that would start it again".to_owned();
                let fix = Some("nexus up".to_owned());
                service
                    .checks
                    .push(check("supervised", Verdict::Warn, message, None, fix));
                service.state = service.state.max(State::Degraded);
            }
        }
        Err((state, check)) => {
            service.state = state;
            service.checks.push(check);
        }
    }
    service
}

/// What the daemon wrote down of itself, which wakes nobody. The init system knows that it runs.
pub fn recall(context: &Context, service: &mut Service, fed: Option<SystemTime>) {
    let file = StatusFile::file(&context.root, &service.id);
    let logs = format!("nexus services logs {}", service.id);
    let Some(status_file) = service.pid.and_then(|pid| StatusFile::of(pid.unsigned_abs(), &file)) else {
        service.state = State::Ready;
        let message = "runs; ask it for its health with: nexus services status --deep".to_owned();
        service.checks.push(check("health", Verdict::Skip, message, None, None));
        return;
    };
    let (state, verdict, message, fix) = match Degradation::of(&status_file) {
        _ if !status_file.serving => (State::Stopping, Verdict::Warn, "serves no more".to_owned(), None),
        Some(degradation) => (
            degradation.state,
            Verdict::Warn,
            degradation.message,
            Some(degradation.fix.map_or(logs, str::to_owned)),
        ),
        None => (State::Ready, Verdict::Pass, "serves".to_owned(), None),
    };
    service.state = state;
    service.endpoints[0].listening = status_file.serving;
    service.version = Some(status_file.version);
    service.credentials = status_file.credentials;
    let mut health = check("health", verdict, message, None, fix);
    // It is as old as the last sign of life.
    health.observed_at = fed
        .map(stamp)
        .map_or(status_file.observed_at.clone(), |fed| fed.max(status_file.observed_at));
    service.checks.push(health);
}

fn put_without_socket(entry: &Entry, socket: &Socket, service: &mut Service) {
    let (message, fix) = table::socket_gone(&socket.path.display().to_string(), entry.name);
    service.state = State::Unhealthy;
    service
        .checks
        .push(check("socket", Verdict::Fail, message, None, Some(fix)));
}

/// The process of a service that cannot be found by its socket: the one that wrote down how it is, if it still runs.
pub fn running_without_socket(root: &Root, service: &str) -> Option<i32> {
    let told = std::fs::read(StatusFile::file(root, service)).ok()?;
    let told: StatusFile = serde_json::from_slice(&told).ok()?;
    let pid = i32::try_from(told.pid).ok()?;
    let ours = process::is_daemon(pid) && !process::is_of_another_tree(pid, &root.state());
    ours.then_some(pid)
}

/// What the daemon says now.
async fn put(context: &Context, entry: &Entry, socket: &Socket, service: &mut Service) {
    let address = table::address(context, entry, socket);
    let connection = Connection::lazy(&address, &context.options);
    let orchestrator = Connection::lazy(&context.orchestrator, &context.options);
    let begin = Instant::now();
    let heard = async {
        let said = ask::daemon(&connection, entry.name).await?;
        let unlinked = if said.serving {
            ask::unlinked(entry.link, entry.name, &said, &orchestrator).await
        } else {
            None
        };
        Ok::<(DaemonReport, Option<String>), nexus_client::Error>((said, unlinked))
    };
    let heard = timeout(PATIENCE, heard).await;
    let file = StatusFile::file(&context.root, entry.name);
    let status_file = service.pid.and_then(|pid| StatusFile::of(pid.unsigned_abs(), &file));
    let took = Some(begin.elapsed());
    let logs = || Some(format!("nexus services logs {}", entry.name));
    let mut fix = None;
    let (state, verdict, message) = match heard {
        Ok(Ok((said, unlinked))) => {
            service.version = Some(said.version.clone()).filter(|version| !version.is_empty());
            let started = said.started_at.and_then(|time| SystemTime::try_from(time).ok());
            service.since = service.since.take().or(started.map(stamp));
            service.endpoints[0].listening = said.serving;
            match (unlinked, said.degradation(status_file.as_ref())) {
                _ if !said.serving => (
                    State::Unhealthy,
                    Verdict::Fail,
                    "answers, and does not serve".to_owned(),
                ),
                // Somebody can end the wait; that is told first.
                (why, Some(degradation)) if why.is_none() || said.waits => {
                    fix = degradation.fix.map(str::to_owned);
                    (degradation.state, Verdict::Warn, degradation.message)
                }
                (Some(why), _) => (State::Degraded, Verdict::Warn, why),
                (None, _) => (State::Ready, Verdict::Pass, "serves".to_owned()),
            }
        }
        Ok(Err(error)) if error.kind == Kind::NotRunning => (State::Stopped, Verdict::Skip, "does not run".to_owned()),
        Ok(Err(error)) => (State::Unhealthy, Verdict::Fail, error.message),
        Err(_) => (
            State::Unhealthy,
            Verdict::Fail,
            "is there, and does not answer".to_owned(),
        ),
    };
    service.credentials = status_file
        .map(|status_file| status_file.credentials)
        .unwrap_or_default();
    service.state = state;
    let fix = fix.or_else(|| (verdict != Verdict::Pass).then(logs).flatten());
    service.checks.push(check("health", verdict, message, took, fix));
}

fn check(id: &str, status: Verdict, message: String, took: Option<Duration>, fix: Option<String>) -> Check {
    Check {
        id: id.to_owned(),
        status,
        message,
        observed_at: stamp(SystemTime::now()),
        latency_ms: took.and_then(|took| u64::try_from(took.as_millis()).ok()),
        fix,
    }
}

/// Whether anything at all listens for this tree, or a supervisor left something behind.
pub fn is_anything_there(context: &Context) -> Result<bool, Failure> {
    let listens = |path: &Path| std::os::unix::net::UnixStream::connect(path).is_ok();
    let memory = Memory::read(&context.root);
    let left = memory
        .services
        .values()
        .any(|before| before.wanted || before.pid.is_some());
    let sockets = table::sockets(context)?;
    Ok(left || sockets.iter().any(|socket| listens(&socket.path)))
}
