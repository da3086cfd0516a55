//! The services around a switch: what ran before, the supervisor that becomes another version, and whether all that was
//! of use is of use again, run from the right folder.
//!
//! A version's own `nexus` speaks to the daemons and the supervisor of that version; between versions only what
//! `--json` promises is relied on.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};

use super::journal::Before;
use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::Output,
    services::{
        control::{self, Action, Conversation, Request},
        logs,
        peer::{self, Found, Peer},
        table,
    },
};

const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// For a program that only looks, or prints.
pub const ASK: Duration = Duration::from_secs(30);
/// How long a supervisor may take to come up as another one.
const HAND_OVER: Duration = Duration::from_secs(15);
/// Lines of the log that are shown of one that did not come up.
const LINES: usize = 12;

/// One service as a version's `nexus services status --json` tells it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    pub id: String,
    pub desired: String,
    pub state: String,
    pub pid: Option<i32>,
    pub version: Option<String>,
    last_exit: Option<Ended>,
    #[serde(default)]
    checks: Vec<Check>,
}

#[derive(Clone, Debug, Deserialize)]
struct Ended {
    message: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Check {
    status: String,
    message: String,
}

#[derive(Deserialize)]
struct Answer {
    services: Vec<Seen>,
}

/// What a version's `nexus` is asked to do in this tree.
pub async fn ask(
    program: &Path,
    context: &Context,
    args: &[impl AsRef<OsStr>],
    patience: Duration,
) -> Result<std::process::Output, Failure> {
    let mut command = Command::new(program);
    command
        .args(args)
        .arg("--root")
        .arg(context.root.path())
        .env_remove("NEXUS_BIN_DIR")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(told) = &context.told {
        command.arg("--socket").arg(told);
    }
    match timeout(patience, command.output()).await {
        Ok(done) => done.map_err(|error| Failure::file("run", program, &error)),
        Err(_) => Err(Failure::new(
            Exit::TimedOut,
            format!("{} is not done after {} s", program.display(), patience.as_secs()),
        )),
    }
}

pub async fn look(program: &Path, context: &Context) -> Result<Vec<Seen>, Failure> {
    let done = ask(program, context, &["services", "status", "--json"], ASK).await?;
    let answer: Answer = serde_json::from_slice(&done.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Failure::new(
            Exit::Failed,
            format!(
                "{} does not report the status of the services: {said}",
                program.display()
            ),
        )
    })?;
    Ok(answer.services)
}

/// Those that are to run, as they are.
pub fn wanted(seen: &[Seen]) -> Vec<Before> {
    let runs = |one: &&Seen| one.desired == "running" || (one.pid.is_some() && one.state != "foreign");
    seen.iter()
        .filter(runs)
        .map(|one| Before {
            id: one.id.clone(),
            state: one.state.clone(),
        })
        .collect()
}

/// Has the supervisor become this program. One that cannot, or does not, is ended: the daemons go on without it, and
/// the next command starts one of its own version that takes them over. Where none runs there is nothing to do.
pub async fn hand_over(context: &Context, program: &Path) -> Result<(), Failure> {
    let Some(peer) = supervisor(context).await? else {
        return Ok(());
    };
    if !peer.is_ours() || runs_from(peer.pid, program) == Some(true) {
        return Ok(());
    }
    let pid = peer.pid;
    let asked = async {
        let socket = table::control_socket(&context.root);
        let Some(stream) = control::dial(&socket).await? else {
            return Ok(());
        };
        let program = program.to_path_buf();
        let request = Request::new(Action::HandOver { program }, &[]);
        // It says nothing if it does what it is asked: the line ends with the program that held it.
        Conversation::begin(stream, &request).await.map(drop)
    };
    let asked = asked.await;
    let give_up = Instant::now() + HAND_OVER;
    while asked.is_ok() && Instant::now() < give_up {
        if runs_from(pid, program) != Some(false) && answers(context).await {
            return Ok(());
        }
        if supervisor(context).await?.is_none() {
            return Ok(());
        }
        sleep(LOOK_AGAIN).await;
    }
    end(peer).await
}

/// `None` only if none runs: one that has too much to do is waited for.
async fn supervisor(context: &Context) -> Result<Option<Peer>, Failure> {
    let socket = table::control_socket(&context.root);
    let give_up = Instant::now() + HAND_OVER;
    loop {
        match peer::look(&socket).await {
            Ok(Found::Running(peer)) => return Ok(Some(peer)),
            Ok(Found::Absent | Found::Stale) => return Ok(None),
            Ok(Found::Other | Found::Denied) => {
                let said = format!("{} is not our supervisor's", socket.display());
                return Err(Failure::new(Exit::Refused, said));
            }
            Err(error) if Instant::now() >= give_up => return Err(Failure::file("connect to", &socket, &error)),
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}

async fn answers(context: &Context) -> bool {
    let asked = async {
        let stream = control::dial(&table::control_socket(&context.root)).await.ok()??;
        let request = Request::new(Action::Status, &[]);
        Conversation::begin(stream, &request).await.ok()?
    };
    timeout(Duration::from_secs(2), asked).await.ok().flatten().is_some()
}

async fn end(peer: Peer) -> Result<(), Failure> {
    let pid = peer.pid;
    let failed = |error| {
        Failure::new(
            Exit::Failed,
            format!("the supervisor (pid {pid}) cannot be ended: {error}"),
        )
    };
    let Some(held) = peer.hold().map_err(failed)? else {
        return Ok(());
    };
    held.signal(Signal::SIGKILL).map_err(failed)?;
    match timeout(Duration::from_secs(5), held.ended()).await {
        Ok(ended) => ended.map_err(failed),
        Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
    }
}

fn pid(seen: &[Seen], id: &str) -> Option<i32> {
    seen.iter().find(|seen| seen.id == id)?.pid
}

/// Whether a process runs a program of the folder that `program` lies in; `None` where the system does not tell.
fn runs_from(pid: i32, program: &Path) -> Option<bool> {
    let own = PathBuf::from(format!("/proc/{pid}/exe")).read_link().ok()?;
    Some(own.parent() == program.parent())
}

/// What holds a service up.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub service: String,
    pub why: String,
    pub log: Vec<String>,
}

/// What every service must be again.
pub struct Gate<'a> {
    pub context: &'a Context,
    /// The version's own `nexus`.
    pub program: &'a Path,
    /// What its daemons say of themselves.
    pub version: &'a str,
    pub before: &'a [Before],
    pub wait: Duration,
    /// How long all must go on as the same processes.
    pub stay: Duration,
}

enum Comparison {
    Fine,
    Not(String),
    /// Waiting changes nothing any more.
    Lost(String),
}

impl Gate<'_> {
    /// Restarts what does not run from this version's folder, and waits until all is as it was.
    pub async fn pass(&self, output: &Output) -> Result<(), Trouble> {
        let since = SystemTime::now();
        let late = |why: &Failure| self.trouble("nexus", why.message.clone(), since);
        let seen = look(self.program, self.context).await.map_err(|why| late(&why))?;
        let stale = |one: &&Before| {
            let now = seen.iter().find(|seen| seen.id == one.id);
            now.is_none_or(|now| !matches!(self.compare(one, now, now.pid), Comparison::Fine))
        };
        let stale: Vec<&str> = self.before.iter().filter(stale).map(|one| one.id.as_str()).collect();
        if stale.is_empty() {
            return Ok(());
        }
        output.note(&format!("restarting {} ...", stale.join(", ")));
        let wait = format!("{}ms", self.wait.as_millis());
        let mut args = vec!["services", "restart", "--json", "--wait", &wait];
        args.extend(&stale);
        let begin = Instant::now();
        // Its exit code says less than what is seen afterwards.
        let done = ask(self.program, self.context, &args, self.wait + ASK).await;
        done.map_err(|why| late(&why))?;
        self.watch(&seen, begin + self.wait, since, output).await
    }

    async fn watch(&self, first: &[Seen], give_up: Instant, since: SystemTime, output: &Output) -> Result<(), Trouble> {
        let mut told = false;
        let mut settled: Option<(Instant, Vec<Option<i32>>)> = None;
        loop {
            let seen = look(self.program, self.context).await;
            let seen = seen.map_err(|why| self.trouble("nexus", why.message, since))?;
            let mut waiting = Vec::new();
            for before in self.before {
                let now = seen.iter().find(|seen| seen.id == before.id);
                let pid = pid(first, &before.id);
                match now.map_or_else(
                    || Comparison::Lost("is not known any more".to_owned()),
                    |now| self.compare(before, now, pid),
                ) {
                    Comparison::Fine => {}
                    Comparison::Lost(why) => return Err(self.trouble(&before.id, why, since)),
                    Comparison::Not(why) => waiting.push((before.id.clone(), why)),
                }
            }
            let pids: Vec<Option<i32>> = self.before.iter().map(|before| pid(&seen, &before.id)).collect();
            if let Some((_, first)) = &settled
                && let Some(changed) = (0..pids.len()).find(|index| first[*index] != pids[*index])
            {
                let why = "does not stay: it ended once it was ready".to_owned();
                return Err(self.trouble(&self.before[changed].id, why, since));
            }
            let Some((service, why)) = waiting.first() else {
                let (since, _) = settled.get_or_insert((Instant::now(), pids));
                if since.elapsed() >= self.stay {
                    return Ok(());
                }
                sleep(LOOK_AGAIN).await;
                continue;
            };
            if Instant::now() >= give_up {
                return Err(self.trouble(service, format!("{why} in time"), since));
            }
            if !std::mem::replace(&mut told, true) {
                let names: Vec<&str> = waiting.iter().map(|(name, _)| name.as_str()).collect();
                output.note(&format!("waiting for {} ...", names.join(", ")));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Ready again if it was, from the right folder, and of the right version. Of one that was not well nothing is
    /// asked but that it is what this version runs. Where the system does not tell what runs (a daemon may hide it from
    /// all but root), a process that `old` is not is taken to be it: nobody else starts them.
    fn compare(&self, before: &Before, now: &Seen, old: Option<i32>) -> Comparison {
        let words = || {
            let ended = now.last_exit.as_ref().map(|ended| ended.message.clone());
            let check = now.checks.iter().find(|check| check.status == "fail");
            ended
                .or_else(|| check.map(|check| check.message.clone()))
                .unwrap_or_default()
        };
        let was_well = matches!(before.state.as_str(), "ready" | "degraded");
        let fine = match before.state.as_str() {
            "ready" => now.state == "ready",
            "degraded" => matches!(now.state.as_str(), "ready" | "degraded"),
            _ => true,
        };
        if was_well && matches!(now.state.as_str(), "failed" | "backoff") {
            return Comparison::Lost(format!("does not stay: it {}", words()));
        }
        if was_well && !fine {
            return Comparison::Not("did not become ready".to_owned());
        }
        let Some(pid) = now.pid else {
            return match was_well {
                true => Comparison::Not("did not start".to_owned()),
                false => Comparison::Fine,
            };
        };
        let runs = runs_from(pid, self.program);
        if runs.is_none() && old == Some(pid) {
            return Comparison::Not("was not restarted".to_owned());
        }
        if runs == Some(false) {
            let bin = self.program.parent().unwrap_or(self.program);
            return Comparison::Not(format!("was not started from {}", bin.display()));
        }
        match now.version.as_deref().filter(|version| !version.is_empty()) {
            Some(version) if version != self.version => {
                Comparison::Not(format!("did not become version {} (it says {version})", self.version))
            }
            _ => Comparison::Fine,
        }
    }

    fn trouble(&self, service: &str, why: String, since: SystemTime) -> Trouble {
        Trouble {
            service: service.to_owned(),
            why,
            log: logs::last(&self.context.root, service, since, LINES),
        }
    }
}
