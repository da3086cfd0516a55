//! The entries of a tar archive from a stranger, read within bounds: all of it, and what lies between two files (headers,
//! long names, extensions), which the reader of archives keeps in memory.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Error, Result};

/// Most bytes of headers, names and extensions of one entry.
const MAX_BETWEEN: u64 = 1 << 20;
const BLOCK: u64 = 512;

/// What one reading of an archive may come to.
#[derive(Clone, Copy)]
pub struct Allowance<'a> {
    /// Bytes of the archive once it is unpacked.
    pub bytes: u64,
    /// Said where it has more.
    pub exceeded: fn() -> io::Error,
    /// Raised by whoever does not want the result any more.
    pub stop: &'a AtomicBool,
}

/// The position of the reading, and the furthest position it may reach within the present entry.
#[derive(Default)]
struct Meter {
    position: Cell<u64>,
    limit: Cell<u64>,
}

struct Metered<'a, R> {
    from: R,
    meter: Rc<Meter>,
    allowance: Allowance<'a>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.allowance.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("its reader is gone"));
        }
        let length = self.from.read(buffer)?;
        let position = self.meter.position.get() + length as u64;
        self.meter.position.set(position);
        if position > self.allowance.bytes {
            return Err((self.allowance.exceeded)());
        }
        if position > self.meter.limit.get() {
            return Err(io::Error::other("the names of an entry are longer than 1 MiB"));
        }
        Ok(length)
    }
}

/// An entry of whatever archive.
pub type Entry<'a, 's> = tar::Entry<'a, Box<dyn Read + 's>>;

/// Gives each entry to `take`, which reads as much of it as it wants, and says whether to go on.
pub fn each<'s>(
    archive: impl Read + 's,
    allowance: Allowance<'s>,
    mut take: impl FnMut(&mut Entry<'_, 's>) -> Result<bool>,
) -> Result<()> {
    let meter = Rc::new(Meter::default());
    let metered: Box<dyn Read + 's> = Box::new(Metered {
        from: archive,
        meter: Rc::clone(&meter),
        allowance,
    });
    let mut archive = tar::Archive::new(metered);
    let entries = archive.entries().map_err(Error::Archive)?;
    meter.limit.set(MAX_BETWEEN);
    for entry in entries {
        let mut entry = entry.map_err(Error::Archive)?;
        // What is stored of it in the archive: of a sparse file that is less than its size.
        let stored = match entry.header().entry_type() {
            tar::EntryType::GNUSparse => entry.header().entry_size().map_err(Error::Archive)?,
            _ => entry.size(),
        };
        let end = meter.position.get().saturating_add(stored).saturating_add(BLOCK);
        meter.limit.set(end);
        if !take(&mut entry)? {
            break;
        }
        meter.limit.set(end.saturating_add(MAX_BETWEEN));
    }
    Ok(())
}
