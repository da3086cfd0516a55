use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexus_config::{Origin, Root, Sources};
use tokio::task::JoinHandle;

use crate::boot;
use crate::daemon::{BootError, Daemon};
use crate::settings;
use crate::wake::{Clock, SystemClock};
use crate::{Health, Stop, Wake};

/// A daemon inside this process, on a real socket: no signals, no log, no environment. Stops when dropped.
pub struct Running {
    socket: PathBuf,
    tcp: Option<std::net::SocketAddr>,
    health: Health,
    stop: Stop,
    wake: Wake,
    task: Option<JoinHandle<Result<(), BootError>>>,
}

/// Starts `D` under `root`. Overrides are `("key", "value")` of its own section or `("common.key", "value")`.
/// Sockets not named lie in the root, never at a well-known place: two roots never meet.
///
/// # Errors
/// As in a process of its own.
pub async fn start<D: Daemon>(root: Root, overrides: &[(&str, &str)]) -> Result<Running, BootError> {
    start_by::<D>(root, overrides, None).await
}

/// As [`start`], with another clock than this host's.
///
/// # Errors
/// As in a process of its own.
pub async fn start_by<D: Daemon>(
    root: Root,
    overrides: &[(&str, &str)],
    clock: Option<Arc<dyn Clock>>,
) -> Result<Running, BootError> {
    let mut sources = Sources::new(&root);
    sources.flags = overrides
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let mut plan = settings::load::<D>(&sources).map_err(BootError::Config)?;
    if plan.shown.own.origin("socket_path") == Some(&Origin::Default) {
        plan.listen.socket = root.socket(&plan.service);
    }
    if plan.shown.common.origin("orchestrator") == Some(&Origin::Default) {
        plan.common.orchestrator = root.socket("orchestrator");
    }
    let (health, stop) = (Health::new(), Stop::new());
    let clock = match clock {
        Some(clock) => clock,
        None => Arc::new(
            SystemClock::new(plan.common.wake_check)
                .map_err(|error| BootError::Failed(format!("failed to make a timer: {error}")))?,
        ),
    };
    let Some(mut started) = boot::start(&plan, &health, &stop, clock).await? else {
        return Err(BootError::Failed("stopped itself while it was built".to_owned()));
    };
    let (socket, tcp, wake) = (started.socket.clone(), started.tcp, started.wake.clone());
    let stopping = stop.clone();
    let task = tokio::spawn(async move {
        started.served().await?;
        started.flushed().await?;
        match stopping.failure() {
            Some(reason) => Err(BootError::Failed(reason.to_owned())),
            None => Ok(()),
        }
    });
    Ok(Running {
        socket,
        tcp,
        health,
        stop,
        wake,
        task: Some(task),
    })
}

impl Running {
    /// The path of its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The TCP address as bound, if `tcp_listen` is set.
    pub fn tcp(&self) -> Option<std::net::SocketAddr> {
        self.tcp
    }

    /// What it tells of itself.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// What tells it that the host woke.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// What the daemon sees when it is asked to stop.
    pub fn stop_signal(&self) -> Stop {
        self.stop.clone()
    }

    /// Returns when everything is drained and flushed.
    pub async fn stop(self) {
        self.stopped().await.expect("a daemon that was up stops cleanly");
    }

    /// As [`Running::stop`], with what went wrong.
    ///
    /// # Errors
    /// The flush took too long, or serving had failed.
    pub async fn stopped(mut self) -> Result<(), BootError> {
        self.stop.trigger();
        match self.task.take() {
            Some(task) => task.await.map_err(|error| BootError::Failed(error.to_string()))?,
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}
