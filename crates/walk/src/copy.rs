//! Reads and copies files whose size may not be what it seems.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

const PIECE: usize = 256 * 1024;

/// Reads a file to its end.
///
/// # Errors
/// `FileTooLarge` as soon as more than `limit` bytes were read, whatever its length was said to be.
pub fn read_bounded(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    if read as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// The next bytes at or after `from`, and before `end`, that are really on the disk. `None` if only a hole is left.
///
/// A file system that knows no holes gives all the rest.
pub fn data_ranges(file: &File, from: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    if from >= end {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::NOTSUP) => return Ok(Some(from..end)),
        Err(error) => return Err(error.into()),
    };
    if start >= end {
        return Ok(None);
    }
    let stop = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(stop) => stop.min(end),
        // Shortened meanwhile.
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::NOTSUP) => end,
        Err(error) => return Err(error.into()),
    };
    Ok(Some(start..stop.max(start)).filter(|range| !range.is_empty()))
}

/// Copies a file as long as it is now to an empty one. Holes stay holes. `each` hears of every piece of data, and may stop.
///
/// The number of bytes of data. A file that is shortened meanwhile ends as zeros; what is added is not copied.
pub fn copy_sparse(from: &File, to: &File, mut each: impl FnMut(u64) -> io::Result<()>) -> io::Result<u64> {
    let length = from.metadata()?.len();
    let mut piece = vec![0; PIECE];
    let (mut at, mut copied) = (0, 0);
    while let Some(range) = data_ranges(from, at, length)? {
        at = range.start;
        while at < range.end {
            let want = PIECE.min(usize::try_from(range.end - at).unwrap_or(PIECE));
            let read = match from.read_at(&mut piece[..want], at) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            to.write_all_at(&piece[..read], at)?;
            at += read as u64;
            copied += read as u64;
            each(read as u64)?;
        }
        at = at.max(range.end);
    }
    to.set_len(length)?;
    Ok(copied)
}
