//! Extended attributes, owner and modification time of a file.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Gid, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

/// The names and values of one file that are read at most; the kernel keeps single values below 64 KiB.
pub const MAX_XATTR_BYTES: usize = 256 * 1024;

/// All extended attributes of an open file that `wanted` takes, in the order of their names.
///
/// # Errors
/// `FileTooLarge` beyond [`MAX_XATTR_BYTES`]. A file system that has none gives an empty list.
pub fn xattrs(file: impl AsFd, wanted: impl Fn(&OsStr) -> bool) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut names = Vec::with_capacity(MAX_XATTR_BYTES);
    match rustix::fs::flistxattr(&file, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(Errno::RANGE) => return Err(io::ErrorKind::FileTooLarge.into()),
        Err(error) => return Err(error.into()),
    }
    let mut found = Vec::new();
    let mut room = MAX_XATTR_BYTES - names.len();
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    for name in names.map(OsStr::from_bytes).filter(|name| wanted(name)) {
        let mut value = Vec::with_capacity(64 * 1024);
        match rustix::fs::fgetxattr(&file, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => {}
            // Taken away meanwhile.
            Err(error) if is_missing(error) => continue,
            Err(error) => return Err(error.into()),
        }
        room = room.checked_sub(value.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        value.shrink_to_fit();
        found.push((name.to_owned(), value));
    }
    found.sort();
    Ok(found)
}

/// Linux calls a missing attribute `ENODATA`, macOS `ENOATTR`.
fn is_missing(error: Errno) -> bool {
    #[cfg(target_vendor = "apple")]
    return error == Errno::from_raw_os_error(93);
    #[cfg(not(target_vendor = "apple"))]
    return error == Errno::NODATA;
}

/// Sets an extended attribute, in place of one of the same name.
pub fn set_xattr(file: impl AsFd, name: &OsStr, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())?)
}

/// Gives an open file or directory to a user and a group. Takes set-uid and set-gid bits away: set the mode afterwards.
pub fn restore_owner(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(
        file,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
    )?)
}

/// Sets when a file was changed last, in seconds and nanoseconds since 1970.
pub fn set_modified(file: impl AsFd, (seconds, nanos): (i64, u32)) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT as _,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: i64::from(nanos.min(999_999_999)) as _,
        },
    };
    Ok(rustix::fs::futimens(file, &times)?)
}
