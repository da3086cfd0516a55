//! Which daemons run and how well, asked of each at its own socket. Works with everything down.

use std::{path::PathBuf, time::Duration, time::SystemTime};

use futures_util::future::join_all;
use nexus_client::{Address, Connection, Kind};
use nexus_proto::{Timestamp, agent::v1::AgentState, common::v1::Health};
use serde::Serialize;
use tokio::time::timeout;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::{
    cli::StatusArgs,
    failure::{Exit, Failure},
    output::{
        Output,
        table::table,
        time::{since, span},
        view::word,
    },
    place::Place,
    up::{
        self, ASSISTANT, ORCHESTRATOR, PLANS,
        process::{Found, look},
    },
};

/// A daemon that takes longer than this for a word about itself hangs.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Line {
    service: String,
    state: State,
    /// As the daemon says it: healthy, degraded, ...
    health: Option<String>,
    pid: Option<i32>,
    version: Option<String>,
    uptime_s: Option<u64>,
    socket: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ready,
    /// Serves, and says that a part of it does not work well.
    Degraded,
    /// Answers, and does not serve: it starts, stops, or waits for another daemon.
    NotServing,
    /// Its socket is there and nobody answers.
    Failed,
    Stopped,
    /// The socket belongs to somebody else.
    Foreign,
}

pub async fn run(place: &Place, args: &StatusArgs, output: &Output) -> Result<Exit, Failure> {
    let known = match place.orchestrator_socket() {
        Some(_) => up::services(place),
        None => vec![ORCHESTRATOR.to_owned()],
    };
    let names = if args.services.is_empty() {
        known
    } else {
        chosen(&args.services, &known)?
    };
    let lines = join_all(names.into_iter().map(|service| one(place, service))).await;
    let exit = judge(&lines, !args.services.is_empty());
    if output.json {
        output.value(&serde_json::json!({ "schema": 1, "ok": exit == Exit::Ok, "services": lines }))?;
        return Ok(exit);
    }
    show(&lines, output)?;
    Ok(exit)
}

fn chosen(asked: &[String], known: &[String]) -> Result<Vec<String>, Failure> {
    asked
        .iter()
        .map(|asked| {
            let name = if matches!(asked.as_str(), "agent" | "assistant") {
                ASSISTANT
            } else {
                asked.as_str()
            };
            known.iter().find(|known| *known == name).cloned().ok_or_else(|| {
                Failure::new(Exit::NotFound, format!("there is no service named {asked}"))
                    .hint(format!("one of: {}", known.join(", ")))
            })
        })
        .collect()
}

/// A service that was stopped is as it is wanted to be, unless it was asked for by name.
fn judge(lines: &[Line], by_name: bool) -> Exit {
    let bad = |line: &Line| !matches!(line.state, State::Ready | State::Stopped);
    if by_name && lines.iter().any(|line| line.state == State::Stopped) {
        Exit::NotRunning
    } else if lines.iter().any(bad) {
        Exit::Failed
    } else {
        Exit::Ok
    }
}

async fn one(place: &Place, service: String) -> Line {
    let socket = if service == ORCHESTRATOR {
        place.orchestrator_socket().map(PathBuf::from)
    } else {
        None
    };
    let socket = socket.unwrap_or_else(|| place.root.socket(&service));
    let mut line = Line {
        service,
        state: State::Stopped,
        health: None,
        pid: None,
        version: None,
        uptime_s: None,
        socket,
        error: None,
    };
    let address = match (&place.orchestrator, line.service.as_str()) {
        (tcp @ Address::Tcp(..), ORCHESTRATOR) => tcp.clone(),
        _ => Address::Unix(line.socket.clone()),
    };
    if let Address::Unix(path) = &address {
        let found = match look(path).await {
            Ok(Found::Absent) => return line,
            Ok(Found::Running(peer)) => {
                line.pid = Some(peer.pid);
                let foreign = peer.is_of_another_tree(&place.root.db_dir());
                if peer.is_ours() && !foreign {
                    Ok(())
                } else if foreign {
                    Err((State::Foreign, "serves another NEXUS_ROOT".to_owned()))
                } else {
                    Err((State::Foreign, format!("belongs to uid {}", peer.uid)))
                }
            }
            Ok(Found::Stale) => Err((
                State::Failed,
                "died and left its socket; start it with: nexus up".to_owned(),
            )),
            Ok(Found::Other) => Err((State::Foreign, "what is there is not a socket".to_owned())),
            Ok(Found::Denied) => Err((State::Foreign, "belongs to another user".to_owned())),
            Err(error) => Err((State::Failed, error.to_string())),
        };
        if let Err((state, error)) = found {
            line.state = state;
            line.error = Some(error);
            return line;
        }
    } else {
        line.socket = PathBuf::from(address.to_string());
    }
    let connection = Connection::lazy(&address, &place.options);
    match timeout(PATIENCE, ask(&connection, &line.service)).await {
        Ok(Ok(said)) => said.put(&mut line),
        Ok(Err(error)) if error.kind == Kind::NotRunning => {}
        Ok(Err(error)) => (line.state, line.error) = (State::Failed, Some(error.message)),
        Err(_) => (line.state, line.error) = (State::Failed, Some("is there, and does not answer".to_owned())),
    }
    line
}

/// What a daemon says about itself.
struct Said {
    serving: bool,
    health: Option<Health>,
    version: String,
    started_at: Option<Timestamp>,
}

impl Said {
    fn put(self, line: &mut Line) {
        let limps = matches!(self.health, Some(Health::Degraded | Health::Unhealthy));
        line.state = match (self.serving, limps) {
            (false, _) => State::NotServing,
            (true, true) => State::Degraded,
            (true, false) => State::Ready,
        };
        line.health = self.health.map(|health| word(health.as_str_name(), "HEALTH_"));
        line.version = Some(self.version).filter(|version| !version.is_empty());
        line.uptime_s = self
            .started_at
            .and_then(|start| since(&start, SystemTime::now()))
            .map(|age| age.as_secs());
    }
}

async fn ask(connection: &Connection, service: &str) -> Result<Said, nexus_client::Error> {
    let mut health = connection.health();
    let serving = health.check(HealthCheckRequest::default());
    let own = about(connection, service);
    let (serving, own) = tokio::join!(serving, own);
    let serving = serving?.into_inner().status() == ServingStatus::Serving;
    let (health, version, started_at) = own?;
    Ok(Said {
        serving,
        health,
        version,
        started_at,
    })
}

type About = (Option<Health>, String, Option<Timestamp>);

/// Each service has messages of its own for the same two questions.
async fn about(connection: &Connection, service: &str) -> Result<About, nexus_client::Error> {
    match service {
        ORCHESTRATOR => {
            let (mut one, mut other) = (connection.orchestrator(), connection.orchestrator());
            let (health, status) = tokio::try_join!(one.health_check(()), other.get_status(()))?;
            let health = health.into_inner();
            Ok((Some(health.health()), health.version, status.into_inner().started_at))
        }
        "llm" => {
            let (mut one, mut other) = (connection.llm(), connection.llm());
            let (health, status) = tokio::try_join!(one.health_check(()), other.get_status(()))?;
            let health = health.into_inner();
            Ok((Some(health.health()), health.version, status.into_inner().started_at))
        }
        "gateway" => {
            let (mut one, mut other) = (connection.gateway(), connection.gateway());
            let (health, status) = tokio::try_join!(one.health_check(()), other.get_status(()))?;
            let health = health.into_inner();
            Ok((Some(health.health()), health.version, status.into_inner().started_at))
        }
        agent if agent.starts_with("agent-") => {
            let (mut one, mut other) = (connection.agent(), connection.agent());
            let (health, status) = tokio::try_join!(one.health_check(()), other.get_status(()))?;
            let status = status.into_inner();
            // Without its line to the orchestrator an agent is up and of no use.
            let useful = matches!(status.state(), AgentState::Idle | AgentState::Busy);
            let own = if useful { Health::Healthy } else { Health::Degraded };
            Ok((Some(own), health.into_inner().version, status.started_at))
        }
        _ => Ok((None, String::new(), None)),
    }
}

fn show(lines: &[Line], output: &Output) -> Result<(), Failure> {
    let rows = lines.iter().map(|line| {
        let state = match line.state {
            State::Ready => "ready",
            State::Degraded => "DEGRADED",
            State::NotServing => "not serving",
            State::Failed => "FAILED",
            State::Stopped => "stopped",
            State::Foreign => "FOREIGN",
        };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        [
            line.service.clone(),
            state.to_owned(),
            or_dash(line.health.clone()),
            or_dash(line.pid.map(|pid| pid.to_string())),
            or_dash(line.version.clone()),
            or_dash(line.uptime_s.map(|s| span(Duration::from_secs(s)))),
            line.socket.display().to_string(),
        ]
    });
    output.line(table(
        output,
        ["SERVICE", "STATE", "HEALTH", "PID", "VERSION", "UP", "SOCKET"],
        rows,
    ))?;
    for line in lines {
        if let Some(error) = &line.error {
            output.note(&format!("{}: {error}", line.service));
        }
    }
    let planned = |line: &Line| PLANS.iter().any(|plan| plan.service == line.service);
    if lines.iter().any(|line| line.state == State::Stopped && planned(line)) {
        output.note("\nstart what is stopped with: nexus up");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(state: State) -> Line {
        Line {
            service: "llm".into(),
            state,
            health: None,
            pid: None,
            version: None,
            uptime_s: None,
            socket: PathBuf::new(),
            error: None,
        }
    }

    #[test]
    fn stopped_is_fine_unless_asked_for() {
        assert_eq!(judge(&[line(State::Ready), line(State::Stopped)], false), Exit::Ok);
        assert_eq!(judge(&[line(State::Stopped)], true), Exit::NotRunning);
        for bad in [State::Failed, State::Degraded, State::NotServing, State::Foreign] {
            assert_eq!(judge(&[line(State::Ready), line(bad)], false), Exit::Failed);
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known() {
        let known = ["orchestrator".to_owned(), ASSISTANT.to_owned()];
        assert_eq!(chosen(&["agent".into()], &known).unwrap(), [ASSISTANT]);
        let failure = chosen(&["gatway".into()], &known).unwrap_err();
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.hint.unwrap().contains("orchestrator"));
    }
}
