//! The host's init system as the manager of the services, behind the same interface as our own supervisor.
//!
//! It is the manager where it has units of ours for this very `NEXUS_ROOT`: another tree's are another tree's.

use std::{fs, path::Path, time::SystemTime};

use futures_util::future::{join_all, try_join_all};

use super::{Kind, Scope, escape, files, launchd, systemd};
use crate::{
    context::Context,
    failure::Failure,
    services::survey,
    supervise::{
        model::{
            Change, Check, Desired, LastError, LastExit, Manager as Name, Service, Snapshot, State, Verdict, stamp,
        },
        programs,
        table::{self, TABLE},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    Systemd(Scope),
    Launchd,
}

/// Who keeps the services of this tree running; `None` if our own supervisor is to.
pub fn of(context: &Context) -> Option<Manager> {
    let root = context.root.path();
    match Kind::of_this_host() {
        Kind::Launchd => {
            let file = launchd::file("orchestrator").ok()?;
            let text = fs::read_to_string(file).ok()?;
            text.contains(&format!(">{}<", root.display()))
                .then_some(Manager::Launchd)
        }
        Kind::Systemd => {
            let scopes = [Scope::User, Scope::System];
            scopes
                .into_iter()
                .find(|scope| is_of(*scope, root))
                .map(Manager::Systemd)
        }
    }
}

fn is_of(scope: Scope, root: &Path) -> bool {
    let Ok(path) = escape::plain(root) else { return false };
    let line = format!("Environment={}", escape::word(&format!("NEXUS_ROOT={path}")));
    let has = |folder: &Path, unit: &str| {
        fs::read_to_string(folder.join(unit)).is_ok_and(|text| text.lines().any(|found| found == line))
    };
    scope
        .folder()
        .is_ok_and(|folder| files::TABLE.iter().any(|entry| has(&folder, entry.daemon.name)))
}

impl Manager {
    /// Done when it returns. The services are in the order in which they start.
    pub async fn change(self, change: Change, services: &[String]) -> Result<(), Failure> {
        let backwards = matches!(change, Change::Stop | Change::Disable);
        let mut services: Vec<&str> = services.iter().map(String::as_str).collect();
        if backwards {
            services.reverse();
        }
        for service in services {
            match self {
                Manager::Systemd(scope) => by_systemd(scope.systemd(), change, service).await?,
                Manager::Launchd => by_launchd(change, service).await?,
            }
        }
        Ok(())
    }

    /// What it knows of each service, with what the daemons wrote down of themselves; `deep` asks them too.
    pub async fn look(self, context: &Context, deep: bool) -> Result<Snapshot, Failure> {
        let sockets = table::sockets(context)?;
        let known = self.known().await?;
        let each = TABLE.iter().zip(&sockets).zip(known);
        let each = each.map(|((entry, socket), known)| async move {
            // Who listens where nothing of the init system's should is worth a look.
            if known.as_ref().is_none_or(|known| !known.is_held()) {
                let found = survey::one(context, entry, socket, Desired::Stopped).await;
                if found.pid.is_some() {
                    return found;
                }
            }
            let mut service = survey::unseen(context, entry, socket, Desired::Stopped);
            match known {
                Some(Known::Systemd(state)) => put_systemd(context, &mut service, &state),
                Some(Known::Launchd(state)) => put_launchd(context, &mut service, state),
                None => {}
            }
            service
        });
        let snapshot = Snapshot::new(join_all(each).await, None);
        if deep {
            survey::deepen(context, snapshot).await
        } else {
            Ok(snapshot)
        }
    }

    async fn known(self) -> Result<Vec<Option<Known>>, Failure> {
        let names: Vec<&str> = TABLE.iter().map(|entry| entry.name).collect();
        match self {
            Manager::Systemd(scope) => {
                let states = scope.systemd().states(&names).await?;
                Ok(states.into_iter().map(|state| state.map(Known::Systemd)).collect())
            }
            Manager::Launchd => {
                let states = try_join_all(names.into_iter().map(launchd::state)).await?;
                Ok(states.into_iter().map(|state| Some(Known::Launchd(state))).collect())
            }
        }
    }
}

/// What the init system knows of a service that it has.
enum Known {
    Systemd(systemd::State),
    Launchd(Option<launchd::State>),
}

impl Known {
    /// Its socket is the init system's, or its daemon's.
    fn is_held(&self) -> bool {
        match self {
            Known::Systemd(state) => state.socket || state.pid.is_some(),
            Known::Launchd(state) => state.is_some(),
        }
    }
}

async fn by_systemd(systemd: systemd::Systemd, change: Change, service: &str) -> Result<(), Failure> {
    match change {
        Change::Start => systemd.start(service).await,
        Change::Stop => systemd.stop(service).await,
        Change::Restart => systemd.restart(service).await,
        Change::Enable => systemd.enable(service).await,
        Change::Disable => {
            systemd.stop(service).await?;
            systemd.disable(service).await
        }
    }
}

async fn by_launchd(change: Change, service: &str) -> Result<(), Failure> {
    match change {
        Change::Start => launchd::start(service).await,
        Change::Stop => launchd::stop(service).await,
        Change::Restart => launchd::restart(service).await,
        Change::Enable => launchd::enable(service).await,
        Change::Disable => {
            launchd::stop(service).await?;
            launchd::disable(service).await
        }
    }
}

fn put_systemd(context: &Context, service: &mut Service, state: &systemd::State) {
    service.manager = Name::Systemd;
    service.enabled_at_login = state.enabled;
    service.pid = state.pid;
    service.start_time = state.pid.and_then(crate::supervise::process::start_time);
    service.since = state.since.map(stamp);
    service.restarts = state.restarts;
    service.last_exit = state.last_exit.map(|ended| LastExit {
        code: ended.code,
        signal: ended.signal,
        forced: false,
        message: ended
            .code
            .and_then(programs::meaning)
            .map_or_else(|| state.result.clone(), str::to_owned),
        at: ended.at.map(stamp).unwrap_or_default(),
    });
    service.desired = match (state.enabled, state.active.as_str()) {
        (_, "active" | "activating" | "reloading" | "failed") => Desired::Running,
        (true, _) => Desired::Stopped,
        (false, _) => Desired::Disabled,
    };
    let seen = match (state.active.as_str(), state.sub.as_str()) {
        (_, "auto-restart") => Some(State::Backoff),
        ("activating", _) => Some(State::Starting),
        ("deactivating", _) => Some(State::Stopping),
        ("failed", _) => Some(State::Failed),
        ("inactive", _) => Some(State::Stopped),
        // It runs: how well is what it said itself.
        _ => None,
    };
    let Some(seen) = seen else {
        return survey::recall(context, service, state.fed);
    };
    service.state = seen;
    if matches!(seen, State::Failed | State::Backoff) {
        let code = state.last_exit.and_then(|ended| ended.code);
        let fix = code.and_then(|code| programs::remedy(code, &service.id));
        let fix = fix.unwrap_or_else(|| format!("nexus services logs {0}; then: nexus services start {0}", service.id));
        let message = match &service.last_exit {
            Some(exit) if state.result == "exit-code" => exit.message.clone(),
            _ => format!("systemd says {}", state.result),
        };
        service.last_error = service.last_exit.as_ref().map(|exit| LastError {
            message: message.clone(),
            at: exit.at.clone(),
        });
        service.checks.push(failed(message, fix));
    }
}

fn put_launchd(context: &Context, service: &mut Service, state: Option<launchd::State>) {
    service.manager = Name::Launchd;
    service.enabled_at_login = state.is_some();
    let Some(state) = state else {
        service.desired = Desired::Stopped;
        return;
    };
    service.desired = Desired::Running;
    service.pid = state.pid;
    service.restarts = state.runs.saturating_sub(1);
    service.start_time = state.pid.and_then(crate::supervise::process::start_time);
    if state.pid.is_some() {
        survey::recall(context, service, None);
    } else {
        service.state = State::Failed;
        let fix = format!("nexus services logs {0}; then: nexus services start {0}", service.id);
        service
            .checks
            .push(failed(format!("launchd says {}", state.state), fix));
    }
}

fn failed(message: String, fix: String) -> Check {
    Check {
        id: "unit".to_owned(),
        status: Verdict::Fail,
        message,
        observed_at: stamp(SystemTime::now()),
        latency_ms: None,
        fix: Some(fix),
    }
}
