//! The log file of a daemon: `state/logs/<service>.log`, and the older ones beside it.
//!
//! A file that is full or a day old becomes `.log.1`, that one `.log.2`, and so on; the oldest goes. So a daemon that
//! floods its log fills no disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tracing_subscriber::fmt::MakeWriter;

const LARGEST: u64 = 16 << 20;
const DAY: Duration = Duration::from_secs(86_400);
/// Older files that are kept, and for how long.
const OLDER: u32 = 4;
const FORGET: Duration = Duration::from_secs(30 * 86_400);

pub(crate) struct Sink {
    file: Mutex<LogFile>,
    is_stderr: bool,
}

impl Sink {
    /// # Errors
    /// The log file cannot be opened; the caller decides whether to go on without.
    pub fn open(path: &Path) -> io::Result<Sink> {
        let file = LogFile::open(path.to_path_buf(), LARGEST)?;
        let here = file.file.metadata()?;
        let there = nix::sys::stat::fstat(io::stderr().as_fd())?;
        #[expect(clippy::useless_conversion, reason = "the widths of these numbers differ by system")]
        let same = u64::try_from(there.st_dev).is_ok_and(|dev| dev == here.dev())
            && u64::try_from(there.st_ino).is_ok_and(|ino| ino == here.ino());
        Ok(Sink {
            file: Mutex::new(file),
            is_stderr: same,
        })
    }

    /// Somebody pointed standard error at this same file: once is enough.
    pub fn is_stderr(&self) -> bool {
        self.is_stderr
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Sink;

    fn make_writer(&'a self) -> &'a Sink {
        self
    }
}

impl Write for &Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.append(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct LogFile {
    file: File,
    path: PathBuf,
    written: u64,
    largest: u64,
    begun: SystemTime,
}

impl LogFile {
    fn open(path: PathBuf, largest: u64) -> io::Result<LogFile> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let found = file.metadata()?;
        Ok(LogFile {
            file,
            path,
            written: found.len(),
            largest,
            begun: found.created().unwrap_or_else(|_| SystemTime::now()),
        })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let now = SystemTime::now();
        let old = now.duration_since(self.begun).is_ok_and(|age| age > DAY);
        let full = self.written + line.len() as u64 > self.largest;
        if self.written > 0 && (full || old) {
            self.turn(now)?;
        }
        self.written += line.len() as u64;
        self.file.write_all(line)
    }

    /// One that is not there need not be moved; what cannot be moved must not stop the log.
    fn turn(&mut self, now: SystemTime) -> io::Result<()> {
        for number in (1..OLDER).rev() {
            let from = self.older(number);
            let changed = from.metadata().and_then(|found| found.modified());
            let Ok(changed) = changed else { continue };
            if now.duration_since(changed).is_ok_and(|age| age > FORGET) {
                std::fs::remove_file(from)?;
            } else {
                std::fs::rename(from, self.older(number + 1))?;
            }
        }
        std::fs::rename(&self.path, self.older(1))?;
        *self = LogFile {
            begun: now,
            ..LogFile::open(self.path.clone(), self.largest)?
        };
        Ok(())
    }

    fn older(&self, number: u32) -> PathBuf {
        let mut older = self.path.clone().into_os_string();
        older.push(format!(".{number}"));
        older.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_makes_room_and_the_one_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = LogFile::open(path.clone(), 10).unwrap();
        for line in ["first\n", "second\n", "third\n"] {
            log.append(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "third\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("x.log.1")).unwrap(), "second\n");
    }

    #[test]
    fn a_file_is_turned_after_a_day_and_only_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = LogFile::open(path.clone(), 1_000).unwrap();
        for day in 0..10 {
            log.begun = SystemTime::now() - DAY - Duration::from_secs(1);
            log.append(format!("day {day}\n").as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "day 9\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("x.log.4")).unwrap(), "day 5\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5);
    }

    #[test]
    fn an_old_file_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        std::fs::write(&path, "before\n").unwrap();
        LogFile::open(path.clone(), 1000).unwrap().append(b"after\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }
}
