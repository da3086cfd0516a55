//! What a daemon says about itself, asked over its own socket.

use nexus_client::{Connection, Kind};
use nexus_daemon::Standing;
use nexus_proto::{Timestamp, agent::v1::AgentState, common::v1::Health};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::{
    model::State,
    table::{Link, ORCHESTRATOR},
};

#[derive(Clone, Debug)]
pub struct Said {
    pub serving: bool,
    pub health: Option<Health>,
    pub version: String,
    pub started_at: Option<Timestamp>,
    /// Of an agent: it holds its line to the orchestrator.
    pub connected: bool,
    /// It needs a secret whose store is locked.
    pub waits: bool,
}

/// What is wrong with a daemon that serves.
#[derive(Clone, Debug)]
pub struct Degradation {
    pub state: State,
    pub message: String,
    /// Where there is a better one than to read its log.
    pub fix: Option<&'static str>,
}

/// For a daemon whose disk, or the orchestrator's, has too little room.
const MAKE_ROOM: &str = "make room on that disk; nexus sessions prune removes old sessions";

/// The health of this name is NOT_SERVING while a daemon waits for a secret.
const CREDENTIALS: &str = "credentials";

impl Said {
    pub fn is_degraded(&self) -> bool {
        matches!(self.health, Some(Health::Degraded | Health::Unhealthy))
    }

    /// With the reasons that it wrote down, if it did.
    pub fn degradation(&self, standing: Option<&Standing>) -> Option<Degradation> {
        let trouble = standing.and_then(Standing::trouble);
        match (self.waits, self.is_degraded()) {
            (true, _) => Some(Degradation::waits(trouble)),
            (false, true) => Some(Degradation::degraded(trouble)),
            (false, false) => None,
        }
    }
}

impl Degradation {
    /// As it stands in what a daemon wrote down.
    pub fn of(standing: &Standing) -> Option<Degradation> {
        let trouble = standing.trouble();
        if standing.waits() {
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

pub async fn daemon(connection: &Connection, service: &str) -> Result<Said, nexus_client::Error> {
    let (serving, own) = tokio::join!(serves(connection, ""), about(connection, service));
    let serving = serving?;
    let (health, version, started_at, connected) = match own {
        Ok(own) => own,
        // It serves, and has nothing more to tell.
        Err(error) if error.kind == Kind::Unimplemented => (None, String::new(), None, true),
        Err(error) => return Err(error),
    };
    let mut said = Said {
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

/// What stands between a daemon that serves and one that is of use; `None` if nothing does.
pub async fn unlinked(link: Link, service: &str, said: &Said, orchestrator: &Connection) -> Option<String> {
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
