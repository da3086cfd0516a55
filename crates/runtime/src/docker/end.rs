//! Kills a command in a container, with everything that it started, when its timeout is over.
//!
//! The API cannot. Each command carries a variable that what it starts inherits; whoever has it, or descends from the
//! command, is killed: from the host where the container's processes can be seen and signalled, else from inside, with
//! the container's own shell. A program that drops the variable and leaves its parents is not found: a container whose
//! programs may do that has to be stopped instead.

#[cfg(target_os = "linux")]
use std::collections::BTreeSet;
use std::time::Duration;

use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::Docker;
use crate::{Error, Result};

pub(super) const VARIABLE: &str = "NEXUS_EXEC_ID";
/// Longest that looking and killing may take.
const DEATH: Duration = Duration::from_millis(800);
const AGAIN: Duration = Duration::from_millis(5);
/// Bytes of an environment that are looked at.
#[cfg(target_os = "linux")]
const ENVIRONMENT: u64 = 256 << 10;

/// What a command and all that it starts are known by.
pub(super) struct Mark {
    value: String,
}

impl Mark {
    pub fn new() -> Result<Mark> {
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes).map_err(|error| Error::Failed {
            engine: "docker",
            why: error.to_string(),
        })?;
        let value = hex::encode(bytes);
        Ok(Mark { value })
    }

    pub fn value(&self) -> &str {
        &self.value
    }
}

impl Docker {
    pub(super) async fn end_exec(&self, id: &str, exec: &str, mark: &Mark) -> Result<()> {
        let found = self
            .client
            .inspect_exec(exec)
            .await
            .map_err(|error| self.failed(error))?;
        let pid = found.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
        if let Some(pid) = pid
            && from_host(id, pid, mark).await
        {
            return Ok(());
        }
        self.end_inside(id, mark).await?;
        let until = Instant::now() + DEATH;
        while Instant::now() < until {
            let found = self
                .client
                .inspect_exec(exec)
                .await
                .map_err(|error| self.failed(error))?;
            if found.running != Some(true) {
                return Ok(());
            }
            tokio::time::sleep(AGAIN).await;
        }
        Err(Error::Failed {
            engine: self.kind.name(),
            why: "a command whose time is over cannot be ended in this container, which has no shell; stop the \
                  container"
                .into(),
        })
    }

    async fn end_inside(&self, id: &str, mark: &Mark) -> Result<()> {
        let script = format!(
            "for p in /proc/[0-9]*; do grep -q '{VARIABLE}={}' $p/environ 2>/dev/null && kill -9 ${{p#/proc/}}; done",
            mark.value
        );
        let config = ExecConfig {
            attach_stdout: Some(true),
            cmd: Some(["/bin/sh", "-c", &script].map(String::from).into()),
            ..ExecConfig::default()
        };
        // Twice: what was started meanwhile is found by the second look.
        for _ in 0..2 {
            let made = self.client.create_exec(id, config.clone()).await;
            let made = made.map_err(|error| self.failed_at(id, error))?.id;
            let started = self.client.start_exec(&made, None).await;
            if let Ok(StartExecResults::Attached { mut output, .. }) = started {
                let _slow = tokio::time::timeout(DEATH, async { while output.next().await.is_some() {} }).await;
            }
        }
        Ok(())
    }
}

/// Processes of another system are in its virtual machine.
#[cfg(not(target_os = "linux"))]
async fn from_host(_id: &str, _pid: i32, _mark: &Mark) -> bool {
    false
}

/// Whether all of it has ended. False where the processes of the container are not seen here, or are not ours to signal.
#[cfg(target_os = "linux")]
async fn from_host(id: &str, pid: i32, mark: &Mark) -> bool {
    let until = Instant::now() + DEATH;
    // Another host, or a virtual machine, has other processes by these numbers.
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if !cgroup.contains(id) {
        return false;
    }
    let (wanted, namespace) = (format!("{VARIABLE}={}", mark.value), pid_namespace(pid));
    let mut members = BTreeSet::from([pid]);
    while Instant::now() < until {
        let (wanted, namespace, known) = (wanted.clone(), namespace.clone(), members.clone());
        let looked = tokio::task::spawn_blocking(move || look(&wanted, namespace.as_deref(), known));
        let Ok(now) = looked.await else { return false };
        if now.is_empty() {
            return true;
        }
        for member in &now {
            let Some(member) = rustix::process::Pid::from_raw(*member) else {
                continue;
            };
            if rustix::process::kill_process(member, rustix::process::Signal::KILL) == Err(rustix::io::Errno::PERM) {
                return false;
            }
        }
        members = now;
        tokio::time::sleep(AGAIN).await;
    }
    false
}

#[cfg(target_os = "linux")]
fn pid_namespace(pid: i32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Those in the namespace that have the variable, or a member as their parent, and live.
#[cfg(target_os = "linux")]
fn look(wanted: &str, namespace: Option<&std::path::Path>, known: BTreeSet<i32>) -> BTreeSet<i32> {
    use std::io::Read;
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if namespace.is_none() || pid_namespace(pid).as_deref() != namespace {
            continue;
        }
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let mut fields = rest.split(' ');
        let (state, parent) = (
            fields.next(),
            fields.next().and_then(|parent| parent.parse::<i32>().ok()),
        );
        if matches!(state, Some("Z" | "X")) {
            continue;
        }
        let mut environment = Vec::new();
        let opened = std::fs::File::open(entry.path().join("environ"));
        let _unreadable = opened.and_then(|file| file.take(ENVIRONMENT).read_to_end(&mut environment));
        let marked = environment.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes());
        let below = parent.is_some_and(|parent| known.contains(&parent) || found.contains(&parent));
        if marked || below || known.contains(&pid) {
            found.insert(pid);
        }
    }
    found
}
