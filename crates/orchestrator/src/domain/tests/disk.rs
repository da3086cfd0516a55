//! What a store keeps, in memory: behind a connection whose answers are lost now and then.

use nexus_store::{Backend, Faults, Memory, Op, Write};

use crate::store::{Changes, prepare};

/// Commits, and questions about them, that come back without an answer, of a hundred.
const UNKNOWN: u64 = 20;

pub struct Disk {
    write: Box<dyn Write>,
    pub read: Memory,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("read", &self.read).finish_non_exhaustive()
    }
}

impl Disk {
    pub fn new() -> Disk {
        let read = Memory::with(Faults {
            unknown: UNKNOWN,
            seed: 1,
        });
        let mut write = read.open_write().unwrap();
        prepare(write.as_mut(), &mut read.clone()).unwrap();
        Disk { write, read }
    }

    pub fn commit(&mut self, changes: Changes) {
        self.raw(&changes.into_ops());
    }

    pub fn raw(&mut self, ops: &[Op]) {
        nexus_store::commit(self.write.as_mut(), &[ops], &mut Vec::new()).unwrap();
    }

    /// What an engine does when it opens the store.
    pub fn prepare(&mut self) {
        prepare(self.write.as_mut(), &mut self.read).unwrap();
    }
}
