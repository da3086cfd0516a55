//! Counts each user's workspaces and volumes: bytes on disk and files.
//!
//! Counting goes over the directories in the background, beneath their handles, and ends early where a share is used up.
//! A user over its share gets no further container, and those that run are stopped, as they may be what fills the disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nexus_walk::{Dir, Step, Walk};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Containers;
use crate::domain::Error;
use crate::domain::container::{Container, Phase};

const COUNT_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub bytes: u64,
    pub files: u64,
}

impl Used {
    fn is_over(self, share: Used) -> bool {
        self.bytes > share.bytes || self.files > share.files
    }
}

/// By the user of the host whom the directories belong to, as last counted.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<BTreeMap<u32, Used>>);

impl Containers {
    fn share(&self) -> Used {
        Used {
            bytes: self.options().user_bytes,
            files: self.options().user_files,
        }
    }

    /// Fails for a user who has more than its share.
    pub(super) fn check_share(&self, uid: u32) -> Result<(), Error> {
        let (share, used) = (
            self.share(),
            self.inner.shares.0.lock().get(&uid).copied().unwrap_or_default(),
        );
        let over = |what, max: u64, setting| {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            Err(Error::Limit { what, max, setting })
        };
        if used.bytes > share.bytes {
            return over(
                "bytes in the workspaces of this user",
                share.bytes,
                "orchestrator.container_user_bytes",
            );
        }
        if used.files > share.files {
            return over(
                "files in the workspaces of this user",
                share.files,
                "orchestrator.container_user_files",
            );
        }
        Ok(())
    }

    /// Until the stop.
    pub(super) async fn count(self, stop: CancellationToken) {
        // At the start, and then only while something runs that can write.
        let mut due = true;
        loop {
            if due {
                self.count_once().await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(COUNT_EVERY.min(self.options().sample_every)) => {}
            }
            due = self
                .engine()
                .look(|ledger| ledger.state.containers.iter().any(|one| one.phase == Phase::Running));
        }
    }

    async fn count_once(&self) {
        let parents = [self.options().workspaces.clone(), self.options().volumes.clone()];
        let share = self.share();
        let counted = tokio::task::spawn_blocking(move || count(&parents, share)).await;
        let Ok(counted) = counted else { return };
        *self.inner.shares.0.lock() = counted.clone();
        let over: Vec<u32> = counted
            .into_iter()
            .filter(|(_, used)| used.is_over(share))
            .map(|(uid, _)| uid)
            .collect();
        if over.is_empty() {
            return;
        }
        let running: Vec<Container> = self.engine().look(|ledger| {
            let all = ledger.state.containers.iter();
            all.filter(|one| one.phase == Phase::Running && !one.stopped)
                .cloned()
                .collect()
        });
        for one in running {
            let (this, creator) = (self.clone(), one.creator.clone());
            let owner = tokio::task::spawn_blocking(move || this.owner(&creator)).await;
            let Ok(owner) = owner else { continue };
            if !over.contains(&owner.user.uid) {
                continue;
            }
            tracing::warn!(container = %one.id, uid = owner.user.uid, "stopping a container: its user's workspaces exceed the limit");
            if let Err(error) = self.stop_now(&one, self.options().stop_timeout).await {
                tracing::warn!(%error, container = %one.id, "failed to stop a container; the next count tries again");
            }
        }
    }
}

/// Of each owner of a directory in these.
fn count(parents: &[PathBuf], share: Used) -> BTreeMap<u32, Used> {
    let mut used = BTreeMap::new();
    for parent in parents {
        // What cannot be read now is counted next time.
        let _unreadable = count_in(parent, share, &mut used);
    }
    used
}

fn count_in(parent: &Path, share: Used, used: &mut BTreeMap<u32, Used>) -> io::Result<()> {
    let dir = Dir::open(parent)?;
    for entry in dir.entries()? {
        let Ok(session) = dir.open_dir(entry?.name) else {
            continue;
        };
        let mut walk = Walk::new(&session)?.on_one_device()?;
        // A directory of volumes is ours; those in it are the owner's.
        let mut owner = session.own_meta()?.uid;
        while let Some(step) = walk.step() {
            let Step::Entry(entry) = step else { continue };
            if walk.depth() == 0 && owner == nix::unistd::geteuid().as_raw() {
                owner = entry.meta.uid;
            }
            let sum: &mut Used = used.entry(owner).or_default();
            sum.files += 1;
            // Of a file with several names each name has a part.
            sum.bytes += entry.meta.allocated / entry.meta.links.max(1);
            if sum.is_over(share) {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attack: a user fills the disk, or its table of files, from its workspaces.
    #[test]
    fn what_a_user_has_is_counted_and_no_further_than_its_share() {
        let place = tempfile::tempdir().unwrap();
        let session = place.path().join("session");
        std::fs::create_dir_all(session.join("deep/er")).unwrap();
        std::fs::write(session.join("deep/er/file"), vec![1; 100_000]).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let parents = [place.path().to_owned()];
        let share = Used {
            bytes: 1 << 40,
            files: 10,
        };
        let used = count(&parents, share)[&own];
        assert_eq!(used.files, 3);
        assert!(used.bytes >= 100_000 && !used.is_over(share), "{used:?}");
        for name in 0..100 {
            std::fs::write(session.join(name.to_string()), "").unwrap();
        }
        let used = count(&parents, share)[&own];
        assert!(used.is_over(share) && used.files == 11, "{used:?}");
    }
}
