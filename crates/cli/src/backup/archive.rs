//! Opens a backup by its path, and the databases in it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use nexus_backup::{Error, Manifest};
use nexus_store::copy;
use nexus_walk::Dir;

use super::progress::Progress;
use crate::failure::{Exit, Failure};

/// Only the manifest, which stands first.
pub fn manifest(path: &Path) -> Result<Manifest, Failure> {
    nexus_backup::manifest_of(open(path)?).map_err(|error| failure(path, error))
}

/// Every byte against the manifest, and every database opened. With `into` everything is unpacked there.
pub fn read(path: &Path, into: Option<&Path>, progress: &mut Progress) -> Result<Manifest, Failure> {
    let scratch = tempfile::tempdir()
        .map_err(|error| Failure::new(Exit::Failed, format!("failed to create a temporary directory: {error}")))?;
    let place = into.unwrap_or(scratch.path());
    let dir = Dir::open(place).map_err(|error| Failure::file("open", place, &error))?;
    let total = manifest(path)?.bytes();
    progress.begin("checking", total);
    let wanted = |entry: &nexus_backup::Entry| into.is_some() || entry.database.is_some();
    let read = nexus_backup::read(open(path)?, Some(&dir), wanted, |bytes| progress.add(bytes));
    let manifest = read.map_err(|error| failure(path, error))?;
    for entry in manifest.files.iter().filter(|entry| entry.database.is_some()) {
        copy::inspect(&place.join(&entry.path)).map_err(|error| damaged(path, &error.to_string()))?;
    }
    Ok(manifest)
}

fn open(path: &Path) -> Result<io::BufReader<File>, Failure> {
    let opened = Dir::of(path).and_then(|(dir, name)| match dir.open_file(&name) {
        // The path is its caller's own: a link in it is meant.
        Err(error) if dir.meta(&name).is_ok_and(|found| found.kind == nexus_walk::Kind::Link) => {
            let real: PathBuf = path.canonicalize().map_err(|_| error)?;
            let (dir, name) = Dir::of(&real)?;
            dir.open_file(name)
        }
        opened => opened,
    });
    let (file, _) = opened.map_err(|error| {
        let failure = Failure::file("open", path, &error);
        if error.kind() == io::ErrorKind::NotFound {
            return Failure {
                exit: Exit::NotFound,
                ..failure
            }
            .hint("see what there is with: nexus backup list");
        }
        failure
    })?;
    Ok(io::BufReader::new(file))
}

fn failure(path: &Path, error: Error) -> Failure {
    match error {
        Error::NotABackup => Failure::new(Exit::Failed, format!("{} is not a backup of nexus", path.display())),
        Error::Unfit(reason) => Failure::new(Exit::Failed, format!("{} cannot be used: {reason}", path.display())),
        Error::Damaged(reason) => damaged(path, &reason),
        Error::Write { path, cause } => Failure::file("write", &path, &cause),
        Error::Stopped(cause) => Failure::file("read", path, &cause),
    }
}

fn damaged(path: &Path, reason: &str) -> Failure {
    Failure::new(Exit::Failed, format!("{} is damaged: {reason}", path.display()))
        .hint("try an older one: nexus backup list")
}
