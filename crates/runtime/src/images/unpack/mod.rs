//! Applies layers to a directory. A layer is foreign and may be hostile: no path leads out of the directory, whatever
//! links it holds; nothing but directories, files and links is made; and there are bounds on everything.
//!
//! ```text
//!  bytes ─▶ decompressed ─▶ entries.rs: metered ─▶ whiteouts: what is hidden moves to the trash beside the root
//!                                               └▶ apply: directories, files and links beneath the root's handle
//! ```
//!
//! How deep the directories lie is decided by the layer (links within the image lead on without end), so nothing here
//! recurses, and what a layer takes away is moved to a [`Trash`] and removed there in steps.

mod entries;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nexus_walk::{Dir, Trash};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, linkat, mkdirat, openat, openat2, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;

use super::layers;

pub use self::entries::{Allowance, each};

/// What an image may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all layers together, unpacked.
    pub bytes: u64,
    /// Files, directories and links of all layers together.
    pub entries: u64,
    /// How many times larger than its archive a layer may be once it is unpacked.
    pub ratio: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            bytes: 10 << 30,
            entries: 2_000_000,
            ratio: 200,
        }
    }
}

/// Why a layer is not applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk, or the kernel, did not do it.
    #[error("{path}: {source}")]
    Io {
        /// Within the image, as it may be shown.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no archive, or none within its bounds.
    #[error("the layer cannot be read: {0}")]
    Archive(io::Error),
    /// A path climbs, or is nested too deep.
    #[error("{0} leads out of the image")]
    Outside(String),
    /// More than [`Bounds::bytes`].
    #[error("the image is larger than the {0} bytes that are allowed (orchestrator.container_image_max_size)")]
    TooLarge(u64),
    /// More than [`Bounds::ratio`] allows.
    #[error(
        "a layer unpacks to more than {0} times its size, which is the most allowed \
         (orchestrator.container_image_max_ratio)"
    )]
    Ratio(u64),
    /// More than [`Bounds::entries`].
    #[error("the image has more than {0} files")]
    TooMany(u64),
}

type Result<T> = std::result::Result<T, Error>;

/// The directory beside an image where goes what its layers hide.
const HIDDEN: &str = "hidden";
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Directories in each other that one path of a layer names.
const MAX_DEPTH: usize = 256;
/// Most characters of a foreign path that an error shows.
const SHOWN: usize = 200;
/// A layer may unpack to this many bytes whatever its ratio is: small ones are mostly padding.
const RATIO_FROM: u64 = 16 << 20;
/// Names that one step of removing what was hidden looks at.
const REMOVED_AT_ONCE: u32 = 1_024;

/// Applies one layer, as it comes from a registry or a file (a tar archive, plain, gzip or zstd), to the directory `root`
/// beneath `place`, and returns the bytes of its files. What the layer hides of what is there is removed by way of the
/// directory `hidden` beside it; both are made if they are missing.
///
/// # Errors
///
/// [`Error`], with some of the layer applied: throw `place` away.
pub fn unpack_layer(layer: &[u8], place: &Dir, bounds: Bounds) -> Result<u64> {
    let mut unpack = Unpack::beneath(place, "root", bounds)?;
    unpack.layer(|| layers::unpacked(layer), layer.len() as u64)?;
    Ok(unpack.bytes())
}

/// A directory that layers are applied to, one after the other.
#[derive(Debug)]
pub struct Unpack {
    root: Dir,
    place: Dir,
    /// Where goes what a layer hides of those below.
    trash: Trash,
    bounds: Bounds,
    /// Bytes of files so far.
    bytes: u64,
    /// Files, directories and links so far.
    entries: u64,
    /// Bytes of files that the layer at hand may still write, by its ratio.
    left_of_layer: u64,
    stop: std::sync::Arc<AtomicBool>,
    /// Nothing is there that a layer could hide.
    is_empty: bool,
}

impl Unpack {
    /// Into the directory of this name beneath `place`, which is ours. Both it and `hidden` beside it are made if they are
    /// missing.
    pub fn beneath(place: &Dir, name: &str, bounds: Bounds) -> Result<Unpack> {
        let shown = Path::new(name);
        let (is_empty, made) = match place.create_dir(name, 0o755) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (false, place.open_dir(name)),
            made => (true, made),
        };
        Ok(Unpack {
            place: place.try_clone().map_err(|error| at_io(shown, error))?,
            is_empty,
            root: made.map_err(|error| at_io(shown, error))?,
            trash: Trash::open(place, HIDDEN).map_err(|error| at_io(shown, error))?,
            bounds,
            bytes: 0,
            entries: 0,
            left_of_layer: u64::MAX,
            stop: std::sync::Arc::default(),
        })
    }

    /// Takes away what only the unpacking needed, and returns the bytes of all files.
    pub fn finish(self) -> io::Result<u64> {
        self.place.remove_dir(HIDDEN)?;
        Ok(self.bytes)
    }

    /// Ends with an error soon after this is raised.
    pub fn stopped_by(mut self, stop: std::sync::Arc<AtomicBool>) -> Unpack {
        self.stop = stop;
        self
    }

    /// Applies one layer: first what it hides of those below, then what it brings. `open` reads it from the start each
    /// time; `packed` is how many bytes it has as it came.
    pub fn layer<R: Read>(&mut self, open: impl Fn() -> io::Result<R>, packed: u64) -> Result<R> {
        self.begin_layer(packed);
        if !std::mem::take(&mut self.is_empty) {
            self.whiteouts(open().map_err(Error::Archive)?)?;
        }
        let mut layer = open().map_err(Error::Archive)?;
        self.apply(&mut layer)?;
        Ok(layer)
    }

    /// Bounds what follows by the size of the layer that it comes from.
    fn begin_layer(&mut self, packed: u64) {
        self.left_of_layer = packed.saturating_mul(self.bounds.ratio).max(RATIO_FROM);
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes away what a layer hides of those below it. Done before it is applied: it takes nothing away of its own.
    fn whiteouts(&mut self, layer: impl Read) -> Result<()> {
        let stop = std::sync::Arc::clone(&self.stop);
        let mut count = 0;
        each(layer, self.allowance(&stop), |entry| {
            count += 1;
            self.check_count(count)?;
            let path = plain(&entry.path_bytes())?;
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Ok(true);
            };
            let name = name.as_bytes();
            let Some(hidden) = name.strip_prefix(WHITEOUT) else {
                return Ok(true);
            };
            let Some(dir) = self.directory(parent, false)? else {
                return Ok(true);
            };
            if name == OPAQUE {
                self.clear(&dir, parent)?;
            } else if !hidden.is_empty() && hidden != b"." && hidden != b".." {
                self.hide(&dir, Path::new(std::ffi::OsStr::from_bytes(hidden)), parent)?;
            }
            Ok(true)
        })
        .map_err(|error| self.explained(error))?;
        self.empty_trash()
    }

    fn apply(&mut self, layer: impl Read) -> Result<()> {
        let stop = std::sync::Arc::clone(&self.stop);
        let applied = each(layer, self.allowance(&stop), |entry| {
            self.count_entry()?;
            let path = plain(&entry.path_bytes())?;
            let (Some(parent), Some(name)) = (path.parent(), path.file_name().map(Path::new)) else {
                return Ok(true);
            };
            let kind = entry.header().entry_type();
            if name.as_os_str().as_bytes().starts_with(WHITEOUT) || !is_made(kind) {
                return Ok(true);
            }
            let dir = self
                .directory(parent, true)?
                .ok_or_else(|| Error::Outside(shown(&path)))?;
            let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
            let mtime = entry.header().mtime().unwrap_or(0);
            match kind {
                EntryType::Directory => self.make_dir(&dir, name, &path, mode)?,
                EntryType::Symlink => {
                    let to = entry.link_name_bytes().unwrap_or_default().into_owned();
                    self.make_way(&dir, name, parent)?;
                    let to = Path::new(std::ffi::OsStr::from_bytes(&to));
                    symlinkat(to, &dir, name).map_err(|error| at(&path, error))?;
                }
                EntryType::Link => {
                    let to = plain(&entry.link_name_bytes().unwrap_or_default())?;
                    self.hard_link(&dir, name, parent, &to)?;
                }
                _ => self.make_file(&dir, name, parent, mode, mtime, entry)?,
            }
            Ok(true)
        });
        applied.map_err(|error| self.explained(error))?;
        self.empty_trash()
    }

    /// A layer is larger than its files by what the archive adds to them, but not without end.
    fn allowance<'a>(&self, stop: &'a AtomicBool) -> Allowance<'a> {
        let most = self.bounds.bytes.saturating_mul(2).saturating_add(64 << 20);
        Allowance {
            bytes: most.min(self.left_of_layer.saturating_add(self.left_of_layer / 2)),
            exceeded: || io::Error::new(io::ErrorKind::FileTooLarge, Exceeded),
            stop,
        }
    }

    /// Names the bound that the archive exceeded as a whole.
    fn explained(&self, error: Error) -> Error {
        match &error {
            Error::Archive(source) if source.get_ref().is_some_and(|inner| inner.is::<Exceeded>()) => {
                match self.left_of_layer < self.bounds.bytes {
                    true => Error::Ratio(self.bounds.ratio),
                    false => Error::TooLarge(self.bounds.bytes),
                }
            }
            _ => error,
        }
    }

    fn count_entry(&mut self) -> Result<()> {
        self.entries += 1;
        self.check_count(self.entries)
    }

    /// Removes what was hidden for good, in steps between which a stop is noticed.
    fn empty_trash(&self) -> Result<()> {
        let failed = |error| at_io(Path::new(HIDDEN), error);
        let mut removal = self.trash.removal().map_err(failed)?;
        while !removal.step(REMOVED_AT_ONCE).done {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        match removal.problems().first() {
            Some(problem) => Err(at_io(&problem.path, io::Error::from(problem.error.kind()))),
            None => Ok(()),
        }
    }

    fn check_count(&self, count: u64) -> Result<()> {
        if count > self.bounds.entries {
            Err(Error::TooMany(self.bounds.entries))
        } else {
            Ok(())
        }
    }

    /// The directory that a path leads to below the root. Links are followed as they are inside.
    fn directory(&mut self, path: &Path, make: bool) -> Result<Option<Dir>> {
        match self.open(path) {
            Ok(dir) => return Ok(Some(dir)),
            Err(Errno::NOENT) if make => {}
            Err(Errno::NOENT | Errno::NOTDIR) if !make => return Ok(None),
            Err(error) => return Err(at(path, error)),
        }
        let mut dir = self.open(Path::new("")).map_err(|error| at(path, error))?;
        let mut so_far = PathBuf::new();
        for part in path.components() {
            so_far.push(part);
            dir = match self.open(&so_far) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    self.count_entry()?;
                    mkdirat(&dir, Path::new(&part), Mode::from_raw_mode(0o755)).map_err(|error| at(&so_far, error))?;
                    self.open(&so_far).map_err(|error| at(&so_far, error))?
                }
                Err(error) => return Err(at(&so_far, error)),
            };
        }
        Ok(Some(dir))
    }

    fn open(&self, path: &Path) -> std::result::Result<Dir, Errno> {
        /// A rename anywhere on the system may make the kernel give up a resolution.
        const TRIES: u32 = 32;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut tries = 0;
        let opened: OwnedFd = loop {
            tries += 1;
            match openat2(&self.root, path, flags, Mode::empty(), INSIDE) {
                Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => {}
                opened => break opened?,
            }
        };
        Dir::from_fd(opened).map_err(|_| Errno::NOTDIR)
    }

    fn make_dir(&mut self, dir: &Dir, name: &Path, path: &Path, mode: u32) -> Result<()> {
        // The owner, which is us and later the user inside, can always look and write.
        let mode = Mode::from_raw_mode(mode | 0o700);
        match kind(dir, name) {
            Some(FileType::Directory) => {}
            Some(_) => {
                unlinkat(dir, name, AtFlags::empty()).map_err(|error| at(path, error))?;
                mkdirat(dir, name, mode).map_err(|error| at(path, error))?;
            }
            None => mkdirat(dir, name, mode).map_err(|error| at(path, error))?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(dir, name, flags, Mode::empty()).map_err(|error| at(path, error))?;
        rustix::fs::fchmod(made, mode).map_err(|error| at(path, error))
    }

    fn make_file(
        &mut self,
        dir: &Dir,
        name: &Path,
        parent: &Path,
        mode: u32,
        mtime: u64,
        from: &mut (impl Read + ?Sized),
    ) -> Result<()> {
        let path = parent.join(name);
        self.make_way(dir, name, parent)?;
        // Never what is there already: that may be a link to something else.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(dir, name, flags, Mode::from_raw_mode(0o600)).map_err(|error| at(&path, error))?;
        let mut file = File::from(file);
        let mut buffer = vec![0; 128 << 10];
        loop {
            let length = from.read(&mut buffer).map_err(Error::Archive)?;
            if length == 0 {
                break;
            }
            self.bytes += length as u64;
            if self.bytes > self.bounds.bytes {
                return Err(Error::TooLarge(self.bounds.bytes));
            }
            self.left_of_layer = self
                .left_of_layer
                .checked_sub(length as u64)
                .ok_or(Error::Ratio(self.bounds.ratio))?;
            file.write_all(&buffer[..length])
                .map_err(|source| at_io(&path, source))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode | 0o400)).map_err(|error| at(&path, error))?;
        let time = Timespec {
            tv_sec: i64::try_from(mtime).unwrap_or(0),
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        // A date that the file system does not know is left as it is.
        let _ = utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    fn hard_link(&mut self, dir: &Dir, name: &Path, parent: &Path, to: &Path) -> Result<()> {
        let path = parent.join(name);
        let (Some(to_parent), Some(to_name)) = (to.parent(), to.file_name()) else {
            return Err(Error::Outside(shown(&path)));
        };
        let missing = || at(&path, Errno::NOENT);
        let to_dir = self.directory(to_parent, false)?.ok_or_else(missing)?;
        match kind(&to_dir, Path::new(to_name)) {
            Some(FileType::RegularFile | FileType::Symlink) => {}
            _ => return Err(missing()),
        }
        let same = |one: &Dir, name: &Path| {
            statat(one, name, AtFlags::SYMLINK_NOFOLLOW)
                .ok()
                .map(|stat| (stat.st_dev, stat.st_ino))
        };
        if same(&to_dir, Path::new(to_name)) == same(dir, name) {
            return Ok(());
        }
        self.make_way(dir, name, parent)?;
        linkat(&to_dir, Path::new(to_name), dir, name, AtFlags::empty()).map_err(|error| at(&path, error))
    }

    /// Whatever has this name goes away.
    fn make_way(&self, dir: &Dir, name: &Path, parent: &Path) -> Result<()> {
        match kind(dir, name) {
            None => Ok(()),
            Some(FileType::Directory) => self.hide(dir, name, parent),
            Some(_) => unlinkat(dir, name, AtFlags::empty()).map_err(|error| at(&parent.join(name), error)),
        }
    }

    /// Moves a file or a whole tree out of the image.
    fn hide(&self, dir: &Dir, name: &Path, parent: &Path) -> Result<()> {
        let taken = self.trash.take(dir, name);
        taken.map(drop).map_err(|error| at_io(&parent.join(name), error))
    }

    /// Moves everything out of a directory of the image.
    fn clear(&self, dir: &Dir, path: &Path) -> Result<()> {
        let mut names = dir.entries().map_err(|error| at_io(path, error))?;
        loop {
            let mut any = false;
            for entry in &mut names {
                let entry = entry.map_err(|error| at_io(path, error))?;
                self.hide(dir, Path::new(&entry.name), path)?;
                any = true;
            }
            // A directory that changes while it is read may show some of its names only the next time.
            if !any {
                return Ok(());
            }
            names.rewind();
        }
    }
}

/// Devices and pipes are left out: a sandbox has its own devices.
fn is_made(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Directory
            | EntryType::Symlink
            | EntryType::Link
            | EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
    )
}

fn kind(dir: impl AsFd, name: &Path) -> Option<FileType> {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

fn at(path: &Path, error: Errno) -> Error {
    at_io(path, error.into())
}

fn at_io(path: &Path, source: io::Error) -> Error {
    Error::Io {
        path: shown(path),
        source,
    }
}

/// A foreign path as an error may show it: bounded, and without control characters.
fn shown(path: &Path) -> String {
    path.to_string_lossy()
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect()
}

/// A path of a layer, relative to its root. One that goes up is refused, not mended.
fn plain(bytes: &[u8]) -> Result<PathBuf> {
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let outside = || Error::Outside(shown(path));
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    if plain.components().count() > MAX_DEPTH {
        return Err(outside());
    }
    Ok(plain)
}

/// The archive as a whole has more bytes than it may.
#[derive(Debug, thiserror::Error)]
#[error("the unpacked layer exceeds the image size limit")]
struct Exceeded;

#[cfg(test)]
mod tests;
