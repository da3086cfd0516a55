//! The file of a Unix socket that we bound, and the lock that keeps two starters apart while it exists. Both go when it
//! is dropped; a file that is another one by then is left alone.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};

use crate::listener::{BindError, failed, probe, taken};

/// Keeps other starters of the same socket out until the socket file is gone.
pub(crate) struct Lock {
    held: Flock<File>,
    path: PathBuf,
}

impl Lock {
    pub fn take(socket: &Path) -> Result<Lock, BindError> {
        let mut name = socket.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        // Again if the holder removed the file between our open and our lock; each round needs another such removal.
        for _ in 0..16 {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(&path)
                .map_err(|error| Self::refused(&path, error))?;
            let mut held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => held,
                Err((file, nix::errno::Errno::EWOULDBLOCK)) => return Err(Self::holder(socket, file)),
                Err((_, errno)) => return Err(failed("lock", &path)(errno.into())),
            };
            let ours = held.metadata().map_err(failed("look at", &path))?;
            let there = path.symlink_metadata();
            if !there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                continue;
            }
            let note = |file: &mut File| -> io::Result<()> {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())
            };
            note(&mut held).map_err(failed("write", &path))?;
            return Ok(Lock { held, path });
        }
        Err(taken(socket, None, None))
    }

    fn refused(path: &Path, error: io::Error) -> BindError {
        match path.symlink_metadata() {
            Ok(found) if found.uid() != geteuid().as_raw() => BindError::NotOurs {
                path: path.into(),
                uid: found.uid(),
            },
            _ => failed("open", path)(error),
        }
    }

    fn holder(socket: &Path, mut file: File) -> BindError {
        let uid = file.metadata().ok().map(|found| found.uid());
        let mut text = String::new();
        let noted = file
            .read_to_string(&mut text)
            .ok()
            .and_then(|_| text.trim().parse().ok());
        match probe(socket) {
            Ok((uid, pid)) => taken(socket, uid, pid),
            Err(_) => taken(socket, uid, noted),
        }
    }
}

impl Lock {
    /// Whether whoever looks for the lock finds this one.
    fn is_there(&self) -> bool {
        self.held
            .metadata()
            .is_ok_and(|held| id(&self.path) == Some((held.dev(), held.ino())))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.is_there() {
            return;
        }
        // Unlinked while still locked; whoever opened it meanwhile sees that the name is gone and starts over.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the lock file could not be removed");
        }
    }
}

/// The file of a socket we bound, removed on drop if it is still the same one.
pub(crate) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
    // After the file: released only when the name is free.
    // `None`: whoever passed us the first socket of this path holds it.
    lock: Option<Lock>,
}

/// What tells the file at `path` from every other; `None` if there is none.
pub(crate) fn id(path: &Path) -> Option<(u64, u64)> {
    let found = path.symlink_metadata().ok()?;
    Some((found.dev(), found.ino()))
}

impl SocketFile {
    pub fn of(path: &Path, lock: Option<Lock>) -> Result<Self, BindError> {
        let made = path.symlink_metadata().map_err(failed("look at", path))?;
        Ok(SocketFile {
            path: path.into(),
            id: (made.dev(), made.ino()),
            lock,
        })
    }

    pub fn is_there(&self) -> bool {
        id(&self.path) == Some(self.id)
    }

    /// Takes the lock again if its file went too.
    pub fn renew_lock(&mut self) -> Result<(), BindError> {
        if self.lock.as_ref().is_some_and(|lock| !lock.is_there()) {
            self.lock = Some(Lock::take(&self.path)?);
        }
        Ok(())
    }

    /// The file at the path is ours from now on: we just bound it.
    pub fn renew(&mut self) -> Result<(), BindError> {
        let made = self.path.symlink_metadata().map_err(failed("look at", &self.path))?;
        self.id = (made.dev(), made.ino());
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        match self.path.symlink_metadata() {
            Ok(found) if (found.dev(), found.ino()) == self.id => {
                if let Err(error) = std::fs::remove_file(&self.path) {
                    tracing::warn!(path = %self.path.display(), %error, "the socket file could not be removed");
                }
            }
            Ok(_) => {
                tracing::warn!(path = %self.path.display(), "the socket file is another one now, it is left alone")
            }
            Err(_) => {}
        }
    }
}
