use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The tree everything lives in: `home/` is the user's, `state/` is ours, `skills/` is both's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// The flag, else `NEXUS_ROOT`, else `~/nexus`; always absolute.
    pub fn resolve(flag: Option<&Path>) -> Result<Root, Error> {
        Root::from_parts(flag, std::env::var_os("NEXUS_ROOT"))
    }

    fn from_parts(flag: Option<&Path>, env: Option<OsString>) -> Result<Root, Error> {
        let named = flag
            .map(Path::to_path_buf)
            .or_else(|| env.filter(|v| !v.is_empty()).map(PathBuf::from));
        let path = match named {
            Some(path) => match path.strip_prefix("~") {
                Ok(rest) => user_home().ok_or(Error::NoRoot)?.join(rest),
                Err(_) => path,
            },
            None => user_home().ok_or(Error::NoRoot)?.join("nexus"),
        };
        let path = std::path::absolute(&path).map_err(|cause| Error::Create { path, cause })?;
        Ok(Root(path))
    }

    /// A root at this absolute path, which is taken as it is.
    pub fn at(path: impl Into<PathBuf>) -> Root {
        Root(path.into())
    }

    /// The root itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `home/`: the user's own files.
    pub fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    /// `skills/`: installed skills.
    pub fn skills(&self) -> PathBuf {
        self.0.join("skills")
    }

    /// `state/`: everything that the daemons write.
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// `state/run/`: sockets, and the status files of the daemons.
    pub fn run_dir(&self) -> PathBuf {
        self.state().join("run")
    }

    /// `state/logs/`: the logs of the daemons.
    pub fn log_dir(&self) -> PathBuf {
        self.state().join("logs")
    }

    /// `state/db/`: the stores of the daemons.
    pub fn db_dir(&self) -> PathBuf {
        self.state().join("db")
    }

    /// `state/nexus/config.toml`: the settings file.
    pub fn config_file(&self) -> PathBuf {
        self.state().join("nexus/config.toml")
    }

    /// Bearer tokens, hashed.
    pub fn token_file(&self) -> PathBuf {
        self.state().join("nexus/tokens.toml")
    }

    /// The token by which the processes of this installation know each other, 0600.
    pub fn own_token_file(&self) -> PathBuf {
        self.state().join("nexus/own-token")
    }

    /// Provider keys, 0600; only the model daemon reads it.
    pub fn key_file(&self) -> PathBuf {
        self.state().join("nexus/keys.toml")
    }

    /// The index of credentials, and those that are kept in files.
    pub fn credential_dir(&self) -> PathBuf {
        self.state().join("credentials")
    }

    /// `state/run/<service>.sock`: where a service listens by default.
    pub fn socket(&self, service: &str) -> PathBuf {
        self.run_dir().join(format!("{service}.sock"))
    }

    /// Makes the directories that are missing, 0700; one that exists keeps its mode and owner.
    pub fn create(&self) -> Result<(), Error> {
        let nexus = self.state().join("nexus");
        for path in [
            self.home(),
            self.skills(),
            self.run_dir(),
            self.log_dir(),
            self.db_dir(),
            nexus,
        ] {
            if path.is_dir() {
                continue;
            }
            // Another daemon that starts may make it at the same moment, which is no failure of this.
            match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
                Ok(()) => {}
                Err(_) if !path.is_dir() && path.symlink_metadata().is_ok() => {
                    return Err(Error::NotADirectory { path });
                }
                Err(cause) => return Err(Error::Create { path, cause }),
            }
        }
        Ok(())
    }
}

/// `HOME`, else what the system knows of this user.
pub(crate) fn user_home() -> Option<PathBuf> {
    if let Some(home) = std::env::var_os("HOME").filter(|h| !h.is_empty()) {
        return Some(PathBuf::from(home));
    }
    nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten()
        .map(|user| user.dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn daemons_that_start_at_once_make_it_together() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let root = Root::at(folder.path().join("root"));
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| root.create())).collect();
                for one in all {
                    one.join().unwrap().unwrap();
                }
            });
        }
    }

    #[test]
    fn the_flag_wins_over_the_environment_and_all_are_absolute() {
        let env = || Some(OsString::from("/env/nexus"));
        assert_eq!(
            Root::from_parts(Some(Path::new("/flag")), env()).unwrap().path(),
            Path::new("/flag")
        );
        assert_eq!(Root::from_parts(None, env()).unwrap().path(), Path::new("/env/nexus"));
        assert!(
            Root::from_parts(Some(Path::new("here")), None)
                .unwrap()
                .path()
                .is_absolute()
        );
        let home = user_home().unwrap();
        assert_eq!(
            Root::from_parts(None, Some(OsString::new())).unwrap().path(),
            home.join("nexus")
        );
        assert_eq!(
            Root::from_parts(None, Some(OsString::from("~/x"))).unwrap().path(),
            home.join("x")
        );
    }

    #[test]
    fn new_directories_are_private_and_old_ones_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path().join("n"));
        std::fs::create_dir_all(root.home()).unwrap();
        std::fs::set_permissions(root.home(), std::fs::Permissions::from_mode(0o755)).unwrap();
        root.create().unwrap();
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(root.home()), 0o755);
        assert_eq!(mode(root.state()), 0o700);
        assert_eq!(mode(root.run_dir()), 0o700);
        root.create().unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("skills"), "").unwrap();
        let said = Root::at(dir.path()).create().unwrap_err().to_string();
        assert!(
            said.contains("skills is not a directory") && said.contains("NEXUS_ROOT"),
            "{said}"
        );
    }
}
