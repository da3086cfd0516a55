//! Putting a backup back: unpacked and checked beside the old state, then two renames. Nothing is deleted.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use nexus_config::Root;
use nexus_store::copy;

use super::{archive, manifest::Manifest, pick, progress::Progress, stamp};
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
    let Ok(picked) = pick::pick(state, true) else {
        return state.symlink_metadata().is_err();
    };
    picked.left_out.is_empty()
        && picked.sources.iter().all(|source| {
            source.to == "state/nexus/config.toml" && fs::read_to_string(&source.from).is_ok_and(|text| text == EXAMPLE)
        })
}

pub fn restore(root: &Root, from: &Path, force: bool, progress: &mut Progress) -> Result<Restored, Failure> {
    let state = root.state();
    let there = state.symlink_metadata().is_ok();
    if there && !force && !is_empty(&state) {
        return Err(Failure::new(Exit::Failed, format!("{} is not empty", state.display()))
            .hint("with --force it is moved aside, and nothing is deleted"));
    }
    // A link is followed: the new state takes the place of what it points to.
    let state = state.canonicalize().unwrap_or(state);
    let parent = state.parent().expect("a state lies in a directory").to_path_buf();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&parent)
        .map_err(|error| Failure::file("create", &parent, &error))?;
    let staged = tempfile::Builder::new()
        .prefix(".nexus-restore-")
        .tempdir_in(&parent)
        .map_err(|error| Failure::file("create a directory in", &parent, &error))?;
    let manifest = archive::read(from, Some(staged.path()), progress)?;
    let fresh = staged.path().join("state");
    for name in ["", "nexus", "db", "run", "logs"] {
        let path = fresh.join(name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::file("create", &path, &error))?;
    }
    for entry in manifest.files.iter().filter(|entry| entry.database.is_some()) {
        let path = staged.path().join(&entry.path);
        // Whoever read this log further than it goes now must start over, not go on in another history.
        copy::renew(&path).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    }
    let kept = if there {
        keep_secrets(&state, &fresh)?
    } else {
        Vec::new()
    };
    let mut aside = Vec::new();
    if there {
        let old = beside(&state);
        fs::rename(&state, &old).map_err(|error| Failure::file("move aside", &state, &error))?;
        if let Err(error) = fs::rename(&fresh, &state) {
            let back = fs::rename(&old, &state);
            let failure = Failure::file("put in place", &state, &error);
            return Err(match back {
                Ok(()) => failure,
                Err(_) => failure.hint(format!("the old state is in {}", old.display())),
            });
        }
        aside.push(old);
    } else {
        fs::rename(&fresh, &state).map_err(|error| Failure::file("put in place", &state, &error))?;
    }
    for entry in &manifest.files {
        if let Some(original) = &entry.original {
            aside.extend(elsewhere(&staged.path().join(&entry.path), original)?);
        }
    }
    sync(&parent)?;
    Ok(Restored { manifest, aside, kept })
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-restore-{}", stamp(SystemTime::now())));
    let base = PathBuf::from(name);
    let numbered = (2..).map(|number| PathBuf::from(format!("{}-{number}", base.display())));
    let mut names = std::iter::once(base.clone()).chain(numbered);
    names.find(|path| path.symlink_metadata().is_err()).unwrap_or(base)
}

fn keep_secrets(old: &Path, fresh: &Path) -> Result<Vec<PathBuf>, Failure> {
    let picked = pick::pick(old, true).map_err(|error| Failure::file("read", old, &error))?;
    let mut kept = Vec::new();
    for source in picked.sources {
        let below = source.from.strip_prefix(old).unwrap_or(&source.from);
        let target = fresh.join(below);
        if !pick::is_secret(below) || target.exists() {
            continue;
        }
        let failed = |error: io::Error| Failure::file("copy", &source.from, &error);
        let parent = target.parent().expect("it lies below the state");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(failed)?;
        fs::copy(&source.from, &target).map_err(failed)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        kept.push(below.to_path_buf());
    }
    Ok(kept)
}

/// A database that the settings put somewhere else goes back there.
fn elsewhere(staged: &Path, original: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: io::Error| Failure::file("put in place", original, &error);
    let parent = original.parent().expect("a database lies in a directory");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(failed)?;
    let mut aside = Vec::new();
    let old = beside(original);
    for (there, then) in [original.to_path_buf()]
        .into_iter()
        .chain(copy::companions(original))
        .zip([old.clone()].into_iter().chain(copy::companions(&old)))
    {
        if there.symlink_metadata().is_ok() {
            fs::rename(&there, &then).map_err(failed)?;
            aside.push(then);
        }
    }
    fs::copy(staged, original).map_err(failed)?;
    File::open(original).and_then(|file| file.sync_all()).map_err(failed)?;
    sync(parent)?;
    Ok(aside)
}

fn sync(directory: &Path) -> Result<(), Failure> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Failure::file("write", directory, &error))
}
