//! Opening a path beneath a directory, without following any link.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags};

/// The longest path that is given to the kernel at once; the kernel takes 4,095 bytes.
#[cfg(target_os = "linux")]
const PIECE: usize = 3_900;
/// The fallback opens each component by itself.
#[cfg(not(target_os = "linux"))]
const PIECE: usize = 0;

/// The handle of a directory on the way: only for going on from it.
#[cfg(target_os = "linux")]
const ON_THE_WAY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
#[cfg(not(target_os = "linux"))]
const ON_THE_WAY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Opens `path`, which may be longer than `PATH_MAX`, beneath `dir`.
///
/// # Errors
/// `InvalidInput` for a path that is absolute or has `..`; otherwise what the kernel said: `ELOOP` or `ENOTDIR` for a link.
pub fn open(dir: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let pieces = pieces(path)?;
    let (last, before) = pieces.split_last().expect("there is at least one piece");
    let mut on_the_way: Option<OwnedFd> = None;
    for piece in before {
        let from = on_the_way.as_ref().map_or(dir, AsFd::as_fd);
        let next = piece_beneath(
            from,
            piece,
            ON_THE_WAY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        on_the_way = Some(next);
    }
    piece_beneath(on_the_way.as_ref().map_or(dir, AsFd::as_fd), last, flags, mode)
}

/// The path in pieces that are short enough for the kernel. Only plain names are in it.
fn pieces(path: &Path) -> io::Result<Vec<OsString>> {
    let mut pieces: Vec<OsString> = Vec::new();
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            _ => return Err(outside()),
        };
        match pieces.last_mut() {
            Some(piece) if piece.len() + 1 + name.len() <= PIECE => {
                piece.push("/");
                piece.push(name);
            }
            _ => pieces.push(name.to_owned()),
        }
    }
    if pieces.is_empty() {
        pieces.push(OsString::from("."));
    }
    Ok(pieces)
}

/// One name: no separator, and neither `.` nor `..`.
pub fn plain(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(outside());
    }
    Ok(name)
}

fn outside() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the path leads out of its directory")
}

#[cfg(target_os = "linux")]
fn piece_beneath(dir: BorrowedFd<'_>, piece: &OsStr, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    use rustix::fs::{ResolveFlags, openat2};
    use rustix::io::Errno;
    /// A rename anywhere on the system may make the kernel give up a resolution.
    const TRIES: u32 = 32;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match openat2(dir, piece, flags, mode, resolve) {
            Ok(opened) => return Ok(opened),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Filters of system calls that do not know the call answer EPERM.
            Err(Errno::NOSYS | Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    by_component(dir, piece, flags, mode)
}

#[cfg(not(target_os = "linux"))]
fn piece_beneath(dir: BorrowedFd<'_>, piece: &OsStr, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    by_component(dir, piece, flags, mode)
}

/// Each component is opened from the handle of the one before it; none may be a link.
fn by_component(dir: BorrowedFd<'_>, piece: &OsStr, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let mut names = piece.as_bytes().split(|byte| *byte == b'/').map(OsStr::from_bytes);
    let last = names.next_back().expect("splitting gives at least one name");
    let mut on_the_way: Option<OwnedFd> = None;
    for name in names {
        let from = on_the_way.as_ref().map_or(dir, AsFd::as_fd);
        let flags = ON_THE_WAY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        on_the_way = Some(rustix::fs::openat(from, name, flags, Mode::empty())?);
    }
    let from = on_the_way.as_ref().map_or(dir, AsFd::as_fd);
    Ok(rustix::fs::openat(from, last, flags, mode)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn paths_that_lead_out_are_refused_before_the_kernel_sees_them() {
        for bad in ["/etc/passwd", "../x", "a/../../x"] {
            assert_eq!(
                pieces(Path::new(bad)).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{bad}"
            );
        }
        for bad in ["", ".", "..", "a/b", "/"] {
            assert!(plain(OsStr::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_fallback_follows_no_link_either() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("a/b/last")).unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        let open = |path: &str| {
            by_component(
                root.as_fd(),
                OsStr::new(path),
                OFlags::RDONLY | OFlags::NOFOLLOW,
                Mode::empty(),
            )
        };
        assert!(open("a/b/file").is_ok());
        assert!(open("link/b/file").is_err(), "a link on the way");
        assert!(open("a/b/last").is_err(), "a link at the end");
    }
}
