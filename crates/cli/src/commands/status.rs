//! `nexus status`: the status of each daemon, asked at its own socket. Works with everything down.

use std::{path::PathBuf, time::Duration, time::SystemTime};

use futures_util::future::join_all;
use nexus_client::{Address, Connection, Kind};
use nexus_daemon::StatusFile;
use serde::Serialize;
use tokio::time::timeout;

use super::orientation;
use crate::{
    args::StatusArgs,
    context::Context,
    failure::{Exit, Failure},
    output::{
        Output,
        table::table,
        time::{since, span},
        view::word,
    },
    services::{
        self,
        ask::{self, DaemonReport},
        peer::{Found, look},
        survey,
        table::{self, ASSISTANT, ORCHESTRATOR, TABLE, WORKER},
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

pub async fn run(context: &Context, args: &StatusArgs, output: &Output) -> Result<Exit, Failure> {
    let known = match context.orchestrator_socket() {
        Some(_) => services::names(context),
        None => vec![ORCHESTRATOR.to_owned()],
    };
    let names = if args.services.is_empty() {
        known
    } else {
        chosen(&args.services, &known)?
    };
    let lines = join_all(names.into_iter().map(|service| one(context, service))).await;
    let exit = exit_code(&lines, !args.services.is_empty());
    if args.quiet {
        return Ok(exit);
    }
    let ready = |name: &str| {
        lines
            .iter()
            .any(|line| line.service == name && line.state == State::Ready)
    };
    if output.json && args.services.is_empty() {
        let (identity, bootstrap) = orientation::identity(&context.root);
        let capabilities = orientation::capabilities(&context.root, ready);
        output.value(
            &serde_json::json!({ "schema": 1, "ok": exit == Exit::Ok, "identity": identity,
            "bootstrap": bootstrap, "capabilities": capabilities, "services": lines }),
        )?;
        return Ok(exit);
    }
    if output.json {
        output.value(&serde_json::json!({ "schema": 1, "ok": exit == Exit::Ok, "services": lines }))?;
        return Ok(exit);
    }
    if args.brief {
        let count = lines.iter().filter(|line| line.state == State::Ready).count();
        output.line(format!("{count} of {} services ready", lines.len()))?;
        return Ok(exit);
    }
    show(&lines, output)?;
    if args.services.is_empty() {
        show_capabilities(&orientation::capabilities(&context.root, ready), output)?;
    }
    Ok(exit)
}

fn chosen(asked: &[String], known: &[String]) -> Result<Vec<String>, Failure> {
    asked
        .iter()
        .map(|asked| {
            let name = match asked.as_str() {
                "agent" | "assistant" => ASSISTANT,
                "worker" => WORKER,
                name => name,
            };
            known.iter().find(|known| *known == name).cloned().ok_or_else(|| {
                Failure::new(Exit::NotFound, format!("there is no service named {asked}"))
                    .hint(format!("one of: {}", known.join(", ")))
            })
        })
        .collect()
}

/// A service that was stopped is as it is wanted to be, unless it was asked for by name.
fn exit_code(lines: &[Line], by_name: bool) -> Exit {
    let bad = |line: &Line| !matches!(line.state, State::Ready | State::Stopped);
    if by_name && lines.iter().any(|line| line.state == State::Stopped) {
        Exit::NotRunning
    } else if lines.iter().any(bad) {
        Exit::Failed
    } else {
        Exit::Ok
    }
}

async fn one(context: &Context, service: String) -> Line {
    // Where the orchestrator is on another machine, no socket of this one is asked for.
    let sockets = table::sockets(context).unwrap_or_default();
    let known = TABLE.iter().zip(sockets).find(|(entry, _)| entry.name == service);
    let socket = known.map_or_else(|| context.root.socket(&service), |(_, socket)| socket.path);
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
    let address = match (&context.orchestrator, line.service.as_str()) {
        (tcp @ Address::Tcp(..), ORCHESTRATOR) => tcp.clone(),
        _ => Address::Unix(line.socket.clone()),
    };
    if let Address::Unix(path) = &address {
        let found = match look(path).await {
            Ok(Found::Absent) => match survey::running_without_socket(&context.root, &line.service) {
                Some(pid) => {
                    line.pid = Some(pid);
                    let (message, fix) = table::socket_gone(&path.display().to_string(), &line.service);
                    Err((State::Failed, format!("{message}; {fix}")))
                }
                None => return line,
            },
            Ok(Found::Running(peer)) => {
                // Whoever made the socket for the daemon, and listens for it, is not the daemon.
                line.pid = peer.daemon();
                let foreign = peer.is_of_another_tree(&context.root.state());
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
    let connection = Connection::lazy(&address, &context.options);
    let said = timeout(PATIENCE, ask::daemon(&connection, &line.service)).await;
    // Its socket may not tell which process it is: an ordinary user sees nothing of one that keeps its memory to itself.
    line.pid = line
        .pid
        .or_else(|| survey::running_without_socket(&context.root, &line.service));
    match said {
        Ok(Ok(said)) => put(context, said, &mut line),
        Ok(Err(error)) if error.kind == Kind::NotRunning => {}
        Ok(Err(error)) => (line.state, line.error) = (State::Failed, Some(error.message)),
        Err(_) => (line.state, line.error) = (State::Failed, Some("is there, and does not answer".to_owned())),
    }
    line
}

fn put(context: &Context, said: DaemonReport, line: &mut Line) {
    let file = StatusFile::file(&context.root, &line.service);
    let status_file = line.pid.and_then(|pid| StatusFile::of(pid.unsigned_abs(), &file));
    if let Some(degradation) = said.degradation(status_file.as_ref()).filter(|_| said.serving) {
        let fix = degradation.fix.map(|fix| format!("; {fix}")).unwrap_or_default();
        line.error = Some(degradation.message + &fix);
    }
    line.state = match (said.serving, said.is_degraded()) {
        (false, _) => State::NotServing,
        (true, true) => State::Degraded,
        (true, false) => State::Ready,
    };
    line.health = said.health.map(|health| word(health.as_str_name(), "HEALTH_"));
    line.version = Some(said.version).filter(|version| !version.is_empty());
    line.uptime_s = said
        .started_at
        .and_then(|start| since(&start, SystemTime::now()))
        .map(|age| age.as_secs());
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
    let planned = |line: &Line| TABLE.iter().any(|entry| entry.name == line.service);
    if lines.iter().any(|line| line.state == State::Stopped && planned(line)) {
        output.note("\nstart what is stopped with: nexus up");
    }
    Ok(())
}

fn show_capabilities(capabilities: &[orientation::Capability], output: &Output) -> Result<(), Failure> {
    let rows = capabilities.iter().map(|one| {
        let providers: Vec<&str> = one.providers.iter().map(|provider| provider.id.as_str()).collect();
        [one.id.to_owned(), one.status.word().to_owned(), providers.join(" ")]
    });
    output.line("")?;
    output.line(table(output, ["CAPABILITY", "STATUS", "BY"], rows))?;
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
        assert_eq!(exit_code(&[line(State::Ready), line(State::Stopped)], false), Exit::Ok);
        assert_eq!(exit_code(&[line(State::Stopped)], true), Exit::NotRunning);
        for bad in [State::Failed, State::Degraded, State::NotServing, State::Foreign] {
            assert_eq!(exit_code(&[line(State::Ready), line(bad)], false), Exit::Failed);
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
