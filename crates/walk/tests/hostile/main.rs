//! Trees as a hostile user or container makes them, and changes them while they are read and removed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod removing;
mod rights;
mod walking;

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nexus_walk::Dir;
use rustix::fs::{Mode, OFlags, mkdirat, openat};

/// Directories named `name`, each in the one before; `last` gets the handle of the innermost.
pub fn nest(dir: &Dir, name: &str, levels: usize) -> OwnedFd {
    let mut here: OwnedFd = dir.as_fd().try_clone_to_owned().unwrap();
    for _ in 0..levels {
        mkdirat(&here, name, Mode::RWXU).unwrap();
        here = openat(&here, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    here
}

/// Makes an empty file beneath a handle.
pub fn touch(dir: impl AsFd, name: impl AsRef<OsStr>) {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    openat(dir, name.as_ref(), flags, Mode::RUSR | Mode::WUSR).unwrap();
}

/// A temporary directory whose removal does not depend on what is tested here: `rm` knows deep trees.
pub struct Site(pub tempfile::TempDir);

impl Site {
    pub fn make() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn dir(&self) -> Dir {
        Dir::open(self.0.path()).unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _gone = std::process::Command::new("rm").arg("-rf").arg(self.0.path()).status();
    }
}

/// The highest number of a handle that this process would get now: a bound on how many are open.
pub fn handles_open() -> i32 {
    File::open("/").unwrap().as_raw_fd()
}
