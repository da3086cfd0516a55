//! The files of the host that a container gets: its session's directory, volumes, and paths that are allowed.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nexus_proto::orchestrator::v1::{ContainerConfig, MountType, SessionPolicy};
use nexus_runtime::{Mount, MountKind};

use super::Containers;
use crate::domain::Error;
use crate::domain::container::policy::WORKSPACE;

/// How long a deleted session's containers may take to go.
const CLEAR_TRIES: u32 = 600;
const CLEAR_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Mounts as an engine takes them, and for each path of the host what it was when it was looked at.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub mounts: Vec<Mount>,
    seen: Vec<(PathBuf, u64, u64)>,
}

impl Place {
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
    /// Who commands of this container run as.
    pub(super) fn user(&self, config: &ContainerConfig) -> String {
        let own = nix::unistd::geteuid();
        let given = [&config.user, &self.options().user]
            .into_iter()
            .find(|user| !user.is_empty());
        match given {
            Some(user) => user.clone(),
            None if own.is_root() => "65534:65534".into(),
            None => format!("{own}:{}", nix::unistd::getegid()),
        }
    }

    /// Blocks: it makes directories.
    pub(super) fn place(
        &self,
        (session, creator): (&str, &str),
        policy: &SessionPolicy,
        config: &ContainerConfig,
    ) -> Result<Place, Error> {
        let owner = owner(&self.user(config));
        let workspace = self.options().workspaces.join(session);
        made(&workspace, owner)?;
        let mut place = Place::default();
        place.mounts.push(bind(&workspace, WORKSPACE, false));
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
                    let volume = self.options().volumes.join(session).join(&mount.source);
                    made(&volume, owner)?;
                    volume
                }
                _ => {
                    let source = self.resolved(creator, policy, &mount.source)?;
                    let found = std::fs::symlink_metadata(&source).map_err(|error| unusable(&source, &error))?;
                    place.seen.push((source.clone(), found.dev(), found.ino()));
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

    /// A session that is gone leaves nothing.
    pub(super) fn clear(&self, session: &str) -> io::Result<()> {
        for parent in [&self.options().workspaces, &self.options().volumes] {
            match std::fs::remove_dir_all(parent.join(session)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
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

/// The numbers of a user, where it is given by number.
fn owner(user: &str) -> Option<(u32, u32)> {
    let (uid, gid) = user.split_once(':').unwrap_or((user, user));
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Makes a directory that only its owner may enter. Only root can give it away.
fn made(path: &Path, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let failed = |error: io::Error| {
        Error::Runtime(nexus_runtime::Error::Failed {
            engine: "the host",
            why: format!("{}: {error}", path.display()),
        })
    };
    if let Some(parent) = path.parent() {
        // Commands inside run as others, who have to pass.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(parent)
            .map_err(failed)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    if let (Some((uid, gid)), true) = (owner, nix::unistd::geteuid().is_root()) {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(failed)?;
    }
    Ok(())
}

impl Containers {
    /// Its session was deleted: once its last container is gone, so are its files.
    pub fn session_gone(&self, session: &str) {
        let (this, session) = (self.clone(), session.to_owned());
        tokio::spawn(async move {
            for _ in 0..CLEAR_TRIES {
                let any = this
                    .engine()
                    .look(|core| core.state.containers.iter().any(|one| *one.session_id == *session));
                if !any {
                    let cleared = tokio::task::spawn_blocking(move || this.clear(&session)).await;
                    if let Ok(Err(error)) = cleared {
                        tracing::warn!(%error, "failed to remove the files of a session; the next start tries again");
                    }
                    return;
                }
                tokio::time::sleep(CLEAR_PAUSE).await;
            }
        });
    }

    /// Files of sessions that are gone, left by a run that was killed.
    pub(super) async fn sweep(&self) {
        for parent in [&self.options().workspaces, &self.options().volumes] {
            for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let known = self
                    .engine()
                    .open_session(&name, crate::domain::sessions::View::All)
                    .await;
                if matches!(known, Err(Error::SessionNotFound(_))) && crate::domain::ids::number(&name).is_some() {
                    self.session_gone(&name);
                }
            }
        }
    }
}
