//! Staging directories: locked while in use, removed later if their owner died.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use nexus_walk::{Dir, Fresh};

use super::stamp;

/// Begins the names of backups that are being made.
pub const BACKUP: &str = ".nexus-backup-";
/// Begins the names of backups that are being put back.
pub const RESTORE: &str = ".nexus-restore-";
/// In a backup's directory: the path of the folder in which the backup was made, which is not looked through otherwise.
const ELSEWHERE: &str = "elsewhere";
/// The longest path that one call of the kernel takes.
const PATH_MAX: u64 = 4096;
/// Where trees are moved to be removed.
pub const TRASH: &str = ".nexus-trash";
/// In a restore's directory: `state` in there may be the state of before, and is never removed.
const PRECIOUS: &str = "state-of-before";

/// A directory that nobody else looks into. It is removed with what is in it when this is dropped.
#[derive(Debug)]
pub struct Staging {
    parent: Dir,
    name: OsString,
    dir: Dir,
}

impl Staging {
    pub fn new(parent: &Path, prefix: &str) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let parent = Dir::open(parent)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let name = OsString::from(format!("{prefix}{}-{now:x}-{number}", std::process::id()));
        let dir = parent.create_dir(&name, 0o700)?;
        dir.try_lock()?;
        Ok(Self { parent, name, dir })
    }

    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// What lies in `folder` is found by [`left`] and [`sweep`] of this directory's parent if this process is killed.
    pub fn points_to(&self, folder: &Path) -> io::Result<()> {
        let folder = folder.canonicalize()?;
        self.dir.write(ELSEWHERE, folder.as_os_str().as_encoded_bytes(), 0o600)
    }

    /// From now on a sweep keeps `state` in this directory, and puts it beside the state that it finds.
    pub fn holds_what_was_before(&self) -> io::Result<()> {
        Fresh::new(&self.dir, 0o600)?.place(PRECIOUS)
    }

    /// The state of before did not come here after all.
    pub fn holds_nothing(&self) -> io::Result<()> {
        self.dir.remove_file(PRECIOUS)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is swept later, and told by the doctor.
        let _stays = clear(&self.parent, &self.name);
    }
}

/// Removes a file, a link or a whole tree, following no link in it.
///
/// # Errors
/// The first thing that stays; the rest is gone. What is cut off is removed by the next sweep of the directory.
pub fn remove(path: &Path) -> io::Result<()> {
    let (parent, name) = match Dir::of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    nexus_walk::remove_now(&parent, name, TRASH).map(drop)
}

/// What work that was cut off has left in a directory, and nobody works on any more; and in the folders elsewhere in which
/// that work had begun something.
pub fn left(parent: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for name in left_in(parent) {
        let path = parent.join(name);
        if let Some(folder) = elsewhere(&path) {
            all.extend(left_in(&folder).into_iter().map(|name| folder.join(name)));
        }
        all.push(path);
    }
    all
}

/// The folder that a directory of a killed backup points to.
fn elsewhere(path: &Path) -> Option<PathBuf> {
    let (file, _) = Dir::open(path).ok()?.open_file(ELSEWHERE).ok()?;
    let text = nexus_walk::read_bounded(&file, PATH_MAX).ok()?;
    let folder = PathBuf::from(OsString::from_vec(text));
    folder.is_absolute().then_some(folder)
}

fn left_in(parent: &Path) -> Vec<OsString> {
    let Ok(parent) = Dir::open(parent) else {
        return Vec::new();
    };
    let names = parent.entries().into_iter().flatten().flatten().map(|entry| entry.name);
    let mut names: Vec<OsString> = names.filter(|name| is_ours(name) && is_idle(&parent, name)).collect();
    names.sort();
    names
}

/// Removes what [`left`] names.
///
/// # Errors
/// The first that stays; the others are gone.
pub fn sweep(parent: &Path) -> io::Result<()> {
    let names = left_in(parent);
    let mut failed = None;
    for name in names {
        // The folder first: without this directory nobody knows of it.
        let elsewhere = elsewhere(&parent.join(&name)).map_or(Ok(()), |folder| clear_all(&folder, left_in(&folder)));
        if let Err(error) = elsewhere.and_then(|()| clear_all(parent, [name])) {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Tries all of them; the first error is told.
fn clear_all(parent: &Path, names: impl IntoIterator<Item = OsString>) -> io::Result<()> {
    let mut failed = None;
    for name in names {
        if let Err(error) = Dir::open(parent).and_then(|parent| clear(&parent, &name)) {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with(BACKUP) || name.starts_with(RESTORE) || name == TRASH
}

fn is_idle(parent: &Dir, name: &OsStr) -> bool {
    match parent.open_dir(name) {
        Ok(dir) => dir.try_lock().unwrap_or(false),
        // Older versions staged single files.
        Err(_) => parent
            .meta(name)
            .is_ok_and(|found| found.kind == nexus_walk::Kind::File),
    }
}

fn clear(parent: &Dir, name: &OsStr) -> io::Result<()> {
    if let Ok(dir) = parent.open_dir(name)
        && dir.exists(PRECIOUS)?
        && dir.exists("state")?
    {
        let base = format!("state.before-restore-{}", stamp(SystemTime::now()));
        dir.rename_new("state", parent, free(parent, &base)?)?;
    }
    if name == TRASH {
        return nexus_walk::empty_now(parent, TRASH).map(drop);
    }
    nexus_walk::remove_now(parent, name, TRASH).map(drop)
}

/// The name, or the name with a number, that nothing has yet.
pub fn free(parent: &Dir, base: &str) -> io::Result<OsString> {
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    for name in std::iter::once(base.to_owned()).chain(numbered) {
        if !parent.exists(&name)? {
            return Ok(name.into());
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A backup, a restore or a reset is killed: what it had begun goes at the next start, and the state of before does not.
    #[test]
    fn what_was_cut_off_is_swept_and_the_state_of_before_is_kept() {
        let site = tempfile::tempdir().unwrap();
        let at = |name: &str| site.path().join(name);
        let busy = Staging::new(site.path(), BACKUP).unwrap();
        for name in [
            ".nexus-backup-1/spool",
            ".nexus-restore-1/state/db",
            ".nexus-restore-2/state/db",
            ".nexus-trash/a/b",
        ] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at(".nexus-restore-2").join(PRECIOUS), "").unwrap();
        fs::write(at(".nexus-backup-old"), "x").unwrap();
        assert_eq!(left(site.path()).len(), 5);
        sweep(site.path()).unwrap();
        let mut names: Vec<_> = fs::read_dir(site.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(names[0], busy.name(), "one that is under way stays");
        assert!(names[1].to_string_lossy().starts_with("state.before-restore-"));
        assert!(site.path().join(&names[1]).join("db").is_dir());
        drop(busy);
        assert_eq!(fs::read_dir(site.path()).unwrap().count(), 1);
    }

    /// A backup into a folder of the user's choice is killed: its tree knows of what lies there.
    #[test]
    fn what_was_cut_off_elsewhere_is_told_and_swept_too() {
        let (site, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let other = other.path().canonicalize().unwrap();
        let kept = other.join("theirs");
        fs::create_dir(&kept).unwrap();
        let note = Staging::new(site.path(), BACKUP).unwrap();
        note.points_to(&other).unwrap();
        let busy = Staging::new(&other, BACKUP).unwrap();
        assert_eq!(left(site.path()), Vec::<PathBuf>::new(), "it is under way");
        let names = (site.path().join(note.name()), other.join(busy.name()));
        // As a kill ends it: the locks go, the directories stay.
        let (note, busy) = (std::mem::ManuallyDrop::new(note), std::mem::ManuallyDrop::new(busy));
        for staged in [&note, &busy] {
            rustix::fs::flock(staged.dir(), rustix::fs::FlockOperation::Unlock).unwrap();
        }
        assert_eq!(left(site.path()), [names.1, names.0]);
        sweep(site.path()).unwrap();
        assert_eq!(left(site.path()), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(site.path()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
        assert!(kept.is_dir());
    }
}
