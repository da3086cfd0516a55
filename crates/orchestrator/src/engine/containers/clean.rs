//! Removes the files of deleted sessions.
//!
//! A session's directory is moved into a trash directory by one rename, and emptied there in steps, so that nothing waits
//! for it however much it holds and however deep it is. What a crash leaves is found again at the next start. What cannot
//! be removed never stops a start: it is told in the log and by the service's health, with its path, and tried again.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use nexus_walk::{Dir, Trash};
use tokio_util::sync::CancellationToken;

use super::Containers;
use crate::domain::Error;

/// In each of the directories for workspaces and volumes.
const TRASH: &str = ".trash";
/// Entries that one step removes at most, and the pause after it, in which others have the disk.
const STEP: u32 = 256;
const PAUSE: Duration = Duration::from_millis(1);
/// What is left is looked for so often, and what failed is tried again after this.
const LOOK_EVERY: Duration = Duration::from_secs(600);
const AGAIN: Duration = Duration::from_secs(60);
/// As health names it.
const PART: &str = "workspaces";

impl Containers {
    /// Until the stop.
    pub(super) async fn clean(self, stop: CancellationToken) {
        loop {
            self.sweep().await;
            let cleaned = tokio::select! {
                () = stop.cancelled() => return,
                cleaned = self.clean_once() => cleaned,
            };
            let next = match cleaned {
                Ok(()) => LOOK_EVERY,
                Err(ref why) => {
                    tracing::warn!(error = %why, "failed to remove files of deleted sessions; trying again later");
                    AGAIN
                }
            };
            self.inner.health.degrade(PART, cleaned.err());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.thrown.notified() => {}
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    /// A session was deleted and its last container is gone: so are its files.
    pub(super) fn session_gone(&self, session: &str) {
        let (this, session) = (self.clone(), session.to_owned());
        tokio::spawn(async move {
            this.throw_away(&session).await;
            this.inner.thrown.notify_one();
        });
    }

    /// Nobody finds it by its name any more.
    async fn throw_away(&self, session: &str) {
        for parent in [&self.options().workspaces, &self.options().volumes] {
            let (parent, name) = (parent.clone(), session.to_owned());
            let path = parent.join(session);
            let thrown = tokio::task::spawn_blocking(move || throw(&parent, &name)).await;
            if let Ok(Err(error)) = thrown {
                let why = format!("{}: {error}", path.display());
                tracing::warn!(error = %why, "failed to remove the files of a session; it is tried again");
                self.inner.health.degrade(PART, Some(why));
            }
        }
    }

    /// Empties the trash.
    async fn clean_once(&self) -> Result<(), String> {
        let mut wrong = Ok(());
        for parent in [&self.options().workspaces, &self.options().volumes] {
            let told = |error: io::Error| format!("{}: {error}", parent.join(TRASH).display());
            let place = parent.clone();
            let opened = tokio::task::spawn_blocking(move || open(&place)).await;
            let mut removal = match opened.map_err(|panic| panic.to_string())?.map_err(told) {
                Ok(None) => continue,
                Ok(Some(removal)) => removal,
                Err(why) => {
                    wrong = Err(why);
                    continue;
                }
            };
            loop {
                let step = tokio::task::spawn_blocking(move || {
                    let progress = removal.step(STEP);
                    (removal, progress)
                });
                let (left, progress) = step.await.map_err(|panic| panic.to_string())?;
                removal = left;
                if progress.done {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            if let Some(first) = removal.problems().first() {
                let path = parent.join(TRASH).join(&first.path);
                wrong = Err(format!(
                    "{} stay, as {}: {}",
                    removal.failed(),
                    path.display(),
                    first.error
                ));
            }
        }
        wrong
    }

    /// Files of sessions that are gone, left by a run that was killed or by a removal that failed.
    async fn sweep(&self) {
        let mut names = BTreeSet::new();
        for parent in [&self.options().workspaces, &self.options().volumes] {
            let parent = parent.clone();
            let listed = tokio::task::spawn_blocking(move || list(&parent)).await;
            match listed {
                Ok(Ok(listed)) => names.extend(listed),
                Ok(Err(error)) => tracing::warn!(%error, "failed to look for files of deleted sessions"),
                Err(_) => {}
            }
        }
        for name in names {
            let known = self
                .engine()
                .open_session(&name, crate::domain::sessions::View::All)
                .await;
            let has_containers = || {
                self.engine()
                    .look(|ledger| ledger.state.containers.iter().any(|one| *one.session_id == *name))
            };
            if matches!(known, Err(Error::SessionNotFound(_))) && !has_containers() {
                self.throw_away(&name).await;
            }
        }
    }
}

/// Those of the names that can be a session's.
fn list(parent: &Path) -> io::Result<Vec<String>> {
    let dir = match Dir::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut names = Vec::new();
    for entry in dir.entries()? {
        let name = entry?.name;
        names.extend(
            name.to_str()
                .filter(|name| crate::domain::ids::number(name).is_some())
                .map(str::to_owned),
        );
    }
    Ok(names)
}

fn throw(parent: &Path, name: &str) -> io::Result<()> {
    let dir = match Dir::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    Trash::open(&dir, TRASH)?.take(&dir, name).map(drop)
}

/// `None` where there is nothing to do.
fn open(parent: &Path) -> io::Result<Option<nexus_walk::Removal>> {
    let dir = match Dir::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if !dir.exists(TRASH)? {
        return Ok(None);
    }
    let trash = Trash::open(&dir, TRASH)?;
    if trash.is_empty()? {
        return Ok(None);
    }
    trash.removal().map(Some)
}
