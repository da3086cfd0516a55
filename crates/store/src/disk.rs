//! Room on the disk, so that a store stops growing before its disk is full.
//!
//! One look at the disk is believed for a while. What is written meanwhile is counted, so that a burst of writers cannot
//! use up within that while what is kept back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::Error;

/// How long one look at the disk is believed.
const BELIEVED: Duration = Duration::from_secs(1);
/// A change is written to the write-ahead log and later to the file, in whole pages.
const COPIES: u64 = 2;
const PAGES: u64 = 4 * 4096;

/// Free space of one directory's file system. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Room {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    needed: u64,
    seen: Mutex<Option<Seen>>,
    /// Why nothing that grows is taken at present.
    low: watch::Sender<Option<Error>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    free: u64,
    /// At most so much was written since.
    written: u64,
}

impl Room {
    pub fn new(directory: &Path, needed: u64) -> Self {
        Room {
            inner: Arc::new(Inner {
                directory: directory.to_owned(),
                needed,
                seen: Mutex::default(),
                low: watch::Sender::new(None),
            }),
        }
    }

    /// Fails once less than the kept-back space is free.
    ///
    /// # Errors
    /// [`Error::LowDisk`], or the disk cannot be looked at.
    pub fn check(&self) -> Result<(), Error> {
        self.take(0)
    }

    /// As [`Room::check`], for a change of `ops` operations with so many bytes, which counts as written from now on.
    ///
    /// # Errors
    /// As [`Room::check`].
    pub fn charge(&self, ops: usize, bytes: usize) -> Result<(), Error> {
        let (ops, bytes) = (ops as u64, bytes as u64);
        self.take(COPIES.saturating_mul(bytes).saturating_add(PAGES.saturating_mul(ops)))
    }

    /// Told of each change between enough room and too little.
    pub fn watch(&self) -> watch::Receiver<Option<Error>> {
        self.inner.low.subscribe()
    }

    fn take(&self, bytes: u64) -> Result<(), Error> {
        let inner = &*self.inner;
        if inner.needed == 0 {
            return Ok(());
        }
        let mut seen = inner.lock();
        let believed = seen.filter(|seen| {
            let written = seen.written.saturating_add(bytes);
            // Close to the limit nothing is guessed.
            seen.at.elapsed() < BELIEVED && (bytes == 0 || seen.free.saturating_sub(inner.needed) / 2 > written)
        });
        let now = match believed {
            Some(seen) => seen,
            None => Seen {
                at: Instant::now(),
                free: free(&inner.directory)?,
                written: 0,
            },
        };
        let low = |free| Error::LowDisk {
            path: inner.directory.clone(),
            free,
            needed: inner.needed,
        };
        let is_low = now.free < inner.needed;
        inner.low.send_if_modified(|known| {
            let changed = known.is_some() != is_low;
            if changed {
                *known = is_low.then(|| low(now.free));
            }
            changed
        });
        if is_low || now.free - inner.needed < bytes {
            *seen = Some(now);
            return Err(low(now.free));
        }
        let written = now.written.saturating_add(bytes);
        *seen = Some(Seen { written, ..now });
        Ok(())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Option<Seen>> {
        // Nothing in there can be left half done.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that are free for us on the disk of a directory.
pub(crate) fn free(directory: &Path) -> Result<u64, Error> {
    let stat = nix::sys::statvfs::statvfs(directory).map_err(|errno| Error::Io {
        path: directory.to_owned(),
        doing: "look at free space",
        cause: errno.desc().into(),
    })?;
    #[expect(clippy::useless_conversion, reason = "the width differs between platforms")]
    let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_since_the_last_look_counts() {
        let dir = tempfile::tempdir().expect("a folder");
        let free = free(dir.path()).expect("a disk");
        // Room for about 100 MB, however full this disk is.
        let room = Room::new(dir.path(), free.saturating_sub(100 << 20).max(1));
        assert!(room.check().is_ok());
        // No look at the disk sees them, as nothing is written.
        let taken = (0..1000).take_while(|_| room.charge(1, 1 << 20).is_ok()).count();
        assert!(taken <= 1000);
        let low = room.charge(1, 60 << 20);
        assert!(matches!(low, Err(Error::LowDisk { .. })), "{low:?}");
        assert!(room.check().is_ok(), "one that is too large says nothing of the others");
    }

    #[test]
    fn a_change_between_room_and_none_is_told_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let room = Room::new(dir.path(), u64::MAX);
        let mut told = room.watch();
        assert!(room.check().is_err() && room.check().is_err());
        assert!(told.has_changed().expect("the room is there"));
        assert!(matches!(&*told.borrow_and_update(), Some(Error::LowDisk { .. })));
        assert!(room.check().is_err());
        assert!(!told.has_changed().expect("the room is there"));
        assert!(Room::new(dir.path(), 0).check().is_ok());
    }
}
