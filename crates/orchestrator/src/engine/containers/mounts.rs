//! Resolves the mounts of a container: its session's directory, volumes, and allowed host paths.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nexus_proto::orchestrator::v1::{ContainerConfig, MountType, SessionPolicy};
use nexus_runtime::{HostUser, Mount, MountKind};
use nexus_walk::{Dir, Kind, Step, Walk};
use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Uid, fchownat};

use super::Containers;
use crate::domain::Error;
use crate::domain::container::policy::WORKSPACE;

/// Mounts as an engine takes them, and for each path of the host what it was when it was looked at.
#[derive(Debug)]
pub(super) struct ResolvedMounts {
    pub mounts: Vec<Mount>,
    /// The user whose rights the container has on them.
    pub owner: HostUser,
    /// Paths of the host that were asked for, and whether they are to be written to.
    asked: Vec<(PathBuf, bool)>,
    seen: Vec<(PathBuf, u64, u64)>,
}

impl ResolvedMounts {
    /// Whether every path is still what it was: a link put there meanwhile would lead elsewhere.
    pub fn check(&self) -> Result<(), Error> {
        for (path, device, inode) in &self.seen {
            let now = std::fs::symlink_metadata(path);
            let same = now.is_ok_and(|now| (now.dev(), now.ino()) == (*device, *inode));
            if !same || path.canonicalize().ok().as_ref() != Some(path) {
                return Err(Error::Forbidden(format!(
                    "{} is not what it was when it was allowed",
                    path.display()
                )));
            }
        }
        Ok(())
    }
}

impl Containers {
    /// Whether the owner may use the paths of the host that were asked for, with its own rights.
    pub(super) async fn check_rights(&self, place: &ResolvedMounts) -> Result<(), Error> {
        if place.asked.is_empty() {
            return Ok(());
        }
        let allowed = self.inner.runtime.access(&place.owner, place.asked.clone()).await;
        allowed.map_err(|error| match error {
            nexus_runtime::Error::Denied(why) => Error::Forbidden(format!(
                "{why}; the session's containers have the rights of user {} on this host \
                 (orchestrator.container_owners)",
                place.owner.uid
            )),
            error => Error::Runtime(error),
        })
    }

    /// Blocks: it makes directories.
    pub(super) fn place(
        &self,
        (session, creator): (&str, &str),
        policy: &SessionPolicy,
        config: &ContainerConfig,
    ) -> Result<ResolvedMounts, Error> {
        let owner = self.owner(creator);
        let workspace = made(&self.options().workspaces, session, &owner.user)?;
        let mut place = ResolvedMounts {
            mounts: Vec::new(),
            owner: owner.user,
            seen: Vec::new(),
            asked: Vec::new(),
        };
        place.mounts.push(owned(&workspace, WORKSPACE, false));
        for mount in &config.mounts {
            let source = match MountType::try_from(mount.r#type) {
                Ok(MountType::Tmpfs) => {
                    place.mounts.push(Mount {
                        kind: MountKind::Tmpfs { bytes: 0 },
                        target: (&mount.target).into(),
                        read_only: mount.read_only,
                    });
                    continue;
                }
                Ok(MountType::Volume) => {
                    let volumes = self.options().volumes.join(session);
                    let volume = made(&volumes, &mount.source, &place.owner)?;
                    place.mounts.push(owned(&volume, &mount.target, mount.read_only));
                    continue;
                }
                _ => {
                    if !owner.is_caller {
                        return Err(Error::Forbidden(format!(
                            "{}: {creator} is no user that containers here can act for; \
                             orchestrator.container_owners can name one",
                            mount.source
                        )));
                    }
                    let source = self.resolved(creator, policy, &mount.source)?;
                    let found = std::fs::symlink_metadata(&source).map_err(|error| unusable(&source, &error))?;
                    place.seen.push((source.clone(), found.dev(), found.ino()));
                    place.asked.push((source.clone(), !mount.read_only));
                    source
                }
            };
            place.mounts.push(bind(&source, &mount.target, mount.read_only));
        }
        Ok(place)
    }

    /// The path with all links followed, if that is still below a path that is allowed.
    fn resolved(&self, creator: &str, policy: &SessionPolicy, source: &str) -> Result<PathBuf, Error> {
        let real = Path::new(source)
            .canonicalize()
            .map_err(|error| unusable(Path::new(source), &error))?;
        let below = |root: &Path| root.canonicalize().is_ok_and(|root| real.starts_with(root));
        let forbidden = |what: String| Err(Error::Forbidden(what));
        let asked = policy
            .allowed_paths
            .iter()
            .filter(|root| Path::new(source).starts_with(root));
        if !asked.map(Path::new).any(below) {
            return forbidden(format!("{source} leads out of allowed_paths of the session"));
        }
        let paths = &self.options().paths;
        if paths.is_empty() {
            let own = format!("uid:{}", nix::unistd::geteuid());
            if creator != own {
                return forbidden(format!(
                    "{source}: orchestrator.container_paths names no path, and the session is not of our own user"
                ));
            }
        } else if !paths.iter().any(|root| below(root)) {
            return forbidden(format!("{source} is not below orchestrator.container_paths"));
        }
        let state = self
            .options()
            .state
            .canonicalize()
            .unwrap_or_else(|_| self.options().state.clone());
        if real.starts_with(&state) || state.starts_with(&real) {
            return forbidden(format!("{source} holds what is the orchestrator's own"));
        }
        if !std::fs::metadata(&real).is_ok_and(|found| found.is_dir() || found.is_file()) {
            return forbidden(format!("{source} is neither a file nor a directory"));
        }
        Ok(real)
    }
}

fn owned(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        kind: MountKind::Owned(source.into()),
        target: target.into(),
        read_only,
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        kind: MountKind::Bind(source.into()),
        target: target.into(),
        read_only,
    }
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    Error::Invalid(format!("config.mounts: {}: {error}", path.display()))
}

/// A directory in one of ours that only its owner may enter; it is made if it is not there. Only root can give it away.
fn made(parent: &Path, name: &str, owner: &HostUser) -> Result<PathBuf, Error> {
    let path = parent.join(name);
    let make = || {
        // Commands of a backend without namespaces of users have to pass.
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
        let parent = Dir::open(parent)?;
        let dir = match parent.open_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => parent.create_dir(name, 0o700)?,
            opened => opened?,
        };
        if nix::unistd::geteuid().is_root() {
            give(&dir, owner)?;
        }
        Ok(())
    };
    make().map_err(|error: io::Error| {
        Error::Runtime(nexus_runtime::Error::Failed {
            engine: "the host",
            why: format!("{}: {error}", path.display()),
        })
    })?;
    Ok(path)
}

/// Gives a directory to its owner. One that had another owner was made by an earlier version: what that owner has in it
/// is given along, each entry by its name in the handle of its directory.
fn give(dir: &Dir, owner: &HostUser) -> io::Result<()> {
    let before = dir.own_meta()?;
    if before.uid == owner.uid {
        return Ok(());
    }
    let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
    let mut walk = Walk::new(dir)?.on_one_device()?;
    while let Some(step) = walk.step() {
        let Step::Entry(entry) = step else { continue };
        // A file with another name elsewhere is not only this directory's.
        let single = entry.meta.kind == Kind::Dir || entry.meta.links == 1;
        if entry.meta.uid == before.uid && single {
            fchownat(walk.dir(), &*entry.name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
    }
    nexus_walk::restore_owner(dir, owner.uid, owner.gid)
}
