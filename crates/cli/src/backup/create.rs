//! Taking a backup: everything is copied and hashed first, then packed, so that the manifest can stand in front.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use flate2::{Compression, write::GzEncoder};
use nexus_store::copy;
use sha2::{Digest, Sha256};

use super::{
    manifest::{self, Database, Entry, LeftOut, Manifest},
    pick::Source,
    progress::Progress,
};
use crate::failure::{Exit, Failure};

/// Begins the names of what is not done yet.
pub const STAGED: &str = ".nexus-backup-";
const PIECE: usize = 256 * 1024;

#[derive(Debug)]
pub struct Job {
    pub root: PathBuf,
    pub sources: Vec<Source>,
    pub left_out: Vec<LeftOut>,
    pub with_keys: bool,
    /// Must not exist yet.
    pub target: PathBuf,
}

pub fn create(job: Job, progress: &mut Progress) -> Result<Manifest, Failure> {
    let folder = job
        .target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| Failure::file("create", folder, &error))?;
    if job.target.symlink_metadata().is_ok() {
        return Err(
            Failure::new(Exit::Failed, format!("{} exists already", job.target.display()))
                .hint("name another file with --output"),
        );
    }
    // Beside the target: the same disk has to have room for it, and nobody else may look in.
    let staged = tempfile::Builder::new()
        .prefix(STAGED)
        .tempdir_in(folder)
        .map_err(|error| Failure::file("create a directory in", folder, &error))?;
    let mut files = Vec::new();
    let total = job
        .sources
        .iter()
        .filter_map(|source| Some(source.from.metadata().ok()?.len()))
        .sum();
    progress.begin("copying", total);
    for source in &job.sources {
        if let Some(entry) = stage(source, &staged.path().join(files.len().to_string()), progress)? {
            files.push(entry);
        }
    }
    let manifest = Manifest {
        schema: manifest::SHAPE,
        created_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        nexus: env!("CARGO_PKG_VERSION").to_owned(),
        root: job.root,
        with_keys: job.with_keys,
        files,
        left_out: job.left_out,
    };
    progress.begin("packing", manifest.bytes());
    pack(&manifest, staged.path(), folder, &job.target, progress)?;
    Ok(manifest)
}

/// Copies one file; `None` if it has gone meanwhile.
fn stage(source: &Source, to: &Path, progress: &mut Progress) -> Result<Option<Entry>, Failure> {
    let failed = |error: io::Error| Failure::file("copy", &source.from, &error);
    let mode = match source.from.metadata() {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let database = if source.database {
        let wrong = |error: nexus_store::Error| Failure::new(Exit::Failed, error.to_string());
        copy::copy(&source.from, to).map_err(wrong)?;
        let found = copy::inspect(to).map_err(wrong)?;
        Some(Database {
            schema: found.schema,
            newest: found.newest,
        })
    } else {
        match fs::copy(&source.from, to) {
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
    };
    let (bytes, sha256) = hash(&mut File::open(to).map_err(failed)?, &mut io::sink(), progress).map_err(failed)?;
    Ok(Some(Entry {
        path: source.to.clone(),
        bytes,
        mode,
        sha256,
        database,
        original: source.original.clone(),
    }))
}

fn pack(
    manifest: &Manifest,
    staged: &Path,
    folder: &Path,
    target: &Path,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file("write", target, &error);
    let fresh = tempfile::Builder::new()
        .prefix(STAGED)
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .map_err(failed)?;
    let mut archive = tar::Builder::new(GzEncoder::new(fresh, Compression::fast()));
    let text = serde_json::to_vec_pretty(manifest).map_err(|error| failed(error.into()))?;
    append(&mut archive, manifest::NAME, 0o600, text.len() as u64, &text[..]).map_err(failed)?;
    for (number, entry) in manifest.files.iter().enumerate() {
        let file = File::open(staged.join(number.to_string())).map_err(failed)?;
        let counted = Counted { file, progress };
        append(&mut archive, &entry.path, entry.mode, entry.bytes, counted).map_err(failed)?;
    }
    let mut fresh = archive.into_inner().and_then(GzEncoder::finish).map_err(failed)?;
    fresh.flush().map_err(failed)?;
    fresh.as_file().sync_all().map_err(failed)?;
    fresh.persist_noclobber(target).map_err(|error| failed(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &str,
    mode: u32,
    bytes: u64,
    data: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(mode);
    header.set_mtime(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs());
    archive.append_data(&mut header, path, data)
}

struct Counted<'a> {
    file: File,
    progress: &'a mut Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        // An interruption would be tried again by whoever reads: it is another kind of end here.
        self.progress
            .add(read as u64)
            .map_err(|_| io::Error::other("interrupted"))?;
        Ok(read)
    }
}

/// Reads to the end and writes on; the number of bytes and their hash.
pub fn hash(from: &mut impl Read, to: &mut impl Write, progress: &mut Progress) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
        to.write_all(&piece[..read])?;
        bytes += read as u64;
        progress.add(read as u64)?;
    }
    let digest = hash.finalize();
    Ok((bytes, digest.iter().map(|byte| format!("{byte:02x}")).collect()))
}
