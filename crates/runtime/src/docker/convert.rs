//! Converts the API's types to ours.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use bollard::errors::Error as Api;
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerStatsResponse, EventMessage,
    HealthStatusEnum, PortMap,
};

use crate::{Error, Event, EventKind, ExitInfo, Info, Port, Protocol, State, Stats};

/// The status and the words of an engine that answered with a refusal.
pub(super) fn answered(error: &Api) -> Option<(u16, &str)> {
    match error {
        Api::DockerResponseServerError { status_code, message } => Some((*status_code, message)),
        _ => None,
    }
}

pub(super) fn failed(engine: &'static str, error: Api) -> Error {
    match &error {
        Api::DockerResponseServerError { message, .. } => Error::Failed {
            engine,
            why: message.clone(),
        },
        Api::IOError { .. } | Api::HyperResponseError { .. } | Api::HyperLegacyError { .. } => Error::Unavailable {
            engine,
            why: chain(&error),
        },
        Api::SocketNotFoundError(path) => Error::Unavailable {
            engine,
            why: format!("there is no socket {path}"),
        },
        Api::RequestTimeoutError => Error::Unavailable {
            engine,
            why: "no answer".into(),
        },
        other => Error::Failed {
            engine,
            why: chain(other),
        },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

/// Whether the engine says that what it was to execute cannot be executed.
pub(super) fn is_bad_command(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    [
        "executable file",
        "exec:",
        "exec format error",
        "chdir",
        "cwd",
        "stat ",
        "unable to find user",
        "no matching entries in passwd",
    ]
    .iter()
    .any(|sign| why.contains(sign))
}

/// The end of a chain of wrappers is what says it.
pub(super) fn bad_command(why: &str) -> String {
    let at = why.find("exec:").unwrap_or_else(|| why.rfind("caused").unwrap_or(0));
    format!(
        "the command cannot be run: {}",
        why[at..].trim_end_matches(": unknown").trim()
    )
}

pub(super) fn info(found: ContainerInspectResponse) -> Info {
    let state = found.state.unwrap_or_default();
    let config = found.config.unwrap_or_default();
    let now = match state.status {
        Some(Status::RUNNING | Status::STOPPING) => State::Running,
        Some(Status::PAUSED) => State::Paused,
        Some(Status::RESTARTING) => State::Restarting,
        Some(Status::REMOVING) => State::Removing,
        Some(Status::EXITED | Status::DEAD) => State::Exited,
        Some(Status::CREATED) => State::Created,
        Some(Status::EMPTY) | None if state.running == Some(true) => State::Running,
        Some(Status::EMPTY) | None => State::Created,
    };
    let ended = matches!(now, State::Exited | State::Removing);
    let exit = ended.then(|| ExitInfo {
        code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1),
        oom: state.oom_killed.unwrap_or(false),
    });
    let healthy = state.health.and_then(|health| match health.status {
        Some(HealthStatusEnum::HEALTHY) => Some(true),
        Some(HealthStatusEnum::UNHEALTHY) => Some(false),
        _ => None,
    });
    let started = state.started_at.as_deref().and_then(time);
    // Docker notes the start when it has done everything: a short command ends before that.
    let exited = state
        .finished_at
        .as_deref()
        .and_then(time)
        .filter(|_| ended)
        .max(started.filter(|_| ended));
    let ports = found.network_settings.and_then(|settings| settings.ports);
    Info {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        state: now,
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        created: found.created.as_deref().and_then(time),
        started,
        exited,
        exit,
        healthy,
        ports: ports.map(bound).unwrap_or_default(),
    }
}

fn bound(ports: PortMap) -> Vec<Port> {
    let mut all = Vec::new();
    for (inside, outside) in ports {
        let (number, protocol) = inside.split_once('/').unwrap_or((&inside, "tcp"));
        let Ok(container) = number.parse() else { continue };
        let protocol = if protocol == "udp" {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        for one in outside.unwrap_or_default() {
            let host = one.host_port.and_then(|port| port.parse().ok());
            let host_ip = one.host_ip.and_then(|ip| ip.parse().ok());
            if let Some(host) = host {
                all.push(Port {
                    container,
                    host,
                    host_ip: host_ip.unwrap_or([0, 0, 0, 0].into()),
                    protocol,
                });
            }
        }
    }
    all.sort_by_key(|port| (port.container, port.host));
    all
}

/// `None` for an event that says nothing to us. The filter of the API is not relied on: Podman's matches nothing.
pub(super) fn event(event: EventMessage) -> Option<Event> {
    let actor = event.actor?;
    let labels: BTreeMap<String, String> = actor.attributes.unwrap_or_default().into_iter().collect();
    let code = ["exitCode", "containerExitCode"]
        .iter()
        .find_map(|name| labels.get(*name));
    let kind = match event.action.as_deref()? {
        "create" => EventKind::Created,
        "start" => EventKind::Started,
        "oom" => EventKind::Oom,
        "die" | "died" => EventKind::Exited {
            code: code.and_then(|code| code.parse().ok()).unwrap_or(-1),
        },
        "destroy" | "remove" => EventKind::Removed,
        _ => return None,
    };
    Some(Event {
        id: actor.id?,
        kind,
        labels,
    })
}

pub(super) fn stats(found: &ContainerStatsResponse) -> Stats {
    let memory = found.memory_stats.clone().unwrap_or_default();
    let detail = memory.stats.unwrap_or_default();
    // What can be dropped at once is not in use.
    let idle = ["inactive_file", "total_inactive_file"]
        .iter()
        .find_map(|name| detail.get(*name));
    let usage = memory.usage.unwrap_or(0);
    let networks = found.networks.clone().unwrap_or_default();
    let moved = |operation: &str| {
        let entries = found
            .blkio_stats
            .as_ref()
            .and_then(|all| all.io_service_bytes_recursive.as_deref());
        let entries = entries.unwrap_or_default().iter();
        entries
            .filter(|entry| entry.op.as_deref().is_some_and(|op| op.eq_ignore_ascii_case(operation)))
            .map(|entry| entry.value.unwrap_or(0))
            .sum()
    };
    let cpu = found
        .cpu_stats
        .as_ref()
        .and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
    Stats {
        cpu: Duration::from_nanos(cpu.unwrap_or(0)),
        memory_bytes: usage.saturating_sub(idle.copied().unwrap_or(0)),
        memory_limit: memory.limit.unwrap_or(0),
        pids: found.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or(0),
        network_rx: networks.values().map(|one| one.rx_bytes.unwrap_or(0)).sum(),
        network_tx: networks.values().map(|one| one.tx_bytes.unwrap_or(0)).sum(),
        block_read: moved("read"),
        block_write: moved("write"),
    }
}

/// RFC 3339; `None` also for year 1, which is how "never" is written.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let (date, clock) = text.split_once('T')?;
    if date.starts_with("0001") {
        return None;
    }
    let zone = clock.find(['Z', '+', '-'])?;
    let (clock, zone) = clock.split_at(zone);
    let utc = humantime::parse_rfc3339(&format!("{date}T{clock}Z")).ok()?;
    if zone == "Z" {
        return Some(utc);
    }
    let (hours, minutes) = zone[1..].split_once(':')?;
    let offset = Duration::from_secs(hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60);
    if zone.starts_with('+') {
        utc.checked_sub(offset)
    } else {
        utc.checked_add(offset)
    }
}

/// A map of the API made of ours.
pub(super) fn map(from: &BTreeMap<String, String>) -> HashMap<String, String> {
    from.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_engines_are_read() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(time("1970-01-01T00:01:00Z"), Some(at(60)));
        assert_eq!(time("1970-01-01T02:01:00.000000000+02:00"), Some(at(60)));
        assert_eq!(time("1970-01-01T00:01:00-02:00"), Some(at(7260)));
        assert_eq!(time("0001-01-01T00:00:00Z"), None);
        assert_eq!(time("soon"), None);
    }

    #[test]
    fn a_command_that_is_not_there_is_told_from_an_engine_that_failed() {
        let said = "failed to create shim: OCI runtime create failed: runc create failed: unable to start container process: exec: \"nope\": executable file not found in $PATH: unknown";
        assert!(is_bad_command(said));
        assert_eq!(
            bad_command(said),
            "the command cannot be run: exec: \"nope\": executable file not found in $PATH"
        );
        assert!(!is_bad_command("no space left on device"));
    }
}
