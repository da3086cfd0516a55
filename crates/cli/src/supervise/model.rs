//! The status of the services: one shape in memory, between supervisor and command, and in `--json`.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use nexus_credential::Kind;
use nexus_daemon::Credential;
use serde::{Deserialize, Serialize};

pub const SCHEMA: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub schema: u32,
    /// Everything is as it is wanted.
    pub ok: bool,
    pub worst: State,
    pub generated_at: String,
    pub host: Host,
    pub supervisor: Option<Supervisor>,
    pub services: Vec<Service>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    pub os: String,
    pub boot_id: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Supervisor {
    pub pid: u32,
    pub version: String,
    pub since: String,
    /// It is about to end, and everything with it.
    pub stopping: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    pub id: String,
    pub kind: String,
    pub desired: Desired,
    pub state: State,
    pub since: Option<String>,
    pub pid: Option<i32>,
    /// As the kernel counts it. With the pid it means one process and no other.
    pub start_time: Option<u64>,
    pub version: Option<String>,
    pub manager: Manager,
    pub enabled_at_login: bool,
    pub restarts: u32,
    pub last_exit: Option<LastExit>,
    pub next_retry_at: Option<String>,
    pub endpoints: Vec<Endpoint>,
    pub checks: Vec<Check>,
    pub credentials: Vec<Credential>,
    pub last_error: Option<LastError>,
    pub log: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    Running,
    Stopped,
    Disabled,
}

/// From fine to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Ready,
    Stopped,
    Stopping,
    Starting,
    /// Serves, and a part of it does not work.
    Degraded,
    /// Serves, and needs a secret whose store is locked.
    WaitingForCredential,
    /// Its last health check had no answer.
    Unhealthy,
    /// Crashed, and is started again after a pause.
    Backoff,
    /// Its socket belongs to somebody else.
    Foreign,
    /// Nobody starts it again by himself.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    Systemd,
    Launchd,
    Supervisor,
    None,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// It had to be killed.
    pub forced: bool,
    pub message: String,
    pub at: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub name: String,
    pub addr: String,
    pub port: Option<u16>,
    pub listening: bool,
    pub auth: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub id: String,
    pub status: Verdict,
    pub message: String,
    pub observed_at: String,
    pub latency_ms: Option<u64>,
    pub fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Pass,
    Warn,
    Fail,
    Skip,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    pub message: String,
    pub at: String,
}

impl Snapshot {
    pub fn new(services: Vec<Service>, supervisor: Option<Supervisor>) -> Snapshot {
        let (ok, worst) = summarize(&services);
        Snapshot {
            schema: SCHEMA,
            ok,
            worst,
            generated_at: stamp(SystemTime::now()),
            host: Host {
                os: std::env::consts::OS.to_owned(),
                boot_id: boot_id(),
            },
            supervisor,
            services,
        }
    }

    pub fn find(&self, id: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.id == id)
    }

    /// Only these, with a summary of their own.
    pub fn only(mut self, ids: &[String]) -> Snapshot {
        self.services.retain(|service| ids.contains(&service.id));
        (self.ok, self.worst) = summarize(&self.services);
        self
    }
}

fn summarize(services: &[Service]) -> (bool, State) {
    let ok = services.iter().all(Service::is_as_wanted);
    let worst = services.iter().map(|service| service.state).max();
    (ok, worst.unwrap_or(State::Stopped))
}

impl Service {
    pub fn is_as_wanted(&self) -> bool {
        match self.desired {
            Desired::Running => self.state == State::Ready,
            Desired::Stopped | Desired::Disabled => matches!(self.state, State::Stopped | State::Ready),
        }
    }

    /// How long until it is started again.
    pub fn pause(&self) -> Option<Duration> {
        let next = humantime::parse_rfc3339(self.next_retry_at.as_deref()?).ok()?;
        Some(next.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// It serves, and needs a secret that does not come by waiting.
    pub fn lacks_a_secret(&self) -> bool {
        // The program of a store may be installed some day, and not while somebody waits.
        let never = [
            Kind::NotFound,
            Kind::Denied,
            Kind::MissingProvider,
            Kind::Malformed,
            Kind::Expired,
        ];
        let never = |status: &str| never.iter().any(|kind| kind.name() == status);
        match self.state {
            State::WaitingForCredential => true,
            State::Degraded => self.credentials.iter().any(|credential| never(&credential.status)),
            _ => false,
        }
    }

    /// What stands in the way, with what helps.
    pub fn problem(&self) -> Option<(&str, Option<&str>)> {
        let check = self
            .checks
            .iter()
            .find(|check| check.status == Verdict::Fail)
            .or_else(|| self.checks.iter().find(|check| check.status == Verdict::Warn))?;
        Some((&check.message, check.fix.as_deref()))
    }
}

pub fn stamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// Changes with each boot of the host: process ids of another boot mean nothing.
pub fn boot_id() -> Option<String> {
    static BOOT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let read = || {
        Some(
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .ok()?
                .trim()
                .to_owned(),
        )
    };
    BOOT.get_or_init(read).clone()
}

/// A change of the desired state of services that somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Start,
    Stop,
    Restart,
    Enable,
    Disable,
}
