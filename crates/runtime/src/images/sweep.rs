//! Removes the files of images that nobody finds any more, by a thread of its own: an image may have millions of them.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nexus_walk::{Dir, Trash};

/// The directory beside that of the images.
const TRASH: &str = "removed-images";
/// Names between two yields of the processor.
const STEP: u32 = 256;

/// What was thrown away, and whether a thread removes it.
#[derive(Debug)]
pub struct Sweep {
    trash: Trash,
    running: AtomicBool,
    /// Something was thrown away since the thread looked for it.
    more: AtomicBool,
}

impl Sweep {
    /// Beneath the directory that holds that of the images.
    pub fn open(beside: &Dir) -> io::Result<Arc<Sweep>> {
        Ok(Arc::new(Sweep {
            trash: Trash::open(beside, TRASH)?,
            running: AtomicBool::new(false),
            more: AtomicBool::new(false),
        }))
    }

    /// Moves a directory of images away; from now on it is not found. One that is not there is no error.
    pub fn take(&self, images: &Dir, name: &OsStr) -> io::Result<()> {
        self.trash.take(images, name)?;
        self.more.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Moves it away and has it removed. What fails is logged: the next start tries again.
    pub fn throw_away(self: &Arc<Self>, images: &Dir, name: &OsStr) {
        match self.take(images, name) {
            Ok(()) => self.start(),
            Err(error) => tracing::warn!(%error, name = %name.display(), "failed to remove what is left of an image"),
        }
    }

    /// Sees to it that a thread removes what is in the trash.
    pub fn start(self: &Arc<Self>) {
        self.more.store(true, Ordering::SeqCst);
        if self.running.swap(true, Ordering::SeqCst) {
            return;
        }
        let this = Arc::clone(self);
        let begun = std::thread::Builder::new()
            .name("image-removal".into())
            .spawn(move || this.run());
        if let Err(error) = begun {
            self.running.store(false, Ordering::SeqCst);
            tracing::warn!(%error, "failed to start removing images; the next removal tries again");
        }
    }

    fn run(&self) {
        loop {
            while self.more.swap(false, Ordering::SeqCst) {
                if let Err(error) = self.remove() {
                    tracing::warn!(%error, "failed to remove the files of an image; the next removal tries again");
                }
            }
            self.running.store(false, Ordering::SeqCst);
            // Whoever threw something away just now may have seen this thread still running.
            if !self.more.load(Ordering::SeqCst) || self.running.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }

    fn remove(&self) -> io::Result<()> {
        let mut removal = self.trash.removal()?;
        while !removal.step(STEP).done {
            std::thread::yield_now();
        }
        for problem in removal.problems() {
            let path = problem.path.to_string_lossy();
            let path = path.escape_debug();
            tracing::warn!(%path, error = %problem.error, "failed to remove a file of an image; the next removal tries again");
        }
        Ok(())
    }
}
