//! Removes whole trees in steps, at any depth, resumed after a crash.
//!
//! A tree is first moved into a trash directory by one rename: from then on nothing finds it by its old name, and whatever
//! a crash leaves lies in the trash, where the next [`Removal`] goes on. A directory in the trash is emptied; a directory in
//! it that is not empty is moved up into the trash beside it. So no tree is ever deep, two handles are enough, and there is
//! nothing to remember between two steps but where the reading stood.
//!
//! Where there is no room on the disk for a further name in the trash, a directory is emptied where it is, innermost first.
//!
//! What cannot be removed (another file system is mounted there, an immutable file) stays in the trash and is told.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::io::Errno;

use crate::dir::{Dir, Entries, Name};
use crate::meta::Kind;
use crate::walk::Problem;

/// Problems that are kept with their path; all are counted.
const TOLD: usize = 16;
/// Entries of the trash that stay and are passed over; with more than these a removal ends early.
const STUCK: usize = 4_096;
/// Of a name, what the name in the trash repeats, for whoever looks in.
const REPEATED: usize = 160;

/// A directory of ours, on the file system of what is thrown into it.
#[derive(Debug)]
pub struct Trash {
    dir: Dir,
}

impl Trash {
    /// Opens the trash, or makes it with mode 0700.
    ///
    /// # Errors
    /// `PermissionDenied` if the directory belongs to another user, who could put anything in it.
    pub fn open(parent: &Dir, name: impl AsRef<OsStr>) -> io::Result<Self> {
        let dir = parent.create_dirs(name.as_ref(), 0o700)?;
        let found = dir.own_meta()?;
        if found.uid != rustix::process::geteuid().as_raw() {
            let text = format!("{} belongs to uid {}", name.as_ref().display(), found.uid);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        if found.mode & 0o777 != 0o700 {
            dir.set_mode(0o700)?;
        }
        Ok(Self { dir })
    }

    /// Moves a file or a whole tree into the trash. `false` if there is no such name.
    pub fn take(&self, parent: &Dir, name: impl AsRef<OsStr>) -> io::Result<bool> {
        match moved(parent, name.as_ref(), &self.dir) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether nothing is left to remove.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.dir.entries()?.next().transpose()?.is_none())
    }

    /// Removes what lies in the trash, also what a process before this one left there.
    pub fn removal(&self) -> io::Result<Removal> {
        Ok(Removal {
            names: self.dir.entries()?,
            trash: self.dir.try_clone()?,
            folder: None,
            again: false,
            stuck: BTreeSet::new(),
            problems: Vec::new(),
            failed: 0,
        })
    }
}

/// How far one step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Files and directories that this step removed.
    pub removed: u64,
    /// There is nothing more to do. What could not be removed is in [`Removal::problems`].
    pub done: bool,
}

/// See the head of this file. Each step blocks on the disk; between two of them its owner does as it likes.
#[derive(Debug)]
pub struct Removal {
    trash: Dir,
    names: Entries,
    folder: Option<Folder>,
    /// Something was put into the trash, or taken away, since its names were read from the start.
    again: bool,
    stuck: BTreeSet<OsString>,
    problems: Vec<Problem>,
    failed: u64,
}

/// The directory that is being emptied.
#[derive(Debug)]
struct Folder {
    parent: Dir,
    name: OsString,
    /// The entry of the trash that it lies in, or is.
    top: OsString,
    dir: Dir,
    names: Entries,
    /// This reading of its names removed or moved something.
    progress: bool,
    /// It lies in the trash itself.
    is_top: bool,
}

enum Done {
    Removed,
    Moved,
    /// A directory with something in it, which has to be emptied where it is.
    Full(Dir),
    Gone,
}

impl Removal {
    /// Looks at no more than `entries` names.
    pub fn step(&mut self, entries: u32) -> Progress {
        let mut removed = 0;
        for _ in 0..entries.max(1) {
            let over = match self.folder.take() {
                Some(folder) => {
                    removed += u64::from(self.empty(folder));
                    false
                }
                None => match self.next() {
                    Some(was_removed) => {
                        removed += u64::from(was_removed);
                        false
                    }
                    None => true,
                },
            };
            if over {
                return Progress { removed, done: true };
            }
        }
        Progress { removed, done: false }
    }

    /// What could not be removed, the first few with their place in the trash.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many names could not be removed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// One name of the trash; whether it was removed. `None` when all that is left is stuck.
    fn next(&mut self) -> Option<bool> {
        if self.stuck.len() >= STUCK {
            return None;
        }
        let entry = match self.names.next() {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                self.problem(PathBuf::new(), error);
                return None;
            }
            None if std::mem::take(&mut self.again) => {
                self.names.rewind();
                return Some(false);
            }
            None => return None,
        };
        if self.stuck.contains(&entry.name) {
            return Some(false);
        }
        match remove(&self.trash, &entry, None) {
            Ok(Done::Removed) => Some(true),
            Ok(Done::Gone | Done::Moved) => Some(false),
            Ok(Done::Full(dir)) => {
                let parent = self.trash.try_clone();
                self.begin(parent, entry.name.clone(), entry.name, dir, true);
                Some(false)
            }
            Err(error) => {
                self.problem(PathBuf::from(&entry.name), error);
                self.stuck.insert(entry.name);
                Some(false)
            }
        }
    }

    fn begin(&mut self, parent: io::Result<Dir>, name: OsString, top: OsString, dir: Dir, is_top: bool) {
        let begun = parent.and_then(|parent| Ok((parent, dir.entries()?)));
        match begun {
            Ok((parent, names)) => {
                self.folder = Some(Folder {
                    parent,
                    name,
                    top,
                    dir,
                    names,
                    progress: false,
                    is_top,
                });
            }
            Err(error) => {
                self.problem(PathBuf::from(name), error);
                self.stuck.insert(top);
            }
        }
    }

    /// One name of the directory at hand; whether something was removed.
    fn empty(&mut self, mut folder: Folder) -> bool {
        let entry = match folder.names.next() {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                self.problem(PathBuf::from(&folder.name), error);
                self.stuck.insert(folder.top);
                return false;
            }
            None => return self.close(folder),
        };
        match remove(&folder.dir, &entry, Some(&self.trash)) {
            Ok(Done::Full(dir)) => {
                // Whatever is above is found again from the trash once this one is empty.
                self.again = true;
                let parent = folder.dir.try_clone();
                self.begin(parent, entry.name, folder.top, dir, false);
                return false;
            }
            Ok(done) => {
                let removed = matches!(done, Done::Removed);
                self.again |= matches!(done, Done::Moved);
                folder.progress |= !matches!(done, Done::Gone);
                self.folder = Some(folder);
                return removed;
            }
            Err(error) => self.problem(PathBuf::from(&folder.name).join(entry.name), error),
        }
        self.folder = Some(folder);
        false
    }

    /// All names were seen: the directory itself goes, or is read once more.
    fn close(&mut self, mut folder: Folder) -> bool {
        match folder.parent.remove_dir(&folder.name) {
            Ok(()) => {
                self.again |= !folder.is_top;
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            Err(_) if folder.progress => {
                folder.progress = false;
                folder.names.rewind();
                self.folder = Some(folder);
            }
            Err(error) => {
                self.problem(PathBuf::from(&folder.name), error);
                self.stuck.insert(folder.top);
            }
        }
        false
    }

    fn problem(&mut self, path: PathBuf, error: io::Error) {
        self.failed += 1;
        if self.problems.len() < TOLD {
            self.problems.push(Problem { path, error });
        }
    }
}

/// Removes a name; a directory with something in it is moved to `trash`, or opened if there is none to move it to.
fn remove(dir: &Dir, entry: &Name, trash: Option<&Dir>) -> io::Result<Done> {
    let mut is_dir = entry.hint == Kind::Dir;
    if !is_dir {
        match dir.remove_file(&entry.name) {
            Ok(()) => return Ok(Done::Removed),
            Err(error) => match (error.kind(), dir.meta(&entry.name)) {
                (io::ErrorKind::NotFound, _) => return Ok(Done::Gone),
                (_, Ok(found)) if found.kind == Kind::Dir => is_dir = true,
                _ => return Err(error),
            },
        }
    }
    debug_assert!(is_dir, "anything else was removed or has failed");
    match dir.remove_dir(&entry.name) {
        Ok(()) => return Ok(Done::Removed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Done::Gone),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        // It was swapped for something else since it was read.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            dir.remove_file(&entry.name)?;
            return Ok(Done::Removed);
        }
        Err(error) => return Err(error),
    }
    if let Some(trash) = trash {
        match moved(dir, &entry.name, trash) {
            Ok(()) => return Ok(Done::Moved),
            Err(error) if no_room(&error) => {}
            Err(error) => return Err(error),
        }
    }
    open_all(dir, &entry.name).map(Done::Full)
}

fn no_room(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOSPC | Errno::DQUOT | Errno::MLINK)
    )
}

/// Moves a name into the trash, under a name that nothing else has there.
fn moved(parent: &Dir, name: &OsStr, trash: &Dir) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let mut new = format!("{now:x}-{:x}-{number:x}.", std::process::id()).into_bytes();
    let bytes = name.as_bytes();
    // A name that was made here once does not grow with each move.
    let plain = bytes.iter().position(|byte| *byte == b'.').map_or(bytes, |dot| {
        let head = &bytes[..dot];
        let ours = head.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-') && head.contains(&b'-');
        if ours { &bytes[dot + 1..] } else { bytes }
    });
    new.extend_from_slice(&plain[..plain.len().min(REPEATED)]);
    let new = OsString::from_vec(new);
    match parent.rename(name, trash, &new) {
        // A directory that its owner may not write cannot be moved to another one.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            allow_all(parent, name)?;
            parent.rename(name, trash, &new)
        }
        done => done,
    }
}

/// Opens a directory that is about to be emptied, whatever its mode is.
fn open_all(parent: &Dir, name: &OsStr) -> io::Result<Dir> {
    let dir = match parent.open_dir(name) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            allow_all(parent, name)?;
            parent.open_dir(name)?
        }
        opened => opened?,
    };
    if dir.own_meta()?.mode & 0o700 != 0o700 {
        // Root needs no mode, and a directory of another user says so when it is emptied.
        let _refused = dir.set_mode(0o700);
    }
    Ok(dir)
}

/// Gives a directory of ours the mode 0700, following no link.
fn allow_all(parent: &Dir, name: &OsStr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::OFlags;
        use std::os::fd::AsRawFd;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(parent, name, flags, rustix::fs::Mode::empty())?;
        // A handle that was opened for nothing but its place is only changed by this name of it.
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        Ok(rustix::fs::chmod(path, crate::dir::bits(0o700))?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chmodat(parent, name, crate::dir::bits(0o700), flags)?)
    }
}

/// Removes a file or a tree before it returns, by way of a trash directory `trash` beside it, which it takes away as well.
/// Whatever lies in the trash already is removed too. The number of files and directories.
///
/// # Errors
/// The first problem, with its path; the rest of the tree is gone, or lies in the trash.
pub fn remove_now(parent: &Dir, name: impl AsRef<OsStr>, trash: impl AsRef<OsStr>) -> io::Result<u64> {
    Trash::open(parent, trash.as_ref())?.take(parent, name)?;
    empty_now(parent, trash)
}

/// Removes a trash directory with all that is in it before it returns.
///
/// # Errors
/// The first problem, with its path.
pub fn empty_now(parent: &Dir, trash: impl AsRef<OsStr>) -> io::Result<u64> {
    const AT_ONCE: u32 = 4_096;
    let trash = trash.as_ref();
    let mut removal = Trash::open(parent, trash)?.removal()?;
    let mut removed = 0;
    loop {
        let step = removal.step(AT_ONCE);
        removed += step.removed;
        if step.done {
            break;
        }
    }
    if let Some(first) = removal.problems.into_iter().next() {
        let (path, kind) = (first.path.display().to_string(), first.error.kind());
        let text = format!("{path:?} stays in {}: {}", trash.display(), first.error);
        return Err(io::Error::new(kind, text));
    }
    match parent.remove_dir(trash) {
        // Another process uses the same trash: it takes the directory away.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(removed),
        done => done.map(|()| removed),
    }
}
