//! The system call filter of containers: the same as the built-in sandbox has. Docker takes the profile itself. Podman takes
//! the path of a file on its machine.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::probe::Kind;
use crate::{Error, Result};

static PROFILE: LazyLock<String> = LazyLock::new(nexus_sandbox::profile);

/// The file for Podman, in the directory of the runtime.
const FILE: &str = "seccomp.json";

/// The option of a new container that names the profile. `directory`: where the file is kept that Podman reads.
pub(super) async fn option(kind: Kind, directory: &Path) -> Result<String> {
    let value = match kind {
        Kind::Docker => PROFILE.clone(),
        Kind::Podman => {
            if directory.as_os_str().is_empty() {
                let error = io::Error::other("the runtime has no directory of its own");
                return Err(failed(kind, directory, &error));
            }
            let path = std::path::absolute(directory.join(FILE)).map_err(|error| failed(kind, directory, &error))?;
            let written = path.clone();
            let write = tokio::task::spawn_blocking(move || keep(&written));
            let written = write.await.map_err(io::Error::other).and_then(|done| done);
            written.map_err(|error| failed(kind, &path, &error))?;
            text(path)?
        }
    };
    Ok(format!("seccomp={value}"))
}

/// Sees to it that the file has this build's profile. It is replaced by one rename: Podman may read it meanwhile.
fn keep(path: &Path) -> io::Result<()> {
    let held = std::fs::read(path);
    if held.is_ok_and(|held| held == PROFILE.as_bytes()) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    nexus_walk::write_file(path, PROFILE.as_bytes(), 0o644)
}

fn text(path: PathBuf) -> Result<String> {
    path.into_os_string().into_string().map_err(|path| Error::Unusable {
        engine: Kind::Podman.name(),
        why: format!("it takes paths in UTF-8 only, and the system call filter lies at {path:?}"),
    })
}

fn failed(kind: Kind, path: &Path, error: &io::Error) -> Error {
    Error::Failed {
        engine: kind.name(),
        why: format!(
            "the system call filter for it cannot be kept at {}: {error}",
            path.display()
        ),
    }
}

/// What to do where Podman does not find the file: it is of another user, or on another machine.
pub(super) fn unread(why: &str) -> Option<Error> {
    why.contains("seccomp profile").then(|| Error::Unusable {
        engine: Kind::Podman.name(),
        why: format!(
            "it cannot read the system call filter that containers run under ({why}); run it on this machine, as root or \
             as the user that Nexus runs as"
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn podman_is_given_a_file_that_always_has_this_profile() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("state/containers");
        let option = option(Kind::Podman, &directory).await.unwrap();
        let path = PathBuf::from(option.strip_prefix("seccomp=").unwrap());
        assert_eq!(path, directory.join(FILE));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), *PROFILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o644);
        std::fs::write(&path, "{}").unwrap();
        super::option(Kind::Podman, &directory).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), *PROFILE);
    }

    #[tokio::test]
    async fn nothing_is_written_where_somebody_happens_to_work() {
        let refused = option(Kind::Podman, Path::new("")).await.unwrap_err().to_string();
        assert!(refused.contains("no directory"), "{refused}");
        assert!(!Path::new(FILE).exists());
    }

    #[tokio::test]
    async fn docker_is_given_the_profile_itself() {
        let option = option(Kind::Docker, Path::new("")).await.unwrap();
        assert!(
            option.starts_with("seccomp={\"defaultAction\":\"SCMP_ACT_ERRNO\""),
            "{option}"
        );
    }
}
