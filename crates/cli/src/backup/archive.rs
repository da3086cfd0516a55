//! Reading a backup: nothing in it is believed before it matches the manifest.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use nexus_store::copy;

use super::{
    create::hash,
    manifest::{self, Manifest},
    progress::Progress,
};
use crate::failure::{Exit, Failure};

type Archive = tar::Archive<GzDecoder<io::BufReader<File>>>;

/// Only the manifest, which stands first.
pub fn manifest(path: &Path) -> Result<Manifest, Failure> {
    let mut archive = open(path)?;
    let mut entries = archive.entries().map_err(|error| damaged(path, &error.to_string()))?;
    first(path, entries.next())
}

/// Every byte against the manifest, and every database opened. With `into` everything is unpacked there.
pub fn read(path: &Path, into: Option<&Path>, progress: &mut Progress) -> Result<Manifest, Failure> {
    let broken = |error: io::Error| damaged(path, &error.to_string());
    let scratch = tempfile::tempdir()
        .map_err(|error| Failure::new(Exit::Failed, format!("failed to create a temporary directory: {error}")))?;
    let mut archive = open(path)?;
    let mut entries = archive.entries().map_err(broken)?;
    let manifest = first(path, entries.next())?;
    progress.begin("checking", manifest.bytes());
    let mut seen = BTreeSet::new();
    for entry in entries {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        let Some(known) = manifest.find(&name) else {
            return Err(damaged(
                path,
                &format!("it holds {name:?}, which its manifest does not name"),
            ));
        };
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(damaged(path, &format!("{name} is no plain file")));
        }
        if !seen.insert(name.clone()) {
            return Err(damaged(path, &format!("it holds {name} twice")));
        }
        let place = match (into, &known.database) {
            (Some(into), _) => Some(into.join(&name)),
            (None, Some(_)) => Some(scratch.path().join("database")),
            (None, None) => None,
        };
        // A bomb unpacks to more than its manifest admits.
        let mut limited = (&mut entry).take(known.bytes + 1);
        let (bytes, sha256) = match &place {
            Some(place) => {
                let mut file = new_file(place, known.mode)?;
                let read = hash(&mut limited, &mut file, progress).map_err(broken)?;
                file.sync_all().map_err(|error| Failure::file("write", place, &error))?;
                read
            }
            None => hash(&mut limited, &mut io::sink(), progress).map_err(broken)?,
        };
        if (bytes, &sha256) != (known.bytes, &known.sha256) {
            return Err(damaged(
                path,
                &format!("{name} is not what it was when the backup was made"),
            ));
        }
        if let (Some(place), Some(_)) = (&place, &known.database) {
            copy::inspect(place).map_err(|error| damaged(path, &error.to_string()))?;
            if into.is_none() {
                fs::remove_file(place).map_err(|error| Failure::file("remove", place, &error))?;
            }
        }
    }
    match manifest.files.iter().find(|file| !seen.contains(&file.path)) {
        Some(missing) => Err(damaged(path, &format!("{} is missing", missing.path))),
        None => Ok(manifest),
    }
}

fn open(path: &Path) -> Result<Archive, Failure> {
    let file = File::open(path).map_err(|error| {
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
    Ok(tar::Archive::new(GzDecoder::new(io::BufReader::new(file))))
}

fn first(
    path: &Path,
    entry: Option<io::Result<tar::Entry<'_, GzDecoder<io::BufReader<File>>>>>,
) -> Result<Manifest, Failure> {
    let not_ours = || Failure::new(Exit::Failed, format!("{} is not a backup of nexus", path.display()));
    let mut entry = entry.and_then(Result::ok).ok_or_else(not_ours)?;
    if entry.path().ok().as_deref() != Some(Path::new(manifest::NAME)) || entry.size() > manifest::LONGEST {
        return Err(not_ours());
    }
    let mut text = Vec::new();
    entry
        .read_to_end(&mut text)
        .map_err(|error| damaged(path, &error.to_string()))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(path, &error.to_string()))?;
    match manifest.objection() {
        Some(reason) => Err(Failure::new(
            Exit::Failed,
            format!("{} cannot be used: {reason}", path.display()),
        )),
        None => Ok(manifest),
    }
}

fn new_file(path: &PathBuf, mode: u32) -> Result<File, Failure> {
    let failed = |error: io::Error| Failure::file("create", path, &error);
    let parent = path.parent().expect("it lies below a directory");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(failed)?;
    // Nobody but its owner, whatever the archive says about others.
    let mode = mode & 0o700 | 0o600;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed)
}

fn damaged(path: &Path, reason: &str) -> Failure {
    Failure::new(Exit::Failed, format!("{} is damaged: {reason}", path.display()))
        .hint("try an older one: nexus backup list")
}
