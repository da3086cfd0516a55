//! Writes a file atomically: its name stands for the old content or the new one, also after a crash.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dir::Dir;

/// Begins the names of files that are not whole yet. Whoever owns a directory may remove them when nobody writes there.
pub const UNFINISHED: &str = ".nexus-new-";

/// A file beside the one that it will replace. Dropped before it is put in place, it is removed.
#[derive(Debug)]
pub struct Fresh {
    dir: Dir,
    name: OsString,
    file: File,
    placed: bool,
}

impl Fresh {
    /// An empty file of exactly this mode, whatever the umask is.
    pub fn new(dir: &Dir, mode: u32) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        const TRIES: u32 = 64;
        let dir = dir.try_clone()?;
        for _ in 0..TRIES {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let name = format!(
                "{UNFINISHED}{}-{:x}-{number}",
                std::process::id(),
                now.as_nanos() & 0xffff_ffff
            );
            let file = match dir.create_file(&name, mode & 0o700) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            rustix::fs::fchmod(&file, crate::dir::bits(mode))?;
            return Ok(Self {
                dir,
                name: name.into(),
                file,
                placed: false,
            });
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The file, to read its metadata or to write to.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file, to write to.
    pub fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// Under this name from now on, in place of what had it. On the disk when this returns.
    pub fn replace(mut self, name: impl AsRef<OsStr>) -> io::Result<()> {
        self.file.sync_all()?;
        self.dir.rename(&self.name, &self.dir, name)?;
        self.placed = true;
        self.dir.sync()
    }

    /// Under this name from now on.
    ///
    /// # Errors
    /// `AlreadyExists` if something has the name.
    pub fn place(mut self, name: impl AsRef<OsStr>) -> io::Result<()> {
        self.file.sync_all()?;
        self.dir.rename_new(&self.name, &self.dir, name)?;
        self.placed = true;
        self.dir.sync()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.placed {
            // What stays has a name that says what it is.
            let _stays = self.dir.remove_file(&self.name);
        }
    }
}

impl Dir {
    /// Writes a whole file in place of what had the name. On the disk when this returns.
    pub fn write(&self, name: impl AsRef<OsStr>, content: &[u8], mode: u32) -> io::Result<()> {
        let mut fresh = Fresh::new(self, mode)?;
        fresh.file_mut().write_all(content)?;
        fresh.replace(name)
    }
}

/// Writes a whole file in place of what had the name, by a path that is ours to trust. On the disk when this returns.
///
/// # Errors
/// The directory is missing, or nothing can be written there.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (dir, name) = Dir::of(path)?;
    dir.write(name, content, mode)
}
