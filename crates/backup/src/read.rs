//! Reads an archive: nothing is believed before it matches the manifest.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use nexus_walk::Dir;
use sha2::{Digest, Sha256};

use crate::manifest::{self, Entry, Kind, Manifest};
use crate::{restore, write};

const PIECE: usize = 256 * 1024;

/// Why an archive cannot be read or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no gzipped tar with a manifest first.
    #[error("it is not a backup of nexus")]
    NotABackup,
    /// It is a backup that this version or this tree cannot use; the text says why.
    #[error("it cannot be used: {0}")]
    Unfit(String),
    /// It does not hold what its manifest announces; the text says where.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The archive is fine; the place it is unpacked to is not.
    #[error("failed to write {}", path.display())]
    Write {
        /// What was written.
        path: PathBuf,
        /// What the system reported.
        #[source]
        cause: io::Error,
    },
    /// Reading was interrupted by its caller.
    #[error("interrupted")]
    Stopped(#[source] io::Error),
}

/// Only the manifest, which stands first.
///
/// # Errors
/// See [`Error`].
pub fn manifest_of(archive: impl Read) -> Result<Manifest, Error> {
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    let mut entries = archive.entries().map_err(damaged)?.raw(true);
    first(entries.next())
}

/// Reads an archive to its end, every byte against the manifest. What `wanted` takes is unpacked beneath `into`, which has
/// to be empty and ours alone. `each` hears of every piece, and may stop.
///
/// Owners are given back if this process may do so, which is root; everyone else owns what they restore.
///
/// # Errors
/// See [`Error`]. What was unpacked until then stays.
pub fn read(
    archive: impl Read,
    into: Option<&Dir>,
    wanted: impl Fn(&Entry) -> bool,
    mut each: impl FnMut(u64) -> io::Result<()>,
) -> Result<Manifest, Error> {
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    // Raw: the crate would keep long names and extensions in memory, as long as the archive says they are.
    let mut entries = archive.entries().map_err(damaged)?.raw(true);
    let manifest = first(entries.next())?;
    let known: HashMap<&str, &Entry> = manifest.files.iter().map(|file| (file.path.as_str(), file)).collect();
    let mut seen = HashSet::new();
    let mut long_name = None;
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        if entry.header().entry_type() == tar::EntryType::GNULongName {
            long_name = Some(read_name(&mut entry)?);
            continue;
        }
        let name = match long_name.take() {
            Some(name) => name,
            None => text(&entry.path_bytes())?,
        };
        let Some(file) = known.get(name.as_str()).filter(|file| file.kind == Kind::File) else {
            let text = format!("it holds {name:?}, which its manifest does not name");
            return Err(Error::Damaged(text));
        };
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(Error::Damaged(format!("{name:?} is not a regular file")));
        }
        if !seen.insert(file.path.as_str()) {
            return Err(Error::Damaged(format!("it holds {name:?} twice")));
        }
        one(&mut entry, file, into.filter(|_| wanted(file)), &mut each)?;
    }
    let mut files = manifest.files.iter().filter(|file| file.kind == Kind::File);
    if let Some(missing) = files.find(|file| !seen.contains(file.path.as_str())) {
        return Err(Error::Damaged(format!("{:?} is missing", missing.path)));
    }
    if let Some(into) = into {
        restore::directories(into, &manifest, wanted)?;
    }
    Ok(manifest)
}

/// One file; a bomb unpacks to more than its manifest admits.
fn one(
    data: &mut impl Read,
    file: &Entry,
    into: Option<&Dir>,
    each: &mut impl FnMut(u64) -> io::Result<()>,
) -> Result<(), Error> {
    let mut target = into.map(|into| restore::File::create(into, file)).transpose()?;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut piece = vec![0; PIECE.min(usize::try_from(file.data()).unwrap_or(PIECE).max(1))];
    let mut limited = data.take(file.data().saturating_add(1));
    loop {
        let read = match limited.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(damaged(error)),
        };
        hash.update(&piece[..read]);
        if let Some(target) = &mut target {
            target.write(&piece[..read])?;
        }
        bytes += read as u64;
        each(read as u64).map_err(Error::Stopped)?;
    }
    if bytes != file.data() || write::digest(hash) != file.sha256 {
        let text = format!("{:?} is not what it was when the backup was made", file.path);
        return Err(Error::Damaged(text));
    }
    target.map_or(Ok(()), restore::File::finish)
}

fn first<R: Read>(entry: Option<io::Result<tar::Entry<'_, R>>>) -> Result<Manifest, Error> {
    let mut entry = entry.and_then(Result::ok).ok_or(Error::NotABackup)?;
    if &*entry.path_bytes() != manifest::NAME.as_bytes() || entry.size() > manifest::LONGEST {
        return Err(Error::NotABackup);
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(damaged)?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| Error::Damaged(error.to_string()))?;
    match manifest.objection() {
        Some(reason) => Err(Error::Unfit(reason)),
        None => Ok(manifest),
    }
}

fn read_name(entry: &mut impl Read) -> Result<String, Error> {
    let mut name = Vec::new();
    let limit = manifest::PATH_MAX as u64 + 2;
    entry.take(limit).read_to_end(&mut name).map_err(damaged)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    text(&name)
}

fn text(name: &[u8]) -> Result<String, Error> {
    match std::str::from_utf8(name) {
        Ok(name) if name.len() <= manifest::PATH_MAX => Ok(name.to_owned()),
        _ => Err(Error::Damaged(
            "it holds a name that is not text, or too long".to_owned(),
        )),
    }
}

fn damaged(error: io::Error) -> Error {
    Error::Damaged(error.to_string())
}

/// For messages: where an entry would lie.
pub(crate) fn write_error(path: &str, cause: io::Error) -> Error {
    Error::Write {
        path: Path::new(path).to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::manifest::Range;

    fn entry(path: &str, data: &[u8]) -> Entry {
        Entry {
            path: path.into(),
            bytes: data.len() as u64,
            mode: 0o640,
            sha256: write::digest(Sha256::new_with_prefix(data)),
            ..Entry::default()
        }
    }

    fn manifest(files: Vec<Entry>) -> Vec<u8> {
        let manifest = Manifest {
            schema: manifest::SHAPE,
            created_at: "2026-01-01T00:00:00Z".into(),
            nexus: "0".into(),
            root: "/n".into(),
            with_keys: false,
            files,
            left_out: Vec::new(),
        };
        serde_json::to_vec(&manifest).unwrap()
    }

    fn packed(manifest: &[u8], files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        write::append(&mut archive, manifest::NAME, 0o600, manifest.len() as u64, manifest).unwrap();
        for (path, data) in files {
            write::append(&mut archive, path, 0o600, data.len() as u64, *data).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    fn unpack(archive: &[u8]) -> (tempfile::TempDir, Result<Manifest, Error>) {
        let place = tempfile::tempdir().unwrap();
        let into = Dir::open(place.path()).unwrap();
        let done = read(archive, Some(&into), |_| true, |_| Ok(()));
        (place, done)
    }

    #[test]
    fn holes_modes_and_times_come_back() {
        let long = format!("state/{}/x", "d".repeat(200));
        let mut sparse = entry("state/sparse", b"headtail");
        sparse.bytes = 1 << 30;
        sparse.ranges = Some([(0, 4), (1 << 29, 4)].map(|(at, bytes)| Range { at, bytes }).into());
        let mut plain = entry(&long, b"words");
        plain.modified = Some((1_700_000_000, 5_000));
        let dir = Entry {
            path: "state/empty".into(),
            kind: Kind::Dir,
            mode: 0o751,
            modified: Some((1_600_000_000, 0)),
            ..Entry::default()
        };
        let text = manifest(vec![dir, sparse, plain]);
        let (place, done) = unpack(&packed(&text, &[("state/sparse", b"headtail"), (&long, b"words")]));
        done.unwrap();
        let found = |path: &str| std::fs::metadata(place.path().join(path)).unwrap();
        let sparse = found("state/sparse");
        assert_eq!(sparse.len(), 1 << 30);
        assert!(sparse.blocks() * 512 < 1 << 20, "{}", sparse.blocks());
        let mut tail = [0; 4];
        let file = std::fs::File::open(place.path().join("state/sparse")).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut tail, 1 << 29).unwrap();
        assert_eq!(&tail, b"tail");
        let plain = found(&long);
        assert_eq!(
            (plain.mode() & 0o777, plain.mtime(), plain.mtime_nsec()),
            (0o640, 1_700_000_000, 5_000)
        );
        let dir = found("state/empty");
        assert_eq!((dir.mode() & 0o777, dir.mtime()), (0o751, 1_600_000_000));
    }

    /// Whoever can write a backup file wants a set-uid program, a file outside, or all memory.
    #[test]
    fn a_hostile_archive_is_refused() {
        let mut set_uid = entry("state/x", b"x");
        set_uid.mode = 0o4755;
        let (place, done) = unpack(&packed(&manifest(vec![set_uid]), &[("state/x", b"x")]));
        done.unwrap();
        assert_eq!(
            std::fs::metadata(place.path().join("state/x")).unwrap().mode() & 0o7777,
            0o755
        );

        let one = || manifest(vec![entry("state/x", b"x")]);
        let refused = [
            packed(&one(), &[]),
            packed(&one(), &[("state/x", b"y")]),
            packed(&one(), &[("state/x", b"xx")]),
            packed(&one(), &[("state/x", b"x"), ("state/x", b"x")]),
            packed(&one(), &[("state/x", b"x"), ("state/y", b"")]),
            packed(&manifest(vec![entry("state/../x", b"x")]), &[("state/x", b"x")]),
            packed(
                &manifest(vec![entry("state/x", b"x"), entry("state/x/y", b"y")]),
                &[("state/x", b"x"), ("state/x/y", b"y")],
            ),
            b"not gzip".to_vec(),
            Vec::new(),
        ];
        for archive in refused {
            assert!(unpack(&archive).1.is_err());
        }
        let mut xattr = entry("state/x", b"x");
        xattr.xattrs = vec![("security.capability".into(), "00".into())];
        assert!(unpack(&packed(&manifest(vec![xattr]), &[("state/x", b"x")])).1.is_err());
    }

    #[test]
    fn names_and_extensions_are_bounded_while_they_are_read() {
        let text = manifest(vec![entry("state/x", b"x")]);
        for kind in [
            tar::EntryType::GNULongName,
            tar::EntryType::XHeader,
            tar::EntryType::Symlink,
        ] {
            let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
            write::append(&mut archive, manifest::NAME, 0o600, text.len() as u64, &text[..]).unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_path("state/x").unwrap();
            header.set_size(64 << 20);
            header.set_cksum();
            archive.append(&header, io::repeat(b'a').take(64 << 20)).unwrap();
            let mut encoder = archive.into_inner().unwrap();
            encoder.flush().unwrap();
            let archive = encoder.finish().unwrap();
            let mut heard = 0;
            let done = read(
                &archive[..],
                None,
                |_| false,
                |bytes| {
                    heard += bytes;
                    Ok(())
                },
            );
            assert!(done.is_err() && heard == 0, "{kind:?}");
        }
    }
}
