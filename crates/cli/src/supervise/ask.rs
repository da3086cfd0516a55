//! Asks a daemon for its status over its own socket.

use nexus_client::{Connection, Kind};
use nexus_daemon::StatusFile;
use nexus_proto::{Timestamp, agent::v1::AgentState, common::v1::Health};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::{
    model::State,
    table::{Link, ORCHESTRATOR},
};

#[derive(Clone, Debug)]
pub struct DaemonReport {
    pub serving: bool,
    pub health: Option<Health>,
    pub version: String,
    pub started_at: Option<Timestamp>,
    /// Of an agent: it holds its line to the orchestrator.
    pub connected: bool,
    /// It waits for a secret whose store is locked.
    pub waits: bool,
}

/// Why a daemon that serves is degraded.
#[derive(Clone, Debug)]
pub struct Degradation {
    pub state: State,
    pub message: String,
    /// A better fix than to read its log, where there is one.
    pub fix: Option<&'static str>,
}

/// For a daemon whose disk, or the orchestrator's, has too little room.
const MAKE_ROOM: &str = "make room on that disk; nexus sessions prune removes old sessions";

/// The health of this name is NOT_SERVING while a daemon waits for a secret.
const CREDENTIALS: &str = "credentials";

impl DaemonReport {
    pub fn is_degraded(&self) -> bool {
        matches!(self.health, Some(Health::Degraded | Health::Unhealthy))
    }

    /// With the reasons from its status file, if there is one.
    pub fn degradation(&self, status_file: Option<&StatusFile>) -> Option<Degradation> {
        let trouble = status_file.and_then(StatusFile::trouble);
        match (self.waits, self.is_degraded()) {
            (true, _) => Some(Degradation::waits(trouble)),
            (false, true) => Some(Degradation::degraded(trouble)),
            (false, false) => None,
        }
    }
}

impl Degradation {
    /// From a daemon's status file.
    pub fn of(status_file: &StatusFile) -> Option<Degradation> {
        let trouble = status_file.trouble();
        if status_file.waits() {
            return Some(Degradation::waits(trouble));
        }
        trouble.map(|trouble| Degradation::degraded(Some(trouble)))
    }

    fn waits(trouble: Option<String>) -> Degradation {
        let trouble = trouble.unwrap_or_else(|| "waits for a secret whose store is locked".to_owned());
        Degradation {
            state: State::WaitingForCredential,
            message: format!("serves, but {trouble}"),
            fix: Some("unlock it; which one: nexus credential verify"),
        }
    }

    fn degraded(trouble: Option<String>) -> Degradation {
        let trouble = trouble.unwrap_or_else(|| "says that a part of it does not work".to_owned());
        Degradation {
            state: State::Degraded,
            fix: trouble.contains("make room").then_some(MAKE_ROOM),
            message: format!("serves, but {trouble}"),
        }
    }
}

pub async fn daemon(connection: &Connection, service: &str) -> Result<DaemonReport, nexus_client::Error> {
    let (serving, own) = tokio::join!(serves(connection, ""), about(connection, service));
    let serving = serving?;
    let (health, version, started_at, connected) = match own {
        Ok(own) => own,
        // It serves, and has nothing more to tell.
        Err(error) if error.kind == Kind::Unimplemented => (None, String::new(), None, true),
        Err(error) => return Err(error),
    };
    let mut said = DaemonReport {
        serving,
        health,
        version,
        started_at,
        connected,
        waits: false,
    };
    // One that knows no such part waits for none.
    said.waits = said.serving && said.is_degraded() && serves(connection, CREDENTIALS).await.is_ok_and(|fine| !fine);
    Ok(said)
}

/// Whether the health of this name is SERVING; the empty name is the daemon itself.
pub async fn serves(connection: &Connection, name: &str) -> Result<bool, nexus_client::Error> {
    let request = HealthCheckRequest {
        service: name.to_owned(),
    };
    let answer = connection.health().check(request).await?.into_inner();
    Ok(answer.status() == ServingStatus::Serving)
}

/// Why a daemon that serves is not ready; `None` if it is.
pub async fn unlinked(link: Link, service: &str, said: &DaemonReport, orchestrator: &Connection) -> Option<String> {
    match link {
        Link::None => None,
        Link::Connected if said.connected => None,
        Link::Connected => Some("has no line to the orchestrator".to_owned()),
        Link::Registered => match serves(orchestrator, service).await {
            Ok(true) => None,
            Ok(false) => Some("is not registered with the orchestrator".to_owned()),
            Err(error) => Some(format!("is not registered with the orchestrator: {}", error.message)),
        },
    }
}

macro_rules! said {
    ($client:expr) => {{
        let (mut one, mut other) = ($client, $client);
        let (health, status) = tokio::try_join!(one.health_check(()), other.get_status(()))?;
        let health = health.into_inner();
        let started = status.into_inner().started_at;
        Ok((Some(health.health()), health.version, started, true))
    }};
}

type About = (Option<Health>, String, Option<Timestamp>, bool);

/// Each service has messages of its own for the same two questions, alike but for their types.
async fn about(connection: &Connection, service: &str) -> Result<About, nexus_client::Error> {
    match service {
        ORCHESTRATOR => said!(connection.orchestrator()),
        "llm" => said!(connection.llm()),
        "gateway" => said!(connection.gateway()),
        agent if agent.starts_with("agent-") => {
            let (mut one, mut other) = (connection.agent(), connection.agent());
            let (health, status) = tokio::try_join!(one.health_check(()), other.get_status(()))?;
            let status = status.into_inner();
            // Without its line to the orchestrator an agent is up and of no use.
            let connected = matches!(status.state(), AgentState::Idle | AgentState::Busy);
            let own = if connected { Health::Healthy } else { Health::Degraded };
            Ok((Some(own), health.into_inner().version, status.started_at, connected))
        }
        _ => Ok((None, String::new(), None, true)),
    }
}
