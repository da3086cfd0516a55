//! The status file of this daemon, beside its socket: for readers that do not want to call the daemon.
//!
//! ```text
//! Health ──▶ changed ──▶ state/run/<service>.json   read by the supervisor and by `nexus services status`
//!                   └──▶ STATUS=                    kept by systemd
//! ```
//!
//! It is there before READY and goes with a clean stop. One that a killed daemon left tells of a process that is no more.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nexus_config::Root;
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{Health, Stop, ready::tell};

/// Between two writes: what changes in quick succession is not worth one each.
const PAUSE: Duration = Duration::from_millis(50);

/// The status of a daemon, as its status file holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusFile {
    /// The process id.
    pub pid: u32,
    /// The version of its program.
    pub version: String,
    /// Whether it serves.
    pub serving: bool,
    /// The degraded parts, each with its reason.
    #[serde(rename = "limping")]
    pub degraded: BTreeMap<String, String>,
    /// Why it is not registered with the orchestrator.
    pub unlinked: Option<String>,
    /// The credentials that its settings name, and whether they could be read. Never a value.
    pub credentials: Vec<Credential>,
    /// After the last sleep, freeze or jump of the clock.
    pub recovered: Option<String>,
    /// When this was written, RFC 3339.
    pub observed_at: String,
}

/// A credential that the settings name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// Where its secret is: `keyring:x`. Never the secret.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The kind of store behind it: `keyring`, `op`, `file`, ...
    pub provider: String,
    /// `ok`, `pending`, or the kind of error: `locked`, `not-found`, ...
    pub status: String,
}

impl StatusFile {
    /// Where the file of `service` is.
    pub fn file(root: &Root, service: &str) -> PathBuf {
        root.run_dir().join(format!("{service}.json"))
    }

    /// `None` if there is none of this process: it has not said anything, or a file of another one lies there.
    pub fn of(pid: u32, file: &Path) -> Option<StatusFile> {
        let told: StatusFile = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        (told.pid == pid).then_some(told)
    }

    /// Whether somebody has to unlock a store.
    pub fn waits(&self) -> bool {
        self.credentials.iter().any(|credential| credential.status == "locked")
    }

    /// Whether it is still reading a credential.
    pub fn is_asking(&self) -> bool {
        self.credentials.iter().any(|credential| credential.status == "pending")
    }

    /// The degraded parts, in one line.
    pub fn trouble(&self) -> Option<String> {
        let unlinked = self.unlinked.iter().map(|why| ("registration", why));
        let parts = self.degraded.iter().map(|(part, why)| (part.as_str(), why));
        let parts: Vec<String> = parts
            .chain(unlinked)
            .map(|(part, why)| format!("{part}: {why}"))
            .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    fn new(health: &Health) -> StatusFile {
        StatusFile {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            serving: health.is_serving("").unwrap_or_default(),
            degraded: health.degraded().into_iter().collect(),
            unlinked: health.link(),
            credentials: health.credentials(),
            recovered: health.recovered(),
            observed_at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        }
    }

    fn status(&self) -> String {
        match (self.trouble(), &self.recovered) {
            (Some(trouble), _) => format!("serves, but {trouble}"),
            (None, Some(recovered)) => format!("serves; {recovered}"),
            (None, None) => "serves".to_owned(),
        }
    }

    fn write(&self, file: &Path) -> io::Result<()> {
        let fresh = file.with_extension("json.new");
        fs::write(&fresh, serde_json::to_vec(self)?)?;
        fs::rename(&fresh, file)
    }
}

/// Returns it in one line.
pub(crate) fn write(file: &Path, health: &Health) -> String {
    let standing = StatusFile::new(health);
    if let Err(error) = standing.write(file) {
        tracing::warn!(%error, file = %file.display(), "failed to write the status file");
        // An older word would be a wrong one.
        let _gone = fs::remove_file(file);
    }
    standing.status()
}

/// Said again at each change since `changed` was taken, and taken back at the stop. `told` is what was said in a line.
pub(crate) async fn keep(
    file: PathBuf,
    health: Health,
    mut changed: watch::Receiver<u64>,
    mut told: String,
    stop: Stop,
) {
    loop {
        tokio::select! {
            () = stop.requested() => break,
            _ = changed.changed() => {}
        }
        let status = write(&file, &health);
        if status != told {
            tell(&[NotifyState::Status(&status)]);
            told = status;
        }
        tokio::select! {
            () = stop.requested() => break,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    let _gone = fs::remove_file(&file);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_change_is_told_and_a_stop_takes_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("llm.json");
        let (health, stop) = (Health::new(), Stop::new());
        health.ready();
        let changed = health.changed();
        let status = write(&file, &health);
        let pid = std::process::id();
        let told = StatusFile::of(pid, &file).unwrap();
        assert!(told.serving && told.degraded.is_empty());
        assert_eq!(StatusFile::of(pid + 1, &file), None, "of another process");

        let keeping = tokio::spawn(keep(file.clone(), health.clone(), changed, status, stop.clone()));
        tokio::task::yield_now().await;
        health.degrade("credentials", Some("keyring:x is locked".into()));
        health.named([Credential {
            reference: "keyring:x".into(),
            provider: "keyring".into(),
            status: "locked".into(),
        }]);
        let told = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                match StatusFile::of(pid, &file).filter(StatusFile::waits) {
                    Some(told) => return told,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        let told = told.await.unwrap();
        assert_eq!(told.status(), "serves, but credentials: keyring:x is locked");
        stop.trigger();
        keeping.await.unwrap();
        assert!(!file.exists());
    }
}
