//! The state of one service under launchd, and how to change it. Everything goes through `launchctl`.
//!
//! Agents of one user only: nothing of Nexus needs to run before anybody has logged in to a Mac.

pub mod exec;
pub mod install;
mod plist;

use std::{path::PathBuf, time::Duration};

use super::{check, program};
use crate::failure::{Exit, Failure};

const PATIENCE: Duration = Duration::from_secs(60);

pub const SERVICES: [(&str, &str); 5] = [
    (
        "orchestrator",
        include_str!("../../../../../launchd/dev.nexus.orchestrator.plist"),
    ),
    ("llm", include_str!("../../../../../launchd/dev.nexus.llm.plist")),
    (
        "agent-assistant",
        include_str!("../../../../../launchd/dev.nexus.agent-assistant.plist"),
    ),
    (
        "agent-worker",
        include_str!("../../../../../launchd/dev.nexus.agent-worker.plist"),
    ),
    (
        "gateway",
        include_str!("../../../../../launchd/dev.nexus.gateway.plist"),
    ),
];

/// What launchd knows of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// `running`, `not running`, `spawn scheduled`, ...
    pub state: String,
    pub pid: Option<i32>,
    /// Starts so far.
    pub runs: u32,
    pub last_exit: Option<i32>,
}

pub fn label(service: &str) -> String {
    format!("dev.nexus.{service}")
}

/// Where this user's jobs run.
pub fn domain() -> String {
    format!("gui/{}", nix::unistd::getuid())
}

pub fn target(service: &str) -> String {
    format!("{}/{}", domain(), label(service))
}

pub fn file(service: &str) -> Result<PathBuf, Failure> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.ok_or_else(|| Failure::new(Exit::Failed, "HOME is not set"))?;
    Ok(PathBuf::from(home)
        .join("Library/LaunchAgents")
        .join(format!("{}.plist", label(service))))
}

/// `None` if it is not loaded.
pub async fn state(service: &str) -> Result<Option<State>, Failure> {
    let said = program::ask("launchctl", &["print", &target(service)], PATIENCE).await?;
    Ok(said.ok.then(|| parse(&said.out)))
}

/// Loads it if need be; launchd then keeps it running.
pub async fn start(service: &str) -> Result<(), Failure> {
    let file = known(service)?.display().to_string();
    if state(service).await?.is_none() {
        program::run("launchctl", &["bootstrap", &domain(), &file], PATIENCE).await?;
    }
    program::run("launchctl", &["kickstart", &target(service)], PATIENCE)
        .await
        .map(drop)
}

/// Until the next login, or the next start.
pub async fn stop(service: &str) -> Result<(), Failure> {
    known(service)?;
    if state(service).await?.is_none() {
        return Ok(());
    }
    program::run("launchctl", &["bootout", &target(service)], PATIENCE)
        .await
        .map(drop)
}

pub async fn restart(service: &str) -> Result<(), Failure> {
    if state(service).await?.is_none() {
        return start(service).await;
    }
    program::run("launchctl", &["kickstart", "-k", &target(service)], PATIENCE)
        .await
        .map(drop)
}

pub async fn enable(service: &str) -> Result<(), Failure> {
    known(service)?;
    program::run("launchctl", &["enable", &target(service)], PATIENCE)
        .await
        .map(drop)
}

pub async fn disable(service: &str) -> Result<(), Failure> {
    known(service)?;
    program::run("launchctl", &["disable", &target(service)], PATIENCE)
        .await
        .map(drop)
}

/// Its file, which must be there.
fn known(service: &str) -> Result<PathBuf, Failure> {
    if SERVICES.iter().all(|(name, _)| *name != service) {
        return Err(check::unknown(service));
    }
    let file = file(service)?;
    if file.is_file() {
        return Ok(file);
    }
    Err(Failure::new(Exit::NotFound, format!("{} is not there", file.display())).hint("nexus services install"))
}

/// `launchctl print` is made for people: `key = value`, one level in.
fn parse(said: &str) -> State {
    let value = |key: &str| {
        said.lines().find_map(|line| {
            let line = line.strip_prefix('\t').filter(|rest| !rest.starts_with('\t'))?;
            line.strip_prefix(key)?.strip_prefix(" = ")
        })
    };
    let number = |key| value(key).and_then(|text| text.split([' ', ':']).next()?.parse().ok());
    State {
        state: value("state").unwrap_or_default().to_owned(),
        pid: number("pid"),
        runs: value("runs").and_then(|text| text.parse().ok()).unwrap_or(0),
        last_exit: number("last exit code"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_launchctl_prints_is_read() {
        let said = "gui/501/dev.nexus.llm = {\n\tactive count = 1\n\tpath = /x.plist\n\tstate = running\n\n\
                    \tendpoints = {\n\t\tstate = no\n\t}\n\truns = 3\n\tpid = 412\n\tlast exit code = 78: EX_CONFIG\n}\n";
        let state = parse(said);
        assert_eq!(
            (state.state.as_str(), state.pid, state.runs, state.last_exit),
            ("running", Some(412), 3, Some(78))
        );
        let state = parse("x = {\n\tstate = not running\n\tlast exit code = (never exited)\n}\n");
        assert_eq!((state.pid, state.last_exit), (None, None));
    }
}
