//! One service under systemd: what it is doing, and telling it what to do. Everything goes through `systemctl`.

use std::time::{Duration, SystemTime};

use super::{
    Scope,
    files::{self, Entry},
    program,
};
use crate::failure::{Exit, Failure};

/// A question to the manager, which answers from memory.
const ASK: Duration = Duration::from_secs(10);
/// A start waits for READY, a stop for the drain; systemd's own limits are 90 s and 20 s.
const DO: Duration = Duration::from_secs(120);

const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,Result,\
                          ExecMainCode,ExecMainStatus,ExecMainExitTimestamp,StateChangeTimestamp";

#[derive(Clone, Copy, Debug)]
pub struct Systemd {
    scope: Scope,
}

/// What systemd knows of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub unit: String,
    /// `active`, `activating`, `deactivating`, `reloading`, `inactive` or `failed`.
    pub active: String,
    /// Finer: `running`, `auto-restart`, `dead`, ...
    pub sub: String,
    pub enabled: bool,
    pub pid: Option<i32>,
    pub since: Option<SystemTime>,
    pub restarts: u32,
    /// Why it is not running: `exit-code`, `signal`, `watchdog`, `start-limit-hit`, ...; `success` if all is well.
    pub result: String,
    pub last_exit: Option<Ended>,
    /// Its socket is held: who connects is served, now or when it is back.
    pub socket: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub at: Option<SystemTime>,
}

impl Systemd {
    pub fn new(scope: Scope) -> Systemd {
        Systemd { scope }
    }

    pub async fn version(self) -> Result<u32, Failure> {
        let said = program::run("systemctl", &["--version"], ASK).await?;
        version(&said).ok_or_else(|| Failure::new(Exit::Failed, "systemctl does not say which version it is"))
    }

    /// Whether the manager is there and answers.
    pub async fn answers(self) -> Result<(), Failure> {
        let hint = match self.scope {
            Scope::User => "as a user of its own session: log in, or loginctl enable-linger; without systemd: nexus up",
            Scope::System => "this host is run by another init system; without systemd: nexus up",
        };
        let asked = self.ask(&["show", "--property=Version"]).await;
        asked.map(drop).map_err(|failure| {
            let whose = match self.scope {
                Scope::User => "your systemd manager",
                Scope::System => "systemd",
            };
            Failure::new(Exit::NotRunning, format!("{whose} does not answer: {failure}")).hint(hint)
        })
    }

    /// `None` if there is no unit of it.
    pub async fn state(self, service: &str) -> Result<Option<State>, Failure> {
        Ok(self.states(&[service]).await?.pop().flatten())
    }

    /// All in one question, as each costs a process; `None` for one that has no unit.
    pub async fn states(self, services: &[&str]) -> Result<Vec<Option<State>>, Failure> {
        let entries: Vec<_> = services.iter().map(|service| files::find(service)).collect();
        let known: Vec<_> = entries.iter().copied().flatten().collect();
        if known.is_empty() {
            return Ok(services.iter().map(|_| None).collect());
        }
        let units: Vec<String> = known
            .iter()
            .flat_map(|entry| [entry.service_unit(), entry.socket_unit()])
            .collect();
        let mut args = vec!["show", "--timestamp=unix", PROPERTIES];
        args.extend(units.iter().map(String::as_str));
        let said = self.ask(&args).await?;
        let mut blocks = said.split("\n\n");
        let mut state = |entry: &Entry| {
            let (daemon, socket) = (blocks.next().unwrap_or_default(), blocks.next().unwrap_or_default());
            let mut state = parse(&entry.service_unit(), daemon)?;
            state.socket = value(socket, "ActiveState") == Some("active");
            Some(state)
        };
        Ok(entries.into_iter().map(|entry| entry.and_then(&mut state)).collect())
    }

    /// Returns when it is ready. What stopped it before (a crash loop, a wrong config) is forgotten.
    pub async fn start(self, service: &str) -> Result<(), Failure> {
        let entry = entry(service)?;
        self.forget(entry).await?;
        self.tell(&["start", &entry.socket_unit(), &entry.service_unit()]).await
    }

    /// The socket too: nobody's call starts it again.
    pub async fn stop(self, service: &str) -> Result<(), Failure> {
        let entry = entry(service)?;
        self.tell(&["stop", &entry.socket_unit(), &entry.service_unit()]).await
    }

    /// The socket stays: who connects meanwhile waits and is served.
    pub async fn restart(self, service: &str) -> Result<(), Failure> {
        let entry = entry(service)?;
        self.forget(entry).await?;
        self.tell(&["start", &entry.socket_unit()]).await?;
        self.tell(&["restart", &entry.service_unit()]).await
    }

    /// At the next login or boot; nothing is started now.
    pub async fn enable(self, service: &str) -> Result<(), Failure> {
        let entry = entry(service)?;
        self.tell(&["enable", "nexus.target", &entry.socket_unit(), &entry.service_unit()])
            .await
    }

    /// Not at the next login or boot; nothing is stopped now.
    pub async fn disable(self, service: &str) -> Result<(), Failure> {
        let entry = entry(service)?;
        self.tell(&["disable", &entry.socket_unit(), &entry.service_unit()])
            .await
    }

    async fn forget(self, entry: &Entry) -> Result<(), Failure> {
        let words = self.words(&["reset-failed", &entry.service_unit(), &entry.socket_unit()]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // A unit that is not loaded has nothing to forget, and that is said as a failure.
        program::ask("systemctl", &words, ASK).await.map(drop)
    }

    async fn tell(self, args: &[&str]) -> Result<(), Failure> {
        self.call(args, DO).await.map(drop)
    }

    async fn ask(self, args: &[&str]) -> Result<String, Failure> {
        self.call(args, ASK).await
    }

    async fn call(self, args: &[&str], patience: Duration) -> Result<String, Failure> {
        let words = self.words(args);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        program::run("systemctl", &words, patience).await
    }

    /// The arguments for this scope's manager.
    pub(super) fn words(self, args: &[&str]) -> Vec<String> {
        let scope = (self.scope == Scope::User).then_some("--user");
        scope
            .into_iter()
            .chain(args.iter().copied())
            .map(str::to_owned)
            .collect()
    }
}

fn entry(service: &str) -> Result<&'static Entry, Failure> {
    files::find(service).ok_or_else(|| super::check::unknown(service))
}

/// `systemd 252 (252.39-1~deb12u1)`
fn version(said: &str) -> Option<u32> {
    let word = said.lines().next()?.split(' ').nth(1)?;
    let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn value<'a>(block: &'a str, key: &str) -> Option<&'a str> {
    block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

fn parse(unit: &str, block: &str) -> Option<State> {
    let text = |key| value(block, key).unwrap_or_default().to_owned();
    let number = |key| value(block, key).and_then(|text| text.parse::<i32>().ok()).unwrap_or(0);
    let time = |key| {
        let seconds = value(block, key)?.strip_prefix('@')?.parse().ok()?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    };
    if text("LoadState") != "loaded" {
        return None;
    }
    let status = number("ExecMainStatus");
    // CLD_EXITED, CLD_KILLED, CLD_DUMPED of waitid(2).
    let last_exit = match number("ExecMainCode") {
        1 => Some((Some(status), None)),
        2 | 3 => Some((None, Some(status))),
        _ => None,
    };
    Some(State {
        unit: unit.to_owned(),
        active: text("ActiveState"),
        sub: text("SubState"),
        enabled: text("UnitFileState").starts_with("enabled"),
        pid: Some(number("MainPID")).filter(|pid| *pid > 0),
        since: time("StateChangeTimestamp"),
        restarts: u32::try_from(number("NRestarts")).unwrap_or(0),
        result: text("Result"),
        last_exit: last_exit.map(|(code, signal)| Ended {
            code,
            signal,
            at: time("ExecMainExitTimestamp"),
        }),
        socket: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = "Result=exit-code\nNRestarts=2\nExecMainExitTimestamp=@1700000005\nExecMainCode=1\n\
                          ExecMainStatus=78\nMainPID=0\nLoadState=loaded\nActiveState=failed\nSubState=failed\n\
                          UnitFileState=enabled\nStateChangeTimestamp=@1700000006\n";

    #[test]
    fn a_failure_is_read_with_its_code_and_time() {
        let state = parse("nexus-llm.service", FAILED).unwrap();
        assert_eq!((state.active.as_str(), state.result.as_str()), ("failed", "exit-code"));
        assert_eq!((state.pid, state.restarts, state.enabled), (None, 2, true));
        let ended = state.last_exit.unwrap();
        assert_eq!((ended.code, ended.signal), (Some(78), None));
        let since = state.since.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_secs(), 1_700_000_006);
    }

    #[test]
    fn a_unit_that_is_not_there_has_no_state() {
        assert_eq!(parse("x.service", "LoadState=not-found\nActiveState=inactive\n"), None);
    }

    #[test]
    fn versions_are_read_from_what_distributions_print() {
        assert_eq!(version("systemd 252 (252.39-1~deb12u1)\n+PAM +AUDIT"), Some(252));
        assert_eq!(version("systemd 258~rc2 (258~rc2-1)"), Some(258));
        assert_eq!(version("elogind"), None);
    }
}
