//! Room on the disk, looked at now and then, so that a store stops growing before its disk is full.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Error;

/// How long one look at the disk is believed.
const BELIEVED: Duration = Duration::from_secs(1);

/// Free space of one directory's file system.
#[derive(Debug)]
pub struct Room {
    directory: PathBuf,
    needed: u64,
    seen: Option<(Instant, u64)>,
}

impl Room {
    pub fn new(directory: &Path, needed: u64) -> Self {
        Room {
            directory: directory.to_owned(),
            needed,
            seen: None,
        }
    }

    /// Fails once less than the kept-back space is free.
    pub fn check(&mut self) -> Result<(), Error> {
        if self.needed == 0 {
            return Ok(());
        }
        let free = match self.seen {
            Some((at, free)) if at.elapsed() < BELIEVED => free,
            _ => {
                let stat = nix::sys::statvfs::statvfs(&self.directory).map_err(|errno| Error::Io {
                    path: self.directory.clone(),
                    doing: "look at free space",
                    cause: errno.desc().into(),
                })?;
                #[expect(clippy::useless_conversion, reason = "the width differs between platforms")]
                let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
                self.seen = Some((Instant::now(), free));
                free
            }
        };
        if free < self.needed {
            return Err(Error::LowDisk {
                path: self.directory.clone(),
                free,
                needed: self.needed,
            });
        }
        Ok(())
    }
}
