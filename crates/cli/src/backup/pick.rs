//! Selects what a backup contains: all of `state/` except files that are created again, and secrets only on request.
//!
//! Below `state/` there are areas that containers and their users write: workspaces and volumes. Nothing there is what it
//! says it is. A file that looks like a database is copied as it is, and whatever cannot be copied is left out and named:
//! no area can make a backup fail.

use std::{
    collections::HashSet,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use nexus_backup::{LeftOut, manifest};
use nexus_walk::{Dir, Entry, Kind, Step, Walk};

/// Logs say what was, sockets and the worker's records say what runs: none of them is state.
const PASSING: [&str; 4] = ["logs", "run", "backups", "worker"];
/// What the sandbox unpacked, and what containers wrote into their own root.
const CONTAINERS: &str = "containers";
/// Endings of files that hold keys.
const SECRET_ENDINGS: [&str; 5] = ["age", "enc", "key", "pem", "p12"];

/// What becomes of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Take,
    /// A file of ours that may be a database: its head decides.
    TakeDatabase,
    /// Made again by itself: not worth a word.
    Pass,
    Leave(&'static str),
}

/// Below `state`, whether a file holds secrets.
pub fn is_secret(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    path == Path::new("nexus/keys.toml")
        || path == Path::new("nexus/own-token")
        || name == ".env"
        || SECRET_ENDINGS.contains(&ending)
        || (path.starts_with("credentials") && name != "index.json")
}

/// The directory that a container sees as its own, if the path is one or lies in one: `workspaces/SESSION` or
/// `volumes/SESSION/NAME`.
pub fn area(path: &Path) -> Option<PathBuf> {
    let parts = match path.components().next()?.as_os_str().to_str()? {
        "workspaces" => 2,
        "volumes" => 3,
        _ => return None,
    };
    let area: PathBuf = path.components().take(parts).collect();
    (area.components().count() == parts).then_some(area)
}

pub fn verdict(path: &Path, kind: Kind, with_keys: bool) -> Verdict {
    let passing = PASSING.iter().any(|name| path == Path::new(name));
    let in_area = area(path).is_some();
    match kind {
        _ if path.to_str().is_none() => Verdict::Leave("its name is not text"),
        _ if path.as_os_str().len() + "state/".len() > manifest::PATH_MAX => Verdict::Leave("its path is too long"),
        Kind::Dir if passing => Verdict::Pass,
        Kind::Dir if path == Path::new(CONTAINERS) => {
            Verdict::Leave("images can be pulled again; what containers wrote into their own root is not kept")
        }
        Kind::Dir => Verdict::Take,
        Kind::Link => Verdict::Leave("a link; what it points to is not part of the tree"),
        Kind::File if !in_area && is_passing(path) => Verdict::Pass,
        Kind::File if !with_keys && is_secret(path) => Verdict::Leave("holds secrets; --with-keys takes it along"),
        Kind::File if path.parent() == Some(Path::new("db")) => Verdict::TakeDatabase,
        Kind::File => Verdict::Take,
        Kind::Socket => Verdict::Pass,
        Kind::Fifo => Verdict::Leave("a named pipe"),
        Kind::CharDevice | Kind::BlockDevice | Kind::Unknown => Verdict::Leave("a device"),
    }
}

/// Locks, and what belongs to a database that is copied whole.
fn is_passing(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let beside = ["-wal", "-shm", "-journal"].iter().any(|end| name.ends_with(end));
    name.ends_with(".lock") || (beside && path.parent() == Some(Path::new("db")))
}

/// Which files hold our secrets, by what they are and not by where they are named: a second name of one in a workspace
/// is as secret.
pub fn secrets(state: &Dir) -> io::Result<HashSet<(u64, u64)>> {
    let mut found = HashSet::new();
    each(state, |path, entry, _| {
        if entry.meta.kind == Kind::File && area(path).is_none() && is_secret(path) {
            found.insert(entry.meta.id());
        }
        area(path).is_none()
    })?;
    Ok(found)
}

/// Every entry but those that a backup passes over, with its directory; `false` goes no further down. What cannot be read is
/// passed over too.
pub fn each(state: &Dir, mut see: impl FnMut(&Path, &Entry, &Dir) -> bool) -> io::Result<()> {
    let mut walk = Walk::new(state)?;
    while let Some(step) = walk.step() {
        let Step::Entry(entry) = step else { continue };
        let kind = entry.meta.kind;
        let path = walk.path();
        let passed = verdict(path, kind, true) == Verdict::Pass || (kind == Kind::Dir && path == Path::new(CONTAINERS));
        if passed || !see(path, &entry, walk.dir()) {
            walk.skip();
        }
    }
    Ok(())
}

/// About how much a backup reads, in bytes.
pub fn measure(state: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    each(&Dir::open(state)?, |path, entry, _| {
        let taken = entry.meta.kind == Kind::File && !is_passing(path);
        bytes = bytes.saturating_add(if taken {
            entry.meta.bytes.min(entry.meta.allocated)
        } else {
            0
        });
        true
    })?;
    Ok(bytes)
}

/// What was left out, as far as anybody reads.
#[derive(Debug, Default)]
pub struct LeftOuts {
    named: Vec<LeftOut>,
    more: u64,
}

impl LeftOuts {
    /// A container can make any number of things that are left out.
    const NAMED: usize = 10_000;

    pub fn add(&mut self, path: &Path, reason: impl Into<String>) {
        if self.named.len() < Self::NAMED {
            self.named.push(LeftOut::new(path, reason));
        } else {
            self.more += 1;
        }
    }

    pub fn finish(mut self) -> Vec<LeftOut> {
        if self.more > 0 {
            self.named.push(LeftOut {
                path: "…".to_owned(),
                reason: format!("and {} more", self.more),
            });
        }
        self.named
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_passes_and_what_is_secret_stays_out() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "logs/llm.log",
            "run/x.pid",
            "nexus/config.toml",
            "nexus/keys.toml",
            "nexus/own-token",
            "nexus/tokens.toml",
            "credentials/index.json",
            "credentials/vault.age",
            "db/x.lock",
            "agents/a/IDENTITY.md",
        ];
        for file in files {
            fs::create_dir_all(dir.path().join(file).parent().unwrap()).unwrap();
            fs::write(dir.path().join(file), "x").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let state = Dir::open(dir.path()).unwrap();
        let sorted = |with_keys| -> (Vec<String>, usize) {
            let (mut taken, mut left) = (Vec::new(), 0);
            each(&state, |path, entry, _| {
                match verdict(path, entry.meta.kind, with_keys) {
                    Verdict::Take | Verdict::TakeDatabase if entry.meta.kind == Kind::File => {
                        taken.push(format!("state/{}", path.display()));
                    }
                    Verdict::Leave(_) => left += 1,
                    _ => {}
                }
                true
            })
            .unwrap();
            (taken, left)
        };
        let plain = [
            "state/agents/a/IDENTITY.md",
            "state/credentials/index.json",
            "state/nexus/config.toml",
            "state/nexus/tokens.toml",
        ];
        let (names, left) = sorted(false);
        assert_eq!(names, plain);
        assert_eq!(sorted(true).0.len(), plain.len() + 3);
        assert_eq!(left, 4, "the link and three secrets are told");
    }

    #[test]
    fn an_area_is_what_one_container_sees() {
        let area = |path: &str| area(Path::new(path)).map(|area| area.display().to_string());
        assert_eq!(area("workspaces/s/a/b").as_deref(), Some("workspaces/s"));
        assert_eq!(area("volumes/s/v").as_deref(), Some("volumes/s/v"));
        assert!(area("volumes/s").is_none() && area("workspaces").is_none() && area("db/x.db").is_none());
        let lock = |path: &str| verdict(Path::new(path), Kind::File, false);
        assert_eq!(
            lock("workspaces/s/Cargo.lock"),
            Verdict::Take,
            "a lock of ours is not one of theirs"
        );
        assert_eq!(lock("db/x.lock"), Verdict::Pass);
        assert_eq!(lock("workspaces/s/x.db"), Verdict::Take);
    }
}
