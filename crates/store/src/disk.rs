//! Keeps disk space free, so that a store stops growing before its disk is full.
//!
//! One look at the disk is believed for a while. What is written meanwhile is counted, so that a burst of writers cannot
//! use up within that while what is kept back. What the engine will take for changes that are committed already is not
//! free either.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::{Backend, Error};

/// How long one look at the disk is believed.
const BELIEVED: Duration = Duration::from_secs(1);
/// A change is written to the write-ahead log and later to the file, in whole pages.
const COPIES: u64 = 2;
const PAGES: u64 = 4 * 4096;
/// Kept back beside what is asked for, so that where an ordinary change finds no room, none is reported to be there.
const SLACK: u64 = 256 << 10;

/// Free space of one directory's file system. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Room {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    backend: Arc<dyn Backend>,
    needed: u64,
    state: Mutex<State>,
    /// Why nothing that grows is taken at present.
    low: watch::Sender<Option<Error>>,
}

#[derive(Debug, Default)]
struct State {
    seen: Option<Seen>,
    /// Charged and not committed yet, so that no look at the disk sees it.
    uncommitted: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    free: u64,
    /// The most bytes that were written since.
    written: u64,
}

impl Room {
    /// Guards the disk that the engine writes to, on which `needed` bytes are kept free; `None` for an engine that is on no
    /// disk of this host.
    pub fn of(backend: &Arc<dyn Backend>, needed: u64) -> Option<Self> {
        let directory = backend.directory()?.to_owned();
        Some(Room {
            inner: Arc::new(Inner {
                directory,
                backend: backend.clone(),
                needed,
                state: Mutex::default(),
                low: watch::Sender::new(None),
            }),
        })
    }

    /// Fails once less than the kept-back space is free.
    ///
    /// # Errors
    /// [`Error::LowDisk`], or the disk cannot be looked at.
    pub fn check(&self) -> Result<(), Error> {
        self.take(0)
    }

    /// As [`Room::check`], for a change of `ops` operations with `bytes` bytes, which counts as written from now on.
    ///
    /// # Errors
    /// As [`Room::check`].
    pub fn charge(&self, ops: usize, bytes: usize) -> Result<(), Error> {
        let (ops, bytes) = (ops as u64, bytes as u64);
        self.take(COPIES.saturating_mul(bytes).saturating_add(PAGES.saturating_mul(ops)))
    }

    /// What was charged so far is committed, or never will be: the next look at the disk sees it.
    pub fn committed(&self) {
        self.inner.lock().uncommitted = 0;
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
        let mut state = inner.lock();
        let believed = state.seen.filter(|seen| {
            let written = seen.written.saturating_add(bytes);
            // Close to the limit nothing is guessed.
            seen.at.elapsed() < BELIEVED && (bytes == 0 || seen.free.saturating_sub(inner.needed) / 2 > written)
        });
        let now = match believed {
            Some(seen) => seen,
            None => Seen {
                at: Instant::now(),
                free: free(&inner.directory)?.saturating_sub(inner.backend.owed()),
                written: state.uncommitted,
            },
        };
        let low = |free| Error::LowDisk {
            path: inner.directory.clone(),
            free,
            needed: inner.needed.saturating_add(SLACK),
        };
        let is_low = now.free < inner.needed.saturating_add(SLACK);
        inner.low.send_if_modified(|known| {
            let changed = known.is_some() != is_low;
            if changed {
                *known = is_low.then(|| low(now.free));
            }
            changed
        });
        let written = now.written.saturating_add(bytes);
        if is_low || (bytes > 0 && now.free - inner.needed < written) {
            state.seen = Some(now);
            return Err(low(now.free));
        }
        state.uncommitted = state.uncommitted.saturating_add(bytes);
        state.seen = Some(Seen { written, ..now });
        Ok(())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in there can be left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{Read, Write};

    /// Counts the looks at its disk.
    #[derive(Debug)]
    struct Looked {
        directory: tempfile::TempDir,
        looks: AtomicU64,
        owes: AtomicU64,
    }

    impl Backend for Looked {
        fn open_write(&self) -> Result<Box<dyn Write>, Error> {
            Err(Error::Closed)
        }

        fn open_read(&self) -> Result<Box<dyn Read>, Error> {
            Err(Error::Closed)
        }

        fn directory(&self) -> Option<&Path> {
            Some(self.directory.path())
        }

        fn owed(&self) -> u64 {
            self.looks.fetch_add(1, Ordering::Relaxed);
            self.owes.load(Ordering::Relaxed)
        }
    }

    fn made(needed: impl FnOnce(u64) -> u64) -> (Arc<Looked>, Room) {
        let directory = tempfile::tempdir().expect("a folder");
        let needed = needed(free(directory.path()).expect("a disk"));
        let backend = Arc::new(Looked {
            directory,
            looks: AtomicU64::new(0),
            owes: AtomicU64::new(0),
        });
        let shared: Arc<dyn Backend> = backend.clone();
        let room = Room::of(&shared, needed).expect("it is on a disk");
        (backend, room)
    }

    /// The disk is looked at again before what was written since could have used up the room.
    #[test]
    fn what_was_written_since_the_last_look_counts() {
        const ROOM: u64 = 200 << 20;
        let (backend, room) = made(|free| free.saturating_sub(ROOM).max(1));
        for _ in 0..500 {
            room.charge(1, 1 << 20).expect("nothing is really written");
            room.committed();
        }
        // Each counts twice, and half of the room may be believed in: at most 50 for each look.
        let looks = backend.looks.load(Ordering::Relaxed);
        assert!(looks >= 5, "{looks}");
        // What is not committed yet is seen by no look, and counts all the same.
        let taken = (0..500).take_while(|_| room.charge(1, 1 << 20).is_ok()).count();
        assert!((10..200).contains(&taken), "{taken}");
        room.committed();
        let large = room.charge(1, 150 << 20);
        assert!(matches!(large, Err(Error::LowDisk { .. })), "{large:?}");
        assert!(room.check().is_ok(), "one that is too large says nothing of the others");
        backend.owes.store(ROOM, Ordering::Relaxed);
        let owed = room.charge(1, 60 << 20);
        assert!(
            matches!(owed, Err(Error::LowDisk { .. })),
            "what is owed is not free: {owed:?}"
        );
        assert!(room.check().is_err());
    }

    #[test]
    fn a_change_between_room_and_none_is_told_once() {
        let (_backend, room) = made(|_| u64::MAX);
        let mut told = room.watch();
        assert!(room.check().is_err() && room.check().is_err());
        assert!(told.has_changed().expect("the room is there"));
        assert!(matches!(&*told.borrow_and_update(), Some(Error::LowDisk { .. })));
        assert!(room.check().is_err());
        assert!(!told.has_changed().expect("the room is there"));
        assert!(made(|_| 0).1.check().is_ok());
    }
}
