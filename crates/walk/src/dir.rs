//! A directory handle, and the operations beneath it.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::beneath::{self, plain};
use crate::meta::{Kind, Meta};

/// An open directory. Paths are relative to it and follow no link; a `name` is one component.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

/// A name in a directory; its kind is a hint, as it may have changed since.
#[derive(Clone, Debug)]
pub struct Name {
    /// The name, as bytes.
    pub name: OsString,
    /// Its kind when the directory was read; [`Kind::Unknown`] where the file system does not say.
    pub hint: Kind,
}

/// The names in a directory, in no order, without `.` and `..`.
#[derive(Debug)]
pub struct Entries {
    read: rustix::fs::Dir,
}

impl Dir {
    /// Opens a directory by a path that is ours to trust: links in it are followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd })
    }

    /// The directory that a trusted path lies in, and its name there. The path itself may be missing.
    pub fn of(path: &Path) -> io::Result<(Self, OsString)> {
        let name = path.file_name().ok_or_else(|| {
            let text = format!("{} names no file", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok((Self::open(parent.unwrap_or(Path::new(".")))?, name.to_owned()))
    }

    /// # Errors
    /// What the handle stands for is no directory.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let found: Meta = rustix::fs::fstat(&fd)?.into();
        if found.kind != Kind::Dir {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { fd })
    }

    /// A second handle of the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
        })
    }

    /// What this directory is.
    pub fn own_meta(&self) -> io::Result<Meta> {
        Ok(rustix::fs::fstat(&self.fd)?.into())
    }

    /// Opens a directory beneath this one; no component of `path` may be a link.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = beneath::open(self.fd.as_fd(), path.as_ref(), flags, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Opens whatever there is for reading, without waiting, with what it is by its handle.
    pub fn open_any(&self, path: impl AsRef<Path>) -> io::Result<(OwnedFd, Meta)> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let fd = beneath::open(self.fd.as_fd(), path.as_ref(), flags, Mode::empty())?;
        let found = rustix::fs::fstat(&fd)?.into();
        Ok((fd, found))
    }

    /// Opens a plain file for reading.
    ///
    /// # Errors
    /// `InvalidInput` names another kind; links, sockets and what is missing fail as the kernel says.
    pub fn open_file(&self, path: impl AsRef<Path>) -> io::Result<(File, Meta)> {
        let (fd, found) = self.open_any(path)?;
        if found.kind != Kind::File {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("it is {}, not a file", found.kind.name()),
            ));
        }
        Ok((File::from(fd), found))
    }

    /// The handle that `..` of this directory leads to. It may lie outside of where this one was opened: compare it.
    pub(crate) fn parent(&self) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, c"..", flags, Mode::empty())?;
        Ok(Self { fd })
    }

    /// What a name stands for at this moment, a link itself rather than its target.
    pub fn meta(&self, name: impl AsRef<OsStr>) -> io::Result<Meta> {
        let name = plain(name.as_ref())?;
        Ok(rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?.into())
    }

    /// Whether the name is there, as whatever kind.
    pub fn exists(&self, name: impl AsRef<OsStr>) -> io::Result<bool> {
        match self.meta(name) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the names of this directory from its beginning.
    pub fn entries(&self) -> io::Result<Entries> {
        Ok(Entries {
            read: rustix::fs::Dir::read_from(&self.fd)?,
        })
    }

    /// Where a link points to, as bytes.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> io::Result<OsString> {
        let target = rustix::fs::readlinkat(&self.fd, plain(name.as_ref())?, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Makes a link to `target`, which is stored as it is and not looked up.
    pub fn symlink(&self, target: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target.as_ref(), &self.fd, plain(name.as_ref())?)?)
    }

    /// Makes a directory that must not be there yet; the umask takes bits of `mode` away.
    pub fn create_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<Self> {
        let name = plain(name.as_ref())?;
        rustix::fs::mkdirat(&self.fd, name, bits(mode))?;
        self.open_dir(name)
    }

    /// Opens the directory at `path` and makes what is missing on the way.
    pub fn create_dirs(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<Self> {
        let mut here = self.try_clone()?;
        for component in path.as_ref().components() {
            let name = plain(component.as_os_str())?;
            match rustix::fs::mkdirat(&here.fd, name, bits(mode)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            here = here.open_dir(name)?;
        }
        Ok(here)
    }

    /// Makes a file that must not be there yet, open for reading and writing.
    pub fn create_file(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let name = Path::new(plain(name.as_ref())?);
        Ok(File::from(beneath::open(self.fd.as_fd(), name, flags, bits(mode))?))
    }

    /// Moves a name to another directory of the same file system; a file that is there already is replaced.
    pub fn rename(&self, name: impl AsRef<OsStr>, to: &Self, new: impl AsRef<OsStr>) -> io::Result<()> {
        let (name, new) = (plain(name.as_ref())?, plain(new.as_ref())?);
        Ok(rustix::fs::renameat(&self.fd, name, &to.fd, new)?)
    }

    /// Like [`Self::rename`], but fails with `AlreadyExists` rather than replace anything.
    pub fn rename_new(&self, name: impl AsRef<OsStr>, to: &Self, new: impl AsRef<OsStr>) -> io::Result<()> {
        use rustix::fs::{RenameFlags, renameat_with};
        use rustix::io::Errno;
        let (name, new) = (plain(name.as_ref())?, plain(new.as_ref())?);
        match renameat_with(&self.fd, name, &to.fd, new, RenameFlags::NOREPLACE) {
            // File systems that do not know the flag: a second name is never given to what exists. A directory can have no
            // second name, but can only take the place of an empty one.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                if self.meta(name)?.kind == Kind::Dir {
                    return match to.exists(new)? {
                        true => Err(io::ErrorKind::AlreadyExists.into()),
                        false => self.rename(name, to, new),
                    };
                }
                rustix::fs::linkat(&self.fd, name, &to.fd, new, AtFlags::empty())?;
                self.remove_file(name)
            }
            done => Ok(done?),
        }
    }

    /// Gives each of two names to what the other stood for, at once.
    ///
    /// # Errors
    /// `Unsupported` where the file system cannot do so.
    pub fn exchange(&self, name: impl AsRef<OsStr>, to: &Self, other: impl AsRef<OsStr>) -> io::Result<()> {
        use rustix::fs::{RenameFlags, renameat_with};
        use rustix::io::Errno;
        let (name, other) = (plain(name.as_ref())?, plain(other.as_ref())?);
        match renameat_with(&self.fd, name, &to.fd, other, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(io::ErrorKind::Unsupported.into()),
            done => Ok(done?),
        }
    }

    /// Locks the directory against others who ask for the same, for as long as this handle lives. `false` if somebody has.
    pub fn try_lock(&self) -> io::Result<bool> {
        use rustix::fs::{FlockOperation, flock};
        match flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            done => Ok(done.map(|()| true)?),
        }
    }

    /// Removes anything but a directory.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, plain(name.as_ref())?, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.fd,
            plain(name.as_ref())?,
            AtFlags::REMOVEDIR,
        )?)
    }

    /// Its entries are on the disk when this returns.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Sets the permission bits of this directory; the umask has no part in it.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.fd, bits(mode))?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Entries {
    /// From the start again, with what is there now.
    pub fn rewind(&mut self) {
        self.read.rewind();
    }
}

impl Iterator for Entries {
    type Item = io::Result<Name>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.read.read()? {
                Ok(entry) => entry,
                // Linux says so of a directory that was removed while it was read.
                Err(rustix::io::Errno::NOENT) => return None,
                Err(error) => return Some(Err(error.into())),
            };
            let name = entry.file_name();
            if name != c"." && name != c".." {
                return Some(Ok(Name {
                    name: owned(name),
                    hint: entry.file_type().into(),
                }));
            }
        }
    }
}

fn owned(name: &CStr) -> OsString {
    OsStr::from_bytes(name.to_bytes()).to_owned()
}

/// The type of a mode is narrower on some systems; twelve bits fit everywhere.
pub(crate) fn bits(mode: u32) -> Mode {
    Mode::from_bits_truncate(rustix::fs::RawMode::try_from(mode & 0o7777).expect("twelve bits fit"))
}
