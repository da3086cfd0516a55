//! `nexus up`: starts what is enabled through the supervisor, and returns when all of it is of use.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{
    change,
    control::{Action, Request},
    logs,
    model::{Desired, Service, Snapshot, State as Is},
    peer::{Found, Peer, look},
    programs, reach,
    table::{self, ORCHESTRATOR, TABLE},
};
use crate::{
    args::UpArgs,
    backup,
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table},
    units,
};

const ORPHANED: &str = "runs, and waits for the orchestrator";

/// Nobody is told what we wait for before this.
const PATIENCE: Duration = Duration::from_millis(700);
/// Lines of the log that are shown of one that did not come up.
const LINES: usize = 12;

#[derive(Debug, Serialize)]
struct Line {
    service: String,
    state: State,
    pid: Option<i32>,
    /// Until it served and was registered.
    ready_ms: Option<u64>,
    socket: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    log: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Started,
    Running,
    Failed,
}

pub async fn run(context: &Context, args: &UpArgs, output: &Output) -> Result<Exit, Failure> {
    let (begin, wall) = (Instant::now(), SystemTime::now());
    context.local()?;
    if let Err(error) = backup::sweep(context.root.path()) {
        output.warn(&format!(
            "what a killed backup or restore has left cannot be removed: {error}"
        ));
    }
    if let Some(manager) = units::manager::of(context) {
        return change::managed(context, manager, change::Change::Start, &[], output).await;
    }
    let request = Request::new(Action::Start, &[]).follow();
    let (mut conversation, mut snapshot) = match reach::running(context, &request).await? {
        Some(begun) => begun,
        None => {
            programs::all(&TABLE.iter().collect::<Vec<_>>())?;
            refuse_foreign(context).await?;
            reach::or_start(context, &request).await?
        }
    };
    let wanted = |service: &&Service| service.desired == Desired::Running;
    let mut lines: Vec<Line> = snapshot.services.iter().filter(wanted).map(Line::new).collect();
    let give_up = sleep_until(begin + args.wait);
    let patience = sleep_until(begin + PATIENCE);
    tokio::pin!(give_up, patience);
    let mut told = false;
    let mut late = false;
    loop {
        for line in &mut lines {
            line.follow(&snapshot, begin);
        }
        if late || settled(&lines, &snapshot) {
            break;
        }
        tokio::select! {
            next = conversation.next() => match next? {
                Some(next) => snapshot = next,
                None => return Err(Failure::new(Exit::Failed, "the supervisor ended meanwhile").hint("try again: nexus up")),
            },
            () = &mut patience, if !told => {
                told = true;
                let waiting = lines.iter().filter(|line| line.ready_ms.is_none());
                let waiting: Vec<&str> = waiting.map(|line| line.service.as_str()).collect();
                output.note(&format!("waiting for {} ...", waiting.join(", ")));
            }
            () = &mut give_up => late = true,
        }
    }
    let orphaned = snapshot.find(ORCHESTRATOR).is_some_and(is_bad);
    for line in lines.iter_mut().filter(|line| line.ready_ms.is_none()) {
        line.explain(context, &snapshot, orphaned, wall);
    }
    report(&lines, begin, output)
}

/// A pause before another start that is waited for.
const MOMENT: Duration = Duration::from_secs(1);

/// It crashed more than once, or for good, or needs a secret that does not come by waiting.
fn is_bad(service: &Service) -> bool {
    match service.state {
        Is::Failed | Is::Stopped => true,
        // One that is started again in a moment is worth the wait.
        Is::Backoff => service.pause().is_none_or(|pause| pause > MOMENT),
        _ => service.lacks_a_secret(),
    }
}

/// Nothing changes by waiting: all are ready or bad, or the orchestrator is, without which nobody becomes of use.
fn settled(lines: &[Line], snapshot: &Snapshot) -> bool {
    let is = |line: &Line| snapshot.find(&line.service).is_none_or(is_bad);
    snapshot.find(ORCHESTRATOR).is_some_and(is_bad) || lines.iter().all(|line| line.ready_ms.is_some() || is(line))
}

impl Line {
    fn new(service: &Service) -> Line {
        let runs = matches!(
            service.state,
            Is::Ready | Is::Degraded | Is::WaitingForCredential | Is::Unhealthy
        );
        let socket = service.endpoints.first().map(|endpoint| endpoint.addr.as_str());
        Line {
            service: service.id.clone(),
            state: if runs { State::Running } else { State::Started },
            pid: service.pid,
            ready_ms: None,
            socket: PathBuf::from(socket.unwrap_or_default()),
            error: None,
            log: Vec::new(),
        }
    }

    fn follow(&mut self, snapshot: &Snapshot, begin: Instant) {
        let Some(service) = snapshot.find(&self.service) else {
            return;
        };
        self.pid = service.pid.or(self.pid);
        self.ready_ms = match service.state {
            Is::Ready => self
                .ready_ms
                .or_else(|| u64::try_from(begin.elapsed().as_millis()).ok()),
            _ => None,
        };
    }

    fn explain(&mut self, context: &Context, snapshot: &Snapshot, orphaned: bool, since: SystemTime) {
        self.state = State::Failed;
        let service = snapshot.find(&self.service);
        let ended = service.filter(|service| is_bad(service) || service.restarts > 0);
        let ended = ended.and_then(|service| service.last_exit.as_ref());
        self.error = Some(match ended {
            Some(exit) => exit.message.clone(),
            None if orphaned => ORPHANED.to_owned(),
            None => match service.and_then(Service::problem) {
                Some((problem, Some(fix))) => format!("is not ready in time: {problem}; {fix}"),
                Some((problem, None)) => format!("is not ready in time: {problem}; it goes on trying"),
                None => "did not become ready in time; it goes on trying".to_owned(),
            },
        });
        if ended.is_none() && orphaned {
            return;
        }
        self.log = logs::last(&context.root, &self.service, since, LINES);
        self.log
            .push(format!("(all of it: nexus services logs {})", self.service));
    }
}

/// A socket that is not ours ends it before anything is started.
async fn refuse_foreign(context: &Context) -> Result<(), Failure> {
    for socket in table::sockets(context)? {
        let path = socket.path;
        let shown = path.display();
        let found = look(&path)
            .await
            .map_err(|error| Failure::file("connect to", &path, &error))?;
        let problem = match found {
            Found::Absent | Found::Stale => continue,
            Found::Other => format!("{shown} exists and is not a socket"),
            Found::Denied => format!("{shown} belongs to another user"),
            Found::Running(peer) => match foreign(&peer, context) {
                Some(whose) => format!("{shown} is in use by {whose}"),
                None => continue,
            },
        };
        return Err(Failure::new(Exit::Refused, problem).hint(
            "stop that one, or use another socket: --socket PATH, GRPC_SOCKET_PATH, or socket_path under [orchestrator] \
             in state/nexus/config.toml",
        ));
    }
    Ok(())
}

fn foreign(peer: &Peer, context: &Context) -> Option<String> {
    if !peer.is_ours() {
        return Some(format!("uid {} (pid {})", peer.uid, peer.pid));
    }
    if super::process::is_of_init(peer.pid) {
        return Some(format!(
            "pid {}, which the init system keeps; use that: systemctl",
            peer.pid
        ));
    }
    peer.is_of_another_tree(&context.root.state()).then(|| {
        format!(
            "the daemon of another NEXUS_ROOT (pid {}); this one is {}",
            peer.pid,
            context.root.path().display()
        )
    })
}

fn report(lines: &[Line], begin: Instant, output: &Output) -> Result<Exit, Failure> {
    let ready = lines.iter().all(|line| line.state != State::Failed);
    let exit = if ready { Exit::Ok } else { Exit::Failed };
    if output.json {
        let elapsed_ms = begin.elapsed().as_millis();
        output.value(&serde_json::json!({ "ready": ready, "elapsed_ms": elapsed_ms, "services": lines }))?;
        return Ok(exit);
    }
    let rows = lines.iter().map(|line| {
        let state = match line.state {
            State::Started => "started",
            State::Running => "running already",
            State::Failed => "FAILED",
        };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        [
            line.service.clone(),
            state.to_owned(),
            or_dash(line.pid.map(|pid| pid.to_string())),
            or_dash(line.ready_ms.map(|ms| format!("{ms} ms"))),
            line.socket.display().to_string(),
        ]
    });
    output.line(table(output, ["SERVICE", "STATE", "PID", "READY", "SOCKET"], rows))?;
    for line in lines {
        if let Some(error) = &line.error {
            output.note(&format!("\n{} {error}", line.service));
            for said in &line.log {
                output.note(&format!("  | {}", crate::output::clean(said)));
            }
        }
    }
    if ready {
        output.line(format!(
            "\nready in {} ms; try: {}",
            begin.elapsed().as_millis(),
            output.bold("nexus chat \"hello\"")
        ))?;
    } else {
        output.note("\nservices that started keep running; once the cause is fixed: nexus up");
    }
    Ok(exit)
}
