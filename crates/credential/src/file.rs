//! Files that hold secrets: 0600, ours or the system's, judged by what was opened and not by a name.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{fcntl::OFlag, unistd::geteuid};
use zeroize::Zeroizing;

use crate::{Error, Kind, Reference, Secret, pick};

const LARGEST: u64 = 1 << 20;

/// The text of a file that only its owner can read, and that belongs to us or to root.
pub fn read_private(path: &Path) -> Result<Zeroizing<String>, Error> {
    let wrong = |kind, reason: String| Error::about(kind, path.display().to_string(), reason);
    // Without O_NONBLOCK a pipe in its place would hold us for ever.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY).bits())
        .open(path)
        .map_err(|error| wrong(kind_of(&error), format!("failed to open: {}", plain(&error))))?;
    let found = file
        .metadata()
        .map_err(|error| wrong(Kind::Failed, format!("failed to look at it: {}", plain(&error))))?;
    if !found.is_file() {
        return Err(wrong(Kind::Malformed, "is not a regular file".to_owned()));
    }
    let own = geteuid().as_raw();
    if found.uid() != own && found.uid() != 0 {
        let reason = format!("belongs to uid {}, not to uid {own} that asks", found.uid());
        return Err(wrong(Kind::Denied, reason));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let reason = format!("may be used by others (mode {mode:04o})");
        let hint = format!("chmod 600 {}, and replace secrets that were seen", path.display());
        return Err(wrong(Kind::Denied, reason).hint(hint));
    }
    if found.len() > LARGEST {
        return Err(wrong(Kind::Malformed, format!("is larger than {LARGEST} bytes")));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0) + 1));
    (&mut file)
        .take(LARGEST)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(Kind::Failed, format!("failed to read: {}", plain(&error))))?;
    // Editors of other systems put a byte order mark in front; it is no part of a secret.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(wrong(Kind::Malformed, "is not text".to_owned())),
    }
}

/// Writes a file that only we can read, whole or not at all; its folders are made 0700 where they are missing.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path
        .parent()
        .ok_or_else(|| io::Error::other("a file without a folder"))?;
    if !parent.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut fresh = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(parent)?;
    fresh.write_all(bytes)?;
    fresh.as_file().sync_all()?;
    fresh.persist(path).map_err(|error| error.error)?;
    File::open(parent)?.sync_all()
}

pub(crate) fn resolve(reference: &Reference, path: &Path, key: Option<&str>) -> Result<Secret, Error> {
    let path = expand(path).ok_or_else(|| {
        Error::new(Kind::NotFound, reference, "~ cannot be expanded: HOME is not set").hint("write the whole path")
    })?;
    let named = |error: Error| Error {
        reference: reference.label(),
        ..error
    };
    let text = read_private(&path).map_err(named)?;
    let Some(key) = key else {
        return Secret::of(&text).ok_or_else(|| Error::new(Kind::NotFound, reference, "the file is empty"));
    };
    pick::pick(&text, key).map_err(|wrong| picked(reference, &wrong))
}

pub(crate) fn picked(reference: &Reference, wrong: &pick::Wrong) -> Error {
    match wrong {
        pick::Wrong::Missing => Error::new(Kind::NotFound, reference, "there is no value of that name"),
        pick::Wrong::Form => Error::new(
            Kind::Malformed,
            reference,
            "it is neither JSON nor lines of NAME=value with a text at that name",
        ),
    }
}

fn expand(path: &Path) -> Option<PathBuf> {
    match path.strip_prefix("~") {
        Ok(rest) => std::env::var_os("HOME")
            .filter(|home| !home.is_empty())
            .map(|home| PathBuf::from(home).join(rest)),
        Err(_) => Some(path.to_path_buf()),
    }
}

fn kind_of(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Kind::NotFound,
        io::ErrorKind::PermissionDenied => Kind::Denied,
        _ => Kind::Failed,
    }
}

/// Without the number that `io::Error` adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(dir: &Path, text: &str, mode: u32) -> PathBuf {
        let path = dir.join(format!("f{mode:o}"));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn read(path: &Path, key: Option<&str>) -> Result<String, Error> {
        let reference = Reference::File {
            path: path.to_owned(),
            key: key.map(str::to_owned),
        };
        resolve(&reference, path, key).map(|secret| secret.reveal().to_owned())
    }

    #[test]
    fn a_private_file_is_read_whole_or_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = at(dir.path(), "sk-1\n", 0o600);
        assert_eq!(read(&path, None).unwrap(), "sk-1");
        assert_eq!(read(&at(dir.path(), "\u{feff}sk-2\n", 0o600), None).unwrap(), "sk-2");
        write_private(&path, b"{\"a\": {\"b\": \"deep\"}}").unwrap();
        assert_eq!(read(&path, Some("a.b")).unwrap(), "deep");
        assert_eq!(read(&path, Some("a.c")).unwrap_err().kind, Kind::NotFound);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_could_have_seen_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o660, 0o606] {
            let path = at(dir.path(), "canary", mode);
            let error = read(&path, None).unwrap_err();
            assert_eq!(error.kind, Kind::Denied);
            assert!(
                error.advice().contains("chmod 600") && !error.advice().contains("canary"),
                "{error}"
            );
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("f640"), &link).unwrap();
        assert_eq!(read(&link, None).unwrap_err().kind, Kind::Denied);
    }

    #[test]
    fn what_is_no_file_does_not_hold_us() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        assert_eq!(read(&pipe, None).unwrap_err().kind, Kind::Malformed);
        assert_eq!(read(dir.path(), None).unwrap_err().kind, Kind::Malformed);
        assert_eq!(read(&dir.path().join("none"), None).unwrap_err().kind, Kind::NotFound);
        let empty = at(dir.path(), " \n", 0o600);
        assert_eq!(read(&empty, None).unwrap_err().kind, Kind::NotFound);
    }
}
