//! Converts the supervisor's state to the shape that commands show.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{
    executor::Executor,
    machine::{Ending, Exit, Machine, Phase, Time, Unit},
    prober::ProbeResult,
    pump,
};
use super::{
    model::{
        Check, Desired, Endpoint, LastError, LastExit, Manager, Service, Snapshot, State, Supervisor, Verdict, stamp,
    },
    programs,
    table::{self, Entry, Link, TABLE},
};

pub struct View<'a> {
    pub now: Time,
    pub wall: SystemTime,
    pub begun: SystemTime,
    pub stopping: bool,
    pub executor: &'a Executor,
    pub machine: &'a Machine,
    pub looks: &'a [Option<(ProbeResult, SystemTime)>],
}

impl View<'_> {
    pub fn snapshot(&self) -> Snapshot {
        let supervisor = Supervisor {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: stamp(self.begun),
            stopping: self.stopping,
        };
        let services = (0..TABLE.len()).map(|unit| self.service(unit)).collect();
        Snapshot::new(services, Some(supervisor))
    }

    fn service(&self, index: usize) -> Service {
        let (unit, entry) = (&self.machine.units[index], &TABLE[index]);
        let process = self.executor.process(index);
        let look = self.looks[index].as_ref();
        let said = look.and_then(|(look, _)| look.said.as_ref().ok());
        let socket = self.executor.socket(index);
        let gone = matches!(unit.phase, Phase::Ready) && socket.path.symlink_metadata().is_err();
        let next = match unit.phase {
            Phase::Backoff { until } => Some(stamp(self.wall + until.saturating_sub(self.now))),
            _ => None,
        };
        Service {
            id: entry.name.to_owned(),
            kind: "daemon".to_owned(),
            desired: match (unit.enabled, unit.wanted) {
                (false, _) => Desired::Disabled,
                (true, true) => Desired::Running,
                (true, false) => Desired::Stopped,
            },
            state: match process {
                // It is about to be told, and then started again.
                Some(process) if unit.phase == Phase::Ready && unit.wanted && process.held.is_over() => State::Starting,
                // Looked at now: a daemon that hangs may have been asked long ago.
                _ if gone => State::Unhealthy,
                _ => state(unit, look.map(|(look, _)| look)),
            },
            since: (unit.instance > 0).then(|| self.at(unit.since)),
            pid: process.map(|process| process.pid),
            start_time: process.and_then(|process| process.start_time),
            version: said
                .map(|said| said.version.clone())
                .filter(|version| !version.is_empty()),
            manager: Manager::Supervisor,
            enabled_at_login: false,
            restarts: unit.restarts,
            last_exit: unit.ending.as_ref().map(|ending| self.last_exit(ending)),
            next_retry_at: next,
            endpoints: vec![Endpoint {
                name: "grpc".to_owned(),
                addr: socket.path.display().to_string(),
                port: None,
                listening: said.is_some_and(|said| said.serving) && !gone,
                auth: "peer-uid".to_owned(),
            }],
            checks: self.checks(unit, entry, look, gone.then_some(&socket.path)),
            credentials: look
                .and_then(|(look, _)| look.status_file.as_ref())
                .map(|status_file| status_file.credentials.clone())
                .unwrap_or_default(),
            last_error: unit.error.as_ref().map(|(message, at)| LastError {
                message: message.clone(),
                at: self.at(*at),
            }),
            log: pump::path(&self.executor.context.root, entry.name).with_file_name(format!("{}.log", entry.name)),
        }
    }

    fn at(&self, time: Time) -> String {
        stamp(self.wall - self.now.saturating_sub(time).min(Duration::from_secs(1 << 31)))
    }

    fn last_exit(&self, ending: &Ending) -> LastExit {
        let (code, signal) = match ending.exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
            Exit::Unknown | Exit::NotStarted(_) => (None, None),
        };
        LastExit {
            code,
            signal,
            forced: ending.forced,
            message: describe(&ending.exit),
            at: self.at(ending.at),
        }
    }

    /// `gone`: the path where the socket's file should be.
    fn checks(
        &self,
        unit: &Unit,
        entry: &Entry,
        look: Option<&(ProbeResult, SystemTime)>,
        gone: Option<&PathBuf>,
    ) -> Vec<Check> {
        let mut checks = vec![self.process_check(unit, entry)];
        if let Some(path) = gone {
            let (message, fix) = table::socket_gone(&path.display().to_string(), entry.name);
            checks.push(Check {
                id: "socket".to_owned(),
                status: Verdict::Fail,
                message,
                observed_at: stamp(self.wall),
                latency_ms: None,
                fix: Some(fix),
            });
        }
        let Some((look, at)) = look else { return checks };
        let check = |id: &str, status, message: String, fix: Option<String>| Check {
            id: id.to_owned(),
            status,
            message,
            observed_at: stamp(*at),
            latency_ms: u64::try_from(look.took.as_millis()).ok(),
            fix,
        };
        let logs = Some(format!("nexus services logs {}", entry.name));
        checks.push(match &look.said {
            Ok(said) if said.serving => match said.degradation(look.status_file.as_ref()) {
                Some(degradation) => {
                    let fix = degradation.fix.map(str::to_owned).or(logs);
                    check("health", Verdict::Warn, degradation.message, fix)
                }
                None => check("health", Verdict::Pass, "serves".to_owned(), None),
            },
            Ok(_) => check("health", Verdict::Fail, "answers, and does not serve".to_owned(), logs),
            Err(why) => check("health", Verdict::Fail, why.clone(), logs),
        });
        let id = match entry.link {
            Link::None => return checks,
            Link::Registered => "registered",
            Link::Connected => "connected",
        };
        if look.said.as_ref().is_ok_and(|said| said.serving) {
            checks.push(match &look.unlinked {
                None => check(id, Verdict::Pass, format!("is {id}"), None),
                Some(why) => check(
                    id,
                    Verdict::Warn,
                    why.clone(),
                    Some("nexus services status orchestrator".to_owned()),
                ),
            });
        }
        checks
    }

    fn process_check(&self, unit: &Unit, entry: &Entry) -> Check {
        let last = || unit.ending.as_ref().map(|ending| describe(&ending.exit));
        let because = |what: &str| match last() {
            Some(last) => format!("{what}: it {last}"),
            None => what.to_owned(),
        };
        let remedy = || match unit.ending.as_ref().map(|ending| &ending.exit) {
            Some(Exit::Code(code)) => programs::remedy(*code, entry.name),
            _ => None,
        };
        let start = format!("nexus services start {}", entry.name);
        let logs = format!("nexus services logs {}", entry.name);
        let (status, message, fix) = match &unit.phase {
            Phase::Ready => (Verdict::Pass, "runs".to_owned(), None),
            Phase::Starting { .. } if unit.restarts > 0 => (Verdict::Warn, because("is started again"), None),
            Phase::Starting { .. } => (Verdict::Warn, "starts".to_owned(), None),
            Phase::Stopping { hung: true, .. } => (Verdict::Fail, "hangs and is started again".to_owned(), Some(logs)),
            Phase::Stopping { .. } => (Verdict::Warn, "is being stopped".to_owned(), None),
            Phase::Stopped => (Verdict::Skip, "does not run".to_owned(), None),
            Phase::Backoff { .. } => (
                Verdict::Fail,
                because("is started again after a pause"),
                remedy().or(Some(logs)),
            ),
            Phase::Failed => (
                Verdict::Fail,
                because("is not started again by itself"),
                remedy().or(Some(format!("{logs}; then: {start}"))),
            ),
        };
        Check {
            id: "process".to_owned(),
            status,
            message,
            observed_at: stamp(self.wall),
            latency_ms: None,
            fix,
        }
    }
}

fn state(unit: &Unit, look: Option<&ProbeResult>) -> State {
    if unit.is_leaving() {
        return if unit.hangs() {
            State::Unhealthy
        } else {
            State::Stopping
        };
    }
    match unit.phase {
        Phase::Stopped => State::Stopped,
        Phase::Starting { .. } => State::Starting,
        Phase::Stopping { .. } => State::Stopping,
        Phase::Backoff { .. } => State::Backoff,
        Phase::Failed => State::Failed,
        Phase::Ready if unit.misses > 0 => State::Unhealthy,
        Phase::Ready => match look {
            Some(look) => {
                let said = look.said.as_ref().ok();
                let degradation = said.and_then(|said| said.degradation(look.status_file.as_ref()));
                let unlinked = look.unlinked.as_ref().map(|_| State::Degraded);
                degradation
                    .map(|degradation| degradation.state)
                    .max(unlinked)
                    .unwrap_or(State::Ready)
            }
            None => State::Ready,
        },
    }
}

/// An end in words, with what the daemons' own codes mean.
fn describe(exit: &Exit) -> String {
    match exit {
        Exit::Code(code) => match programs::meaning(*code) {
            Some(meaning) => format!("exited with {code}: {meaning}"),
            None => format!("exited with {code}"),
        },
        Exit::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
            Ok(name) => format!("was ended by {name}"),
            Err(_) => format!("was ended by signal {signal}"),
        },
        Exit::Unknown => "has ended".to_owned(),
        Exit::NotStarted(why) => format!("could not be started: {why}"),
    }
}
