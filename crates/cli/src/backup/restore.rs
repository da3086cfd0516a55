//! Restores a backup: unpacked and checked beside the old state, then swapped by rename. Nothing is deleted.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use nexus_backup::{Entry, Manifest};
use nexus_config::Root;
use nexus_store::copy;
use nexus_walk::{Dir, Fresh, Kind, Rights};

use super::{
    archive, pick,
    progress::Progress,
    staging::{self, Staging},
    stamp,
};
use crate::{
    commands::init::EXAMPLE,
    failure::{Exit, Failure},
};

#[derive(Debug)]
pub struct Restored {
    pub manifest: Manifest,
    /// Where the old state is now, and databases that lay elsewhere.
    pub aside: Vec<PathBuf>,
    /// Secrets of the old state that the backup does not have, and that are in place still.
    pub kept: Vec<PathBuf>,
}

/// Whether there is anything in a state that somebody could miss.
pub fn is_empty(state: &Path) -> bool {
    let Ok(state) = Dir::open(state) else {
        return state.symlink_metadata().is_err();
    };
    let mut empty = true;
    let seen = pick::each(&state, |path, entry, dir| {
        empty &= match entry.meta.kind {
            Kind::Dir => true,
            Kind::File => path == Path::new("nexus/config.toml") && is_example(dir, &entry.name),
            _ => false,
        };
        empty
    });
    empty && seen.is_ok()
}

fn is_example(dir: &Dir, name: &std::ffi::OsStr) -> bool {
    let read = dir
        .open_file(name)
        .and_then(|(file, _)| nexus_walk::read_bounded(&file, EXAMPLE.len() as u64));
    read.is_ok_and(|text| text == EXAMPLE.as_bytes())
}

/// `named` are the databases that the settings of this tree keep outside of `state/`, with their names in a backup. A
/// backup puts back no others: whoever wrote it could have anything put anywhere.
pub fn restore(
    root: &Root,
    from: &Path,
    force: bool,
    named: &[(PathBuf, String)],
    progress: &mut Progress,
) -> Result<Restored, Failure> {
    let state = root.state();
    let there = state.symlink_metadata().is_ok();
    if there && !force && !is_empty(&state) {
        return Err(Failure::new(Exit::Failed, format!("{} is not empty", state.display()))
            .hint("with --force the old one is moved aside, and nothing is deleted"));
    }
    // A link is followed: the new state takes the place of what it points to.
    let state = state.canonicalize().unwrap_or(state);
    let parent = state.parent().expect("a state lies in a directory").to_path_buf();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&parent)
        .map_err(|error| Failure::file("create", &parent, &error))?;
    staging::sweep(&parent).map_err(|error| Failure::file("tidy up", &parent, &error))?;
    let staged = Staging::new(&parent, staging::RESTORE)
        .map_err(|error| Failure::file("create a directory in", &parent, &error))?;
    let place = parent.join(staged.name());
    let manifest = archive::read(from, Some(&place), progress)?;
    for entry in &manifest.files {
        check_original(entry, named)?;
    }
    for name in ["nexus", "db", "run", "logs"] {
        let below = Path::new("state").join(name);
        staged
            .dir()
            .create_dirs(&below, 0o700)
            .map_err(|error| Failure::file("create", &place.join(&below), &error))?;
    }
    for entry in manifest.files.iter().filter(|entry| entry.database.is_some()) {
        // Whoever read this log further than it goes now must start over, not go on in another history.
        copy::renew(&place.join(&entry.path)).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    }
    let kept = if there {
        keep_secrets(&state, &staged)?
    } else {
        Vec::new()
    };
    let mut aside = Vec::new();
    aside.extend(put_in_place(&state, &staged, there)?);
    for entry in &manifest.files {
        if let Some(original) = &entry.original {
            aside.extend(elsewhere(staged.dir(), &entry.path, original)?);
        }
    }
    Ok(Restored { manifest, aside, kept })
}

/// Whether the settings name the place outside of `state/` that this is put back to.
fn check_original(entry: &Entry, named: &[(PathBuf, String)]) -> Result<(), Failure> {
    let Some(original) = &entry.original else {
        return Ok(());
    };
    let ours = |(path, name): &(PathBuf, String)| path == original && *name == entry.path;
    if entry.database.is_some() && named.iter().any(ours) {
        return Ok(());
    }
    let setting = Path::new(&entry.path).file_name().unwrap_or_default();
    let why = format!(
        "the backup puts {:?} at {original:?}, which the settings of this tree do not name",
        entry.path
    );
    let hint = format!("if a database belongs there, name it first: nexus config set {setting:?} {original:?}");
    Err(Failure::new(Exit::Failed, why).hint(hint))
}

/// Where the old state is now.
fn put_in_place(state: &Path, staged: &Staging, there: bool) -> Result<Option<PathBuf>, Failure> {
    let failed = |error: io::Error| Failure::file("put in place", state, &error);
    let (parent, name) = Dir::of(state).map_err(failed)?;
    if !there {
        staged.dir().rename_new("state", &parent, &name).map_err(failed)?;
        parent.sync().map_err(failed)?;
        return Ok(None);
    }
    let base = format!("{}.before-restore-{}", name.to_string_lossy(), stamp(SystemTime::now()));
    let old = staging::free(&parent, &base).map_err(failed)?;
    // Killed from here on, a sweep finds the old state in the staged directory, and puts it beside the new one.
    staged.holds_what_was_before().map_err(failed)?;
    match staged.dir().exchange("state", &parent, &name) {
        Ok(()) => staged.dir().rename_new("state", &parent, &old).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            staged.holds_nothing().map_err(failed)?;
            parent.rename_new(&name, &parent, &old).map_err(failed)?;
            if let Err(error) = staged.dir().rename_new("state", &parent, &name) {
                let failure = failed(error);
                return Err(match parent.rename_new(&old, &parent, &name) {
                    Ok(()) => failure,
                    Err(_) => failure.hint(format!("the old state is in {}", old.display())),
                });
            }
        }
        Err(error) => {
            staged.holds_nothing().map_err(failed)?;
            return Err(failed(error));
        }
    }
    parent.sync().map_err(failed)?;
    Ok(Some(state.with_file_name(old)))
}

/// Copies what the backup lacks by intent. A secret in a container's area only if the backup has that area.
fn keep_secrets(old: &Path, staged: &Staging) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: io::Error| Failure::file("read", old, &error);
    let fresh = staged.dir().open_dir("state").map_err(failed)?;
    let mut kept = Vec::new();
    let mut wrong = None;
    let mut owner = None;
    pick::each(&Dir::open(old).map_err(failed)?, |path, entry, dir| {
        let area = pick::area(path);
        if area.as_deref() == Some(path) {
            owner = Some(entry.meta.uid);
        }
        if entry.meta.kind == Kind::File && pick::is_secret(path) && wrong.is_none() {
            let reader = area.as_ref().and(owner);
            let known = area.is_none_or(|area| fresh.open_dir(area).is_ok());
            match known.then(|| keep(dir, entry, reader, &fresh, path)) {
                Some(Ok(true)) => kept.push(path.to_path_buf()),
                // A container's file that cannot be read stays in the old state.
                Some(Err(error)) if reader.is_none() => wrong = Some((path.to_path_buf(), error)),
                _ => {}
            }
        }
        true
    })
    .map_err(failed)?;
    match wrong {
        Some((path, error)) => Err(Failure::file("copy", &old.join(path), &error)),
        None => Ok(kept),
    }
}

/// `false` if the backup has the file.
fn keep(dir: &Dir, entry: &nexus_walk::Entry, reader: Option<u32>, fresh: &Dir, path: &Path) -> io::Result<bool> {
    let (file, meta) = {
        let _rights = reader.map(Rights::assume).transpose()?;
        dir.open_file(&entry.name)?
    };
    let parent = fresh.create_dirs(path.parent().unwrap_or(Path::new("")), 0o700)?;
    if parent.exists(&entry.name)? {
        return Ok(false);
    }
    let copy = Fresh::new(&parent, 0o600)?;
    nexus_walk::copy_sparse(&file, copy.file(), |_| Ok(()))?;
    if nexus_walk::is_root() {
        nexus_walk::restore_owner(copy.file(), meta.uid, meta.gid)?;
    }
    nexus_walk::set_modified(copy.file(), meta.modified)?;
    copy.place(&entry.name)?;
    Ok(true)
}

/// A database that the settings put somewhere else goes back there.
fn elsewhere(staged: &Dir, from: &str, original: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: io::Error| Failure::file("put in place", original, &error);
    let parent = original
        .parent()
        .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(failed)?;
    let (dir, name) = Dir::of(original).map_err(failed)?;
    let (from, meta): (File, _) = staged.open_file(from).map_err(failed)?;
    let fresh = Fresh::new(&dir, meta.mode & 0o777).map_err(failed)?;
    nexus_walk::copy_sparse(&from, fresh.file(), |_| Ok(())).map_err(failed)?;
    let base = format!("{}.before-restore-{}", name.to_string_lossy(), stamp(SystemTime::now()));
    let old = original.with_file_name(staging::free(&dir, &base).map_err(failed)?);
    let mut aside = Vec::new();
    for (there, then) in [original.to_path_buf()]
        .into_iter()
        .chain(copy::companions(original))
        .zip([old.clone()].into_iter().chain(copy::companions(&old)))
    {
        let (there, name) = there
            .file_name()
            .zip(then.file_name())
            .expect("both are names of files");
        if dir.exists(there).map_err(failed)? {
            dir.rename_new(there, &dir, name).map_err(failed)?;
            aside.push(then);
        }
    }
    fresh.place(&name).map_err(failed)?;
    Ok(aside)
}
