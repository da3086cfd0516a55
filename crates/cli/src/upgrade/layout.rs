//! The directories of the installed versions, and which version is current.
//!
//! ```text
//!   PREFIX/bin/nexus ──▶ ../lib/nexus/current/bin/nexus         links, made once for each file of a release
//!   PREFIX/lib/nexus/current ──▶ versions/0.2.0                 the one thing that an upgrade switches, by one rename
//!                   /previous ──▶ versions/0.1.0                what --rollback goes back to
//!                   /versions/0.1.0/{bin,share,...}             whole releases, never changed once they are there
//!                   /upgrade.json, upgrade.lock                 an upgrade that is under way, or was cut off
//! ```

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use nix::fcntl::{Flock, FlockArg};

use super::release;
use crate::{
    backup::staging,
    failure::{Exit, Failure},
};

/// Begins the names of folders that are not whole yet.
const UNFINISHED: &str = ".new-";

#[derive(Clone, Debug)]
pub struct Layout {
    /// `PREFIX/lib/nexus`
    home: PathBuf,
}

/// One installed version.
#[derive(Clone, Debug)]
pub struct Installed {
    pub version: String,
    pub since: Option<SystemTime>,
}

impl Layout {
    pub fn find(prefix: Option<&Path>) -> Result<Layout, Failure> {
        let hint = "a tarball's install.sh makes such an installation; a Debian package is upgraded by dpkg, and what \
                    was built in a checkout by cargo";
        let home = match prefix {
            Some(prefix) => prefix.join("lib/nexus"),
            None => {
                let own = own()?;
                let home = home_of(&own).ok_or_else(|| {
                    Failure::new(
                        Exit::Refused,
                        format!("{} is not part of a versioned installation", own.display()),
                    )
                    .hint(hint)
                })?;
                home.to_path_buf()
            }
        };
        let home = home
            .canonicalize()
            .map_err(|error| Failure::file("find", &home, &error).hint(hint))?;
        let layout = Layout { home };
        if layout.current().is_none() {
            let said = format!("{} names no version", layout.home.join("current").display());
            return Err(Failure::new(Exit::NotFound, said).hint(hint));
        }
        Ok(layout)
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    pub fn prefix(&self) -> &Path {
        // lib/nexus
        self.home.ancestors().nth(2).unwrap_or(&self.home)
    }

    pub fn folder(&self, version: &str) -> PathBuf {
        self.home.join("versions").join(version)
    }

    pub fn program(&self, version: &str) -> PathBuf {
        self.folder(version).join("bin/nexus")
    }

    pub fn unfinished(&self, version: &str) -> PathBuf {
        self.home.join("versions").join(format!("{UNFINISHED}{version}"))
    }

    pub fn current(&self) -> Option<String> {
        self.named("current")
    }

    pub fn previous(&self) -> Option<String> {
        self.named("previous")
    }

    fn named(&self, link: &str) -> Option<String> {
        let to = fs::read_link(self.home.join(link)).ok()?;
        let version = to.file_name()?.to_str()?.to_owned();
        self.folder(&version).is_dir().then_some(version)
    }

    pub fn versions(&self) -> Vec<Installed> {
        let entries = fs::read_dir(self.home.join("versions")).into_iter().flatten().flatten();
        let mut found: Vec<Installed> = entries
            .filter_map(|entry| {
                let version = entry.file_name().into_string().ok()?;
                let known = release::is_version(&version) && entry.path().is_dir();
                let since = entry.metadata().ok().and_then(|found| found.modified().ok());
                known.then_some(Installed { version, since })
            })
            .collect();
        found.sort_by_key(|one| std::cmp::Reverse(one.since));
        found
    }

    /// One rename: whoever looks sees the one version or the other.
    pub fn switch(&self, link: &str, version: &str) -> Result<(), Failure> {
        let (path, fresh) = (self.home.join(link), self.home.join(format!("{UNFINISHED}{link}")));
        let failed = |error: io::Error| Failure::file("switch", &path, &error);
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        symlink(Path::new("versions").join(version), &fresh).map_err(failed)?;
        fs::rename(&fresh, &path).map_err(failed)?;
        sync(&self.home).map_err(failed)
    }

    /// Makes what lies in PREFIX links to the files of the current version; those to files that it lacks go.
    /// A file there that is not ours stays, and is named.
    pub fn link(&self, before: &str, now: &str) -> Result<Vec<PathBuf>, Failure> {
        let (old, new) = (
            release::files(&self.folder(before))?,
            release::files(&self.folder(now))?,
        );
        let mut strange = Vec::new();
        for file in new.iter().filter(|file| is_linked(file)) {
            let (path, to) = (self.prefix().join(file), self.link_to(file));
            match fs::read_link(&path) {
                Ok(there) if there == to => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => {
                    strange.push(path);
                    continue;
                }
            }
            let failed = |error: io::Error| Failure::file("make", &path, &error);
            let parent = path.parent().expect("it lies in the prefix");
            fs::create_dir_all(parent).map_err(failed)?;
            symlink(&to, &path).map_err(failed)?;
        }
        for file in old.iter().filter(|file| is_linked(file) && !new.contains(*file)) {
            let path = self.prefix().join(file);
            if fs::read_link(&path).is_ok_and(|there| there == self.link_to(file)) {
                fs::remove_file(&path).map_err(|error| Failure::file("remove", &path, &error))?;
            }
        }
        Ok(strange)
    }

    /// From where `file` stands in the prefix, the same in the current version.
    fn link_to(&self, file: &str) -> PathBuf {
        let up = Path::new(file).components().count() - 1;
        let mut to: PathBuf = std::iter::repeat_n(Component::ParentDir, up).collect();
        to.push("lib/nexus/current");
        to.push(file);
        to
    }

    /// Removes what nobody needs: unfinished folders, and versions beyond the newest `keep`. The current one counts and
    /// stays, so does one that somebody runs.
    pub fn prune(&self, keep: usize) -> Vec<String> {
        let (current, previous) = (self.current(), self.previous());
        let mut versions: Vec<String> = self.versions().into_iter().map(|one| one.version).collect();
        let rank = |version: &String| match () {
            () if Some(version) == current.as_ref() => 0,
            () if Some(version) == previous.as_ref() => 1,
            () => 2,
        };
        versions.sort_by_key(rank);
        let mut gone = Vec::new();
        for version in versions.into_iter().skip(keep.max(1)) {
            let folder = self.folder(&version);
            if !is_run(&folder) && staging::remove(&folder).is_ok() {
                gone.push(version);
            }
        }
        self.sweep();
        gone
    }

    /// What an upgrade that was cut off had begun to unpack.
    pub fn sweep(&self) {
        let entries = fs::read_dir(self.home.join("versions")).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED)) {
            // One that stays is swept the next time.
            let _gone = staging::remove(&entry.path());
        }
    }

    /// Held for as long as an upgrade goes on; the kernel drops it with the process.
    pub fn lock(&self) -> Result<Flock<File>, Failure> {
        let path = self.home.join("upgrade.lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| {
                let failure = Failure::file("open", &path, &error);
                match error.kind() {
                    io::ErrorKind::PermissionDenied => Failure {
                        exit: Exit::Refused,
                        ..failure
                    }
                    .hint("the installation belongs to another user: run this as that user, such as with sudo"),
                    _ => failure,
                }
            })?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| Failure::new(Exit::Refused, "another upgrade of this installation is under way"))
    }
}

/// This program's file, whatever links led to it.
fn own() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .and_then(|own| own.canonicalize())
        .map_err(|error| Failure::new(Exit::Failed, format!("failed to find this program: {error}")))
}

/// `PREFIX/lib/nexus` of `PREFIX/lib/nexus/versions/VERSION/bin/PROGRAM`.
fn home_of(program: &Path) -> Option<&Path> {
    let versions = program.ancestors().nth(3)?;
    let home = versions.parent()?;
    (versions.file_name() == Some(OsStr::new("versions")) && home.ends_with("lib/nexus")).then_some(home)
}

/// A folder of programs by the name that stays when another version is installed.
pub fn lasting(bin: &Path) -> PathBuf {
    let current = || {
        let home = home_of(&bin.join("nexus"))?.to_path_buf();
        let lasting = home.join("current/bin");
        let same = lasting.canonicalize().ok()? == bin.canonicalize().ok()?;
        same.then_some(lasting)
    };
    current().unwrap_or_else(|| bin.to_path_buf())
}

fn is_linked(file: &str) -> bool {
    file.starts_with("bin/") || file.starts_with("share/")
}

pub fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Whether another process than this one runs a program of this folder, where the system tells.
fn is_run(folder: &Path) -> bool {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let other = |name: &OsStr| {
        name.to_str()
            .and_then(|name| name.parse().ok())
            .is_some_and(|pid: u32| pid != own)
    };
    entries
        .filter(|entry| other(&entry.file_name()))
        .filter_map(|entry| entry.path().join("exe").read_link().ok())
        .any(|program| program.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("lib/nexus");
        for (version, files) in [("1.0.0", &["bin/a", "bin/b"][..]), ("1.1.0", &["bin/a", "share/man/c"])] {
            let folder = home.join("versions").join(version);
            let mut sums = String::new();
            for file in files {
                fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
                fs::write(folder.join(file), version).unwrap();
                sums.push_str(&format!("{}  {file}\n", "0".repeat(64)));
            }
            fs::write(folder.join("SHA256SUMS"), sums).unwrap();
        }
        (dir, Layout { home })
    }

    #[test]
    fn the_prefix_follows_what_is_current() {
        let (dir, layout) = installation();
        let read = |file: &str| fs::read_to_string(dir.path().join(file)).ok();
        layout.switch("current", "1.0.0").unwrap();
        assert!(layout.link("1.0.0", "1.0.0").unwrap().is_empty());
        assert_eq!(
            (read("bin/a").unwrap(), read("bin/b").unwrap()),
            ("1.0.0".into(), "1.0.0".into())
        );
        layout.switch("current", "1.1.0").unwrap();
        assert!(layout.link("1.0.0", "1.1.0").unwrap().is_empty());
        assert_eq!(
            (read("bin/a").unwrap(), read("share/man/c").unwrap()),
            ("1.1.0".into(), "1.1.0".into())
        );
        assert!(
            dir.path().join("bin/b").symlink_metadata().is_err(),
            "a link to nothing goes"
        );
        fs::write(dir.path().join("bin/b"), "mine").unwrap();
        layout.switch("current", "1.0.0").unwrap();
        assert_eq!(layout.link("1.1.0", "1.0.0").unwrap(), [dir.path().join("bin/b")]);
        assert_eq!(read("bin/b").unwrap(), "mine");
        assert_eq!(
            lasting(&layout.folder("1.0.0").join("bin")),
            layout.home.join("current/bin")
        );
        assert_eq!(
            lasting(&layout.folder("1.1.0").join("bin")),
            layout.folder("1.1.0").join("bin")
        );
    }

    #[test]
    fn the_newest_are_kept_and_the_current_one_always() {
        let (_dir, layout) = installation();
        fs::create_dir(layout.folder("0.9.0")).unwrap();
        fs::create_dir(layout.unfinished("2.0.0")).unwrap();
        layout.switch("current", "1.0.0").unwrap();
        layout.switch("previous", "1.1.0").unwrap();
        assert_eq!(layout.versions().len(), 3);
        assert_eq!(layout.prune(2), ["0.9.0"]);
        assert!(!layout.unfinished("2.0.0").exists());
        assert_eq!(layout.prune(0), ["1.1.0"]);
        assert_eq!((layout.current().as_deref(), layout.previous()), (Some("1.0.0"), None));
    }
}
