//! Replacing a private file whole: readers see the old one or the new one.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use nix::fcntl::{Flock, FlockArg};

use crate::failure::{Exit, Failure};

/// 0600. A link is followed: what it points to is replaced, not the link.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    nexus_walk::write_file(&target, bytes, 0o600).map_err(|error| Failure::file("write", path, &error))
}

/// The text as it is; empty where there is no file yet.
pub fn read(path: &Path) -> Result<String, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::file("read", path, &error)),
    }
}

/// Keeps two commands from changing one file at once. The directory itself is locked: no file is left behind.
pub fn lock(path: &Path) -> Result<Flock<File>, Failure> {
    let parent = path.parent().expect("a settings file lies in a directory");
    let directory = File::open(parent).map_err(|error| Failure::file("open", parent, &error))?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|_| {
        Failure::new(Exit::Failed, "another command is changing the settings right now")
            .hint("try again when it is done")
    })
}
