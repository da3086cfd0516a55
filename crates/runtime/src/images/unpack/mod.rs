//! Applies layers to a directory. A layer is foreign and may be hostile: no path leads out of the directory, whatever
//! links it holds; nothing but directories, files and links is made; and there are bounds on everything.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, linkat, mkdirat, openat, openat2,
    statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;

/// What an image may come to.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// All layers together, unpacked.
    pub bytes: u64,
    pub entries: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            bytes: 32 << 30,
            entries: 2_000_000,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("the layer cannot be read: {0}")]
    Archive(io::Error),
    #[error("{0} leads out of the image")]
    Outside(String),
    #[error("the image is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the image has more than {0} files")]
    TooMany(u64),
}

type Result<T> = std::result::Result<T, Error>;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Directories in each other.
const MAX_DEPTH: usize = 256;

/// A directory that layers are applied to, one after the other.
#[derive(Debug)]
pub struct Unpack {
    root: OwnedFd,
    bounds: Bounds,
    /// So far.
    bytes: u64,
    entries: u64,
}

impl Unpack {
    /// `root` is there, empty and ours.
    pub fn into(root: &Path, bounds: Bounds) -> Result<Unpack> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = openat(CWD, root, flags, Mode::empty()).map_err(|error| at(root, error))?;
        Ok(Unpack {
            root,
            bounds,
            bytes: 0,
            entries: 0,
        })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What a layer takes away from those below it. Done before it is applied: it takes nothing away of its own.
    pub fn whiteouts(&mut self, layer: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(self.bounded(layer));
        for (index, entry) in archive.entries().map_err(Error::Archive)?.enumerate() {
            let entry = entry.map_err(Error::Archive)?;
            self.check_count(index as u64)?;
            let path = plain(&entry.path_bytes())?;
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            let name = name.as_bytes();
            let Some(hidden) = name.strip_prefix(WHITEOUT) else {
                continue;
            };
            let Some(dir) = self.directory(parent, false)? else {
                continue;
            };
            if name == OPAQUE {
                self.clear(&dir, parent)?;
            } else if !hidden.is_empty() && hidden != b"." && hidden != b".." {
                self.remove(&dir, Path::new(std::ffi::OsStr::from_bytes(hidden)), parent)?;
            }
        }
        Ok(())
    }

    pub fn apply(&mut self, layer: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(self.bounded(layer));
        for entry in archive.entries().map_err(Error::Archive)? {
            let mut entry = entry.map_err(Error::Archive)?;
            self.entries += 1;
            self.check_count(self.entries)?;
            let path = plain(&entry.path_bytes())?;
            let (Some(parent), Some(name)) = (path.parent(), path.file_name().map(Path::new)) else {
                continue;
            };
            if name.as_os_str().as_bytes().starts_with(WHITEOUT) {
                continue;
            }
            let kind = entry.header().entry_type();
            if !is_made(kind) {
                continue;
            }
            let dir = self
                .directory(parent, true)?
                .ok_or_else(|| Error::Outside(path.display().to_string()))?;
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
                _ => self.make_file(&dir, name, parent, mode, mtime, &mut entry)?,
            }
        }
        Ok(())
    }

    /// A layer is larger than its files by what the archive adds to them, but not without end.
    fn bounded<R: Read>(&self, from: R) -> Bounded<R> {
        let left = self.bounds.bytes.saturating_mul(2).saturating_add(64 << 20);
        Bounded { from, left }
    }

    fn check_count(&self, count: u64) -> Result<()> {
        if count > self.bounds.entries {
            Err(Error::TooMany(self.bounds.entries))
        } else {
            Ok(())
        }
    }

    /// The directory that a path leads to below the root. Links are followed as they are inside.
    fn directory(&self, path: &Path, make: bool) -> Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| {
            let path = if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                path
            };
            openat2(&self.root, path, flags, Mode::empty(), INSIDE)
        };
        match open(path) {
            Ok(dir) => return Ok(Some(dir)),
            Err(Errno::NOENT) if make => {}
            Err(Errno::NOENT | Errno::NOTDIR) if !make => return Ok(None),
            Err(error) => return Err(at(path, error)),
        }
        let mut dir = open(Path::new("")).map_err(|error| at(path, error))?;
        let mut so_far = PathBuf::new();
        for part in path.components() {
            so_far.push(part);
            dir = match open(&so_far) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    mkdirat(&dir, Path::new(&part), Mode::from_raw_mode(0o755)).map_err(|error| at(&so_far, error))?;
                    open(&so_far).map_err(|error| at(&so_far, error))?
                }
                Err(error) => return Err(at(&so_far, error)),
            };
        }
        Ok(Some(dir))
    }

    fn make_dir(&mut self, dir: &OwnedFd, name: &Path, path: &Path, mode: u32) -> Result<()> {
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
        dir: &OwnedFd,
        name: &Path,
        parent: &Path,
        mode: u32,
        mtime: u64,
        from: &mut impl Read,
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
            file.write_all(&buffer[..length]).map_err(|source| Error::Io {
                path: path.display().to_string(),
                source,
            })?;
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

    fn hard_link(&mut self, dir: &OwnedFd, name: &Path, parent: &Path, to: &Path) -> Result<()> {
        let path = parent.join(name);
        let (Some(to_parent), Some(to_name)) = (to.parent(), to.file_name()) else {
            return Err(Error::Outside(path.display().to_string()));
        };
        let missing = || at(&path, Errno::NOENT);
        let to_dir = self.directory(to_parent, false)?.ok_or_else(missing)?;
        match kind(&to_dir, Path::new(to_name)) {
            Some(FileType::RegularFile | FileType::Symlink) => {}
            _ => return Err(missing()),
        }
        let same = |one: &OwnedFd, name: &Path| {
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
    fn make_way(&self, dir: &OwnedFd, name: &Path, parent: &Path) -> Result<()> {
        if kind(dir, name).is_some() {
            self.remove(dir, name, parent)
        } else {
            Ok(())
        }
    }

    fn remove(&self, dir: &OwnedFd, name: &Path, parent: &Path) -> Result<()> {
        let path = parent.join(name);
        match kind(dir, name) {
            None => return Ok(()),
            Some(FileType::Directory) => {}
            Some(_) => return unlinkat(dir, name, AtFlags::empty()).map_err(|error| at(&path, error)),
        }
        if path.components().count() > 2 * MAX_DEPTH {
            return Err(Error::Outside(path.display().to_string()));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = openat(dir, name, flags, Mode::empty()).map_err(|error| at(&path, error))?;
        self.clear(&inner, &path)?;
        unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(|error| at(&path, error))
    }

    fn clear(&self, dir: &OwnedFd, path: &Path) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let readable = openat(dir, ".", flags, Mode::empty()).map_err(|error| at(path, error))?;
        for entry in Dir::read_from(&readable).map_err(|error| at(path, error))? {
            let entry = entry.map_err(|error| at(path, error))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                self.remove(dir, Path::new(std::ffi::OsStr::from_bytes(name)), path)?;
            }
        }
        Ok(())
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
    Error::Io {
        path: path.display().to_string(),
        source: error.into(),
    }
}

/// A path of a layer, relative to its root. One that goes up is refused, not mended.
fn plain(bytes: &[u8]) -> Result<PathBuf> {
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let outside = || Error::Outside(path.display().to_string());
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

/// A stream that ends with an error after so many bytes: a small layer may unpack to anything.
struct Bounded<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.left = self
            .left
            .checked_sub(length as u64)
            .ok_or_else(|| io::Error::other("the layer unpacks to more than an image may have"))?;
        Ok(length)
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
