//! One service under systemd: what it is doing, asked at its socket, and telling it what to do, through `systemctl`.

mod bus;

use std::time::{Duration, SystemTime};

use super::{
    Scope, check,
    files::{self, Entry},
    program,
};
use crate::failure::{Exit, Failure};

/// A question to the manager, which answers from memory.
const ASK: Duration = Duration::from_secs(10);
/// A start waits for READY, a stop for the drain; systemd's own limits are 90 s and 20 s.
const DO: Duration = Duration::from_secs(120);

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
    /// When it last said that it really answers.
    pub fed: Option<SystemTime>,
    /// Its socket is held: who connects is served, now or when it is back.
    pub socket: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub at: Option<SystemTime>,
}

impl Ended {
    /// Of CLD_EXITED, CLD_KILLED, CLD_DUMPED of waitid(2), and what belongs to it.
    fn new(how: i32, status: i32, at: Option<SystemTime>) -> Option<Ended> {
        let (code, signal) = match how {
            1 => (Some(status), None),
            2 | 3 => (None, Some(status)),
            _ => return None,
        };
        Some(Ended { code, signal, at })
    }
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

    /// All in one question; `None` for one that has no unit.
    pub async fn states(self, services: &[&str]) -> Result<Vec<Option<State>>, Failure> {
        let entries: Vec<_> = services.iter().map(|service| files::find(service)).collect();
        let known = entries.iter().copied().flatten();
        let units: Vec<_> = known.map(|entry| (entry.service_unit(), entry.socket_unit())).collect();
        let mut states = bus::states(self.scope, &units).await?.into_iter();
        let state = |entry: Option<&Entry>| entry.and_then(|_| states.next().flatten());
        Ok(entries.into_iter().map(state).collect())
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
    files::find(service).ok_or_else(|| check::unknown(service))
}

/// `systemd 252 (252.39-1~deb12u1)`
fn version(said: &str) -> Option<u32> {
    let word = said.lines().next()?.split(' ').nth(1)?;
    let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_code_or_a_signal() {
        let at = Some(SystemTime::UNIX_EPOCH);
        assert_eq!(
            Ended::new(1, 78, at).map(|ended| (ended.code, ended.signal)),
            Some((Some(78), None))
        );
        assert_eq!(
            Ended::new(3, 6, at).map(|ended| (ended.code, ended.signal)),
            Some((None, Some(6)))
        );
        assert_eq!(Ended::new(0, 0, None), None);
    }

    #[test]
    fn versions_are_read_from_what_distributions_print() {
        assert_eq!(version("systemd 252 (252.39-1~deb12u1)\n+PAM +AUDIT"), Some(252));
        assert_eq!(version("systemd 258~rc2 (258~rc2-1)"), Some(258));
        assert_eq!(version("elogind"), None);
    }
}
