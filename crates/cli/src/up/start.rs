//! `nexus up`: every daemon at once, each waited for on its own, and the whole within one time.

use std::{
    future, io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use futures_util::future::join_all;
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    ASSISTANT, ORCHESTRATOR, PLANS, Plan,
    process::{Found, Peer, look},
    ready, socket,
    spawn::{self, Started},
};
use crate::{
    cli::UpArgs,
    failure::{Exit, Failure},
    output::{Output, table::table},
    place::Place,
};

const ORPHANED: &str = "runs, and waits for the orchestrator";

/// Nobody is told what we wait for before this.
const PATIENCE: Duration = Duration::from_millis(700);

#[derive(Debug, Serialize)]
struct Line {
    service: &'static str,
    state: State,
    pid: Option<u32>,
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

pub async fn run(place: &Place, args: &UpArgs, output: &Output) -> Result<Exit, Failure> {
    let begin = Instant::now();
    place.local()?;
    place
        .root
        .create()
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let programs = spawn::programs(&PLANS)?;
    refuse_foreign(place).await?;

    let run = Run {
        place,
        begin,
        give_up: begin + args.wait,
        given_up: watch::Sender::new(false),
    };
    let waiting = std::cell::RefCell::new(PLANS.map(|plan| plan.service).to_vec());
    let each = PLANS.iter().zip(&programs).map(|(plan, program)| async {
        let line = run.one(plan, program).await;
        if line.service == ORCHESTRATOR && line.state == State::Failed {
            run.given_up.send_replace(true);
        }
        waiting.borrow_mut().retain(|service| *service != plan.service);
        line
    });
    let all = join_all(each);
    tokio::pin!(all);
    let lines = tokio::select! {
        lines = &mut all => lines,
        () = sleep_until(begin + PATIENCE) => {
            output.note(&format!("waiting for {} ...", waiting.borrow().join(", ")));
            all.await
        }
    };
    report(&lines, begin, output)
}

/// A socket that is not ours ends it before anything is started.
async fn refuse_foreign(place: &Place) -> Result<(), Failure> {
    for plan in &PLANS {
        let path = socket(place, plan.service)?;
        let shown = path.display();
        let found = look(&path)
            .await
            .map_err(|error| Failure::file("connect to", &path, &error))?;
        let problem = match found {
            Found::Absent | Found::Stale => continue,
            Found::Other => format!("{shown} exists and is not a socket"),
            Found::Denied => format!("{shown} belongs to another user"),
            Found::Running(peer) => match foreign(&peer, place) {
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

fn foreign(peer: &Peer, place: &Place) -> Option<String> {
    if !peer.is_ours() {
        return Some(format!("uid {} (pid {})", peer.uid, peer.pid));
    }
    peer.is_of_another_tree(&place.root.db_dir()).then(|| {
        format!(
            "the daemon of another NEXUS_ROOT (pid {}); this one is {}",
            peer.pid,
            place.root.path().display()
        )
    })
}

/// What the starts of all daemons share.
struct Run<'a> {
    place: &'a Place,
    begin: Instant,
    give_up: Instant,
    /// Set when the orchestrator did not come up: without it nobody becomes usable, so nobody waits any longer.
    given_up: watch::Sender<bool>,
}

/// How waiting for a daemon ended.
enum Seen {
    Usable(Result<(), Failure>),
    Ended(io::Result<ExitStatus>),
    Late,
    Orphaned,
}

impl Run<'_> {
    async fn one(&self, plan: &'static Plan, program: &Path) -> Line {
        let mut line = Line {
            service: plan.service,
            state: State::Failed,
            pid: None,
            ready_ms: None,
            socket: socket(self.place, plan.service).unwrap_or_default(),
            error: None,
            log: Vec::new(),
        };
        if let Ok(Found::Running(peer)) = look(&line.socket).await {
            self.adopt(&mut line, &peer).await;
            return line;
        }
        let mut started = match spawn::spawn(self.place, plan, program) {
            Ok(started) => started,
            Err(failure) => {
                line.error = Some(failure.message);
                return line;
            }
        };
        line.pid = Some(started.pid());
        self.follow(&mut line, &mut started).await;
        line
    }

    /// One that runs already is left alone, and waited for all the same.
    async fn adopt(&self, line: &mut Line, peer: &Peer) {
        line.pid = u32::try_from(peer.pid).ok();
        match self.wait(line, future::pending()).await {
            Seen::Usable(Ok(())) => line.state = State::Running,
            Seen::Usable(Err(failure)) => line.error = Some(failure.message),
            Seen::Orphaned => line.error = Some(ORPHANED.to_owned()),
            Seen::Late | Seen::Ended(_) => line.error = Some("runs, but does not become ready".to_owned()),
        }
    }

    /// Watches a daemon that we started until it is usable, has ended, or the time is up.
    async fn follow(&self, line: &mut Line, started: &mut Started) {
        match self.wait(line, started.ended()).await {
            Seen::Usable(Ok(())) => {
                line.state = State::Started;
                line.ready_ms = u64::try_from(self.begin.elapsed().as_millis()).ok();
                return;
            }
            Seen::Usable(Err(failure)) => line.error = Some(failure.message),
            Seen::Ended(Ok(status)) => {
                // Two commands at once: the other one's daemon won the socket, and serves us as well.
                if let Ok(Found::Running(peer)) = look(&line.socket).await
                    && foreign(&peer, self.place).is_none()
                {
                    return self.adopt(line, &peer).await;
                }
                line.error = Some(spawn::describe(status));
            }
            Seen::Ended(Err(error)) => line.error = Some(format!("failed to watch it: {error}")),
            Seen::Late => line.error = Some("did not become ready in time; it goes on trying".to_owned()),
            Seen::Orphaned => {
                line.error = Some(ORPHANED.to_owned());
                return;
            }
        }
        line.log = started.said();
        line.log.push(format!("(all of it: {})", started.log().display()));
    }

    async fn wait(&self, line: &Line, ended: impl Future<Output = io::Result<ExitStatus>>) -> Seen {
        let mut given_up = self.given_up.subscribe();
        let orphaned = given_up.wait_for(|given_up| *given_up && line.service != ORCHESTRATOR);
        tokio::select! {
            usable = usable(self.place, line) => Seen::Usable(usable),
            ended = ended => Seen::Ended(ended),
            _ = orphaned => Seen::Orphaned,
            () = sleep_until(self.give_up) => Seen::Late,
        }
    }
}

/// Serves, and is known to the orchestrator where it has to be.
async fn usable(place: &Place, line: &Line) -> Result<(), Failure> {
    let connection = ready::serving(place, &line.socket, "").await?;
    match line.service {
        ORCHESTRATOR => Ok(()),
        ASSISTANT => ready::connected(&connection).await,
        // What the orchestrator passes on is served under its own address as soon as it knows the daemon.
        name => ready::serving(place, place.local()?, name).await.map(drop),
    }
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
        let number =
            |number: Option<u64>, unit| number.map_or_else(|| "-".to_owned(), |number| format!("{number}{unit}"));
        [
            line.service.to_owned(),
            state.to_owned(),
            number(line.pid.map(u64::from), ""),
            number(line.ready_ms, " ms"),
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
        output.note("\nwhat did start goes on running; when the cause is gone: nexus up");
    }
    Ok(exit)
}
