//! `nexus down`: asks each daemon to stop, the ones that depend on others first, and kills what does not.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::{
    process::{Found, Held, Peer, look},
    services, socket,
};
use crate::{
    cli::DownArgs,
    failure::{Exit, Failure},
    output::{Output, table::table},
    place::Place,
};

/// A killed process is gone as soon as the kernel comes to it.
const KILL_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct Line {
    service: String,
    state: State,
    pid: Option<i32>,
    ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Stopped,
    Killed,
    NotRunning,
    /// What listens there is another user's or another tree's: ours does not run.
    NotOurs,
    Failed,
}

pub async fn run(place: &Place, args: &DownArgs, output: &Output) -> Result<Exit, Failure> {
    place.local()?;
    let mut lines = Vec::new();
    for service in services(place).into_iter().rev() {
        lines.push(one(place, service, args.timeout, output).await?);
    }
    let exit = if lines.iter().any(|line| line.state == State::Failed) {
        Exit::Failed
    } else {
        Exit::Ok
    };
    if output.json {
        output.value(&serde_json::json!({ "services": lines }))?;
        return Ok(exit);
    }
    if lines.iter().all(|line| line.state == State::NotRunning) {
        output.line("nothing was running")?;
        return Ok(exit);
    }
    let rows = lines.iter().map(|line| {
        let state = match line.state {
            State::Stopped => "stopped",
            State::Killed => "KILLED",
            State::NotRunning => "was not running",
            State::NotOurs => "not ours",
            State::Failed => "STILL RUNS",
        };
        let pid = line.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let took = line.ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        [line.service.clone(), state.to_owned(), pid, took]
    });
    output.line(table(output, ["SERVICE", "STATE", "PID", "TOOK"], rows))?;
    for line in &lines {
        if let Some(error) = &line.error {
            output.note(&format!("{}: {error}", line.service));
        }
    }
    Ok(exit)
}

async fn one(place: &Place, service: String, budget: Duration, output: &Output) -> Result<Line, Failure> {
    let path = socket(place, &service)?;
    let mut line = Line {
        service,
        state: State::NotRunning,
        pid: None,
        ms: None,
        error: None,
    };
    let peer = match look(&path).await {
        Ok(Found::Running(peer)) => peer,
        Ok(Found::Absent | Found::Stale) => return Ok(line),
        Ok(Found::Other) => return Ok(refused(line, format!("{} is not a socket", path.display()))),
        Ok(Found::Denied) => return Ok(refused(line, format!("{} belongs to another user", path.display()))),
        Err(error) => return Ok(refused(line, format!("cannot connect to {}: {error}", path.display()))),
    };
    line.pid = Some(peer.pid);
    if let Some(whose) = foreign(&peer, place) {
        line.state = State::NotOurs;
        line.error = Some(whose);
        return Ok(line);
    }
    if !peer.is_daemon() {
        let program = peer.program().unwrap_or_else(|| "a program without a name".to_owned());
        let pid = peer.pid;
        return Ok(refused(
            line,
            format!("its socket is held by {program} (pid {pid}); stop it there, such as with systemctl"),
        ));
    }
    let begin = Instant::now();
    line.state = match peer.hold() {
        Ok(Some(held)) => match end(&held, budget, &line, output).await {
            Ok(state) => state,
            Err(error) => return Ok(refused(line, format!("failed to stop it: {error}"))),
        },
        Ok(None) => State::Stopped,
        Err(error) => return Ok(refused(line, format!("failed to get hold of it: {error}"))),
    };
    line.ms = u64::try_from(begin.elapsed().as_millis()).ok();
    Ok(line)
}

async fn end(held: &Held, budget: Duration, line: &Line, output: &Output) -> std::io::Result<State> {
    if !held.signal(Signal::SIGTERM)? {
        return Ok(State::Stopped);
    }
    if let Ok(ended) = timeout(budget, held.ended()).await {
        return ended.map(|()| State::Stopped);
    }
    output.warn(&format!(
        "{} (pid {}) did not stop within {}; killing it",
        line.service,
        line.pid.unwrap_or_default(),
        humantime::format_duration(budget)
    ));
    held.signal(Signal::SIGKILL)?;
    match timeout(KILL_WAIT, held.ended()).await {
        Ok(ended) => ended.map(|()| State::Killed),
        Err(_) => Err(std::io::Error::other("it does not even end when killed")),
    }
}

fn refused(mut line: Line, reason: String) -> Line {
    line.state = State::Failed;
    line.error = Some(reason);
    line
}

fn foreign(peer: &Peer, place: &Place) -> Option<String> {
    if !peer.is_ours() {
        return Some(format!("belongs to uid {}; only that user can stop it", peer.uid));
    }
    peer.is_of_another_tree(&place.root.db_dir())
        .then(|| "serves another NEXUS_ROOT; stop it with: nexus --root THAT down".to_owned())
}
