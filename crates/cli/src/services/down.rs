//! `nexus down`: has the supervisor stop everything and end. What runs without one is asked to stop one by one, those
//! that depend on others first, and killed if it does not.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::{
    change,
    control::{Action, Request},
    model::{Service, Snapshot, State as Is},
    names,
    peer::{Found, Peer, look},
    process::Held,
    reach,
    table::{self, TABLE},
};
use crate::{
    args::DownArgs,
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table},
    supervise::Memory,
    units,
};

/// Nobody is told what we wait for before this.
const PATIENCE: Duration = Duration::from_millis(700);
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

pub async fn run(context: &Context, args: &DownArgs, output: &Output) -> Result<Exit, Failure> {
    context.local()?;
    if let Some(manager) = units::manager::of(context) {
        return change::managed(context, manager, change::Change::Stop, &[], output).await;
    }
    let mut lines = supervised(context, args.timeout, output).await?;
    // What no supervisor knows of: started by hand, or left behind by one that was killed.
    for service in names(context).into_iter().rev() {
        let known = lines.iter().position(|line| line.service == service);
        let line = one(context, service, args.timeout, output).await?;
        match known {
            Some(_) if line.state == State::NotRunning => {}
            Some(known) => lines[known] = line,
            None => lines.push(line),
        }
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

/// Empty if no supervisor runs, and none that was killed left anything behind.
async fn supervised(context: &Context, budget: Duration, output: &Output) -> Result<Vec<Line>, Failure> {
    let budget_ms = u64::try_from(budget.as_millis()).ok();
    let request = Request::new(Action::Shutdown { budget_ms }, &[]).follow();
    let begin = Instant::now();
    let begun = match reach::running(context, &request).await? {
        None if Memory::read(&context.root).has_survivors() => Some(reach::or_start(context, &request).await?),
        begun => begun,
    };
    let Some((mut conversation, first)) = begun else {
        return Ok(Vec::new());
    };
    let mut lines: Vec<Line> = first.services.iter().rev().map(Line::of).collect();
    let mut snapshot = Some(first);
    let mut told = false;
    while let Some(now) = snapshot {
        for line in &mut lines {
            line.follow(&now, begin);
        }
        let patience = tokio::time::sleep(PATIENCE);
        snapshot = tokio::select! {
            next = conversation.next() => next?,
            () = patience, if !told => {
                told = true;
                let waiting = lines.iter().filter(|line| line.pid.is_some() && line.ms.is_none());
                let waiting: Vec<&str> = waiting.map(|line| line.service.as_str()).collect();
                output.note(&format!("waiting for {} to stop ...", waiting.join(", ")));
                Some(now)
            }
        };
    }
    for line in &lines {
        if line.state == State::Killed {
            output.warn(&format!(
                "{} (pid {}) did not stop within {}; killed it",
                line.service,
                line.pid.unwrap_or_default(),
                humantime::format_duration(budget)
            ));
        }
    }
    Ok(lines)
}

impl Line {
    fn of(service: &Service) -> Line {
        let runs = service.pid.is_some();
        Line {
            service: service.id.clone(),
            // Until it is told otherwise: one that ran may not have ended when the supervisor leaves.
            state: if runs { State::Failed } else { State::NotRunning },
            pid: service.pid,
            ms: None,
            error: None,
        }
    }

    fn follow(&mut self, snapshot: &Snapshot, begin: Instant) {
        let Some(service) = snapshot.find(&self.service) else {
            return;
        };
        if self.pid.is_none() || self.ms.is_some() || service.state != Is::Stopped {
            return;
        }
        self.ms = u64::try_from(begin.elapsed().as_millis()).ok();
        let forced = service.last_exit.as_ref().is_some_and(|exit| exit.forced);
        self.state = if forced { State::Killed } else { State::Stopped };
    }
}

async fn one(context: &Context, service: String, budget: Duration, output: &Output) -> Result<Line, Failure> {
    let sockets = table::sockets(context)?;
    let known = TABLE.iter().zip(sockets).find(|(entry, _)| entry.name == service);
    let path = known.map_or_else(|| context.root.socket(&service), |(_, socket)| socket.path);
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
    if let Some(whose) = foreign(&peer, context) {
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

fn foreign(peer: &Peer, context: &Context) -> Option<String> {
    if !peer.is_ours() {
        return Some(format!("belongs to uid {}; only that user can stop it", peer.uid));
    }
    peer.is_of_another_tree(&context.root.state())
        .then(|| "serves another NEXUS_ROOT; stop it with: nexus --root THAT down".to_owned())
}
