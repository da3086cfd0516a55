//! Where log lines go: standard error, and always `state/logs/<service>.log`.
//!
//! A supervisor may have pointed standard error at that same file; then each line is written once. The file
//! is never larger than [`LARGEST`]; the one before it stays beside it as `.log.1`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

const LARGEST: u64 = 16 << 20;

pub(crate) struct Sink {
    stderr: bool,
    file: Option<Mutex<LogFile>>,
}

impl Sink {
    /// # Errors
    /// The log file cannot be opened; the caller decides whether to go on with [`Sink::stderr`].
    pub fn open(path: &Path) -> io::Result<Sink> {
        let file = LogFile::open(path.to_path_buf(), LARGEST)?;
        let here = file.file.metadata()?;
        let there = nix::sys::stat::fstat(io::stderr().as_fd())?;
        #[expect(clippy::useless_conversion, reason = "the widths of these numbers differ by system")]
        let same = u64::try_from(there.st_dev).is_ok_and(|dev| dev == here.dev())
            && u64::try_from(there.st_ino).is_ok_and(|ino| ino == here.ino());
        Ok(Sink {
            stderr: !same,
            file: Some(Mutex::new(file)),
        })
    }

    pub fn stderr() -> Sink {
        Sink {
            stderr: true,
            file: None,
        }
    }

    pub fn is_stderr_only(&self) -> bool {
        self.stderr && self.file.is_none()
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
        // A terminal that is gone or a full disk must not take the other place, or the daemon, with it.
        let said = if self.stderr {
            io::stderr().lock().write_all(line)
        } else {
            Ok(())
        };
        let kept = match &self.file {
            Some(file) => file.lock().unwrap_or_else(PoisonError::into_inner).append(line),
            None => Ok(()),
        };
        said.and(kept).map(|()| line.len())
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
}

impl LogFile {
    fn open(path: PathBuf, largest: u64) -> io::Result<LogFile> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let written = file.metadata()?.len();
        Ok(LogFile {
            file,
            path,
            written,
            largest,
        })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + line.len() as u64 > self.largest {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            std::fs::rename(&self.path, older)?;
            *self = LogFile::open(self.path.clone(), self.largest)?;
        }
        self.written += line.len() as u64;
        self.file.write_all(line)
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
    fn an_old_file_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        std::fs::write(&path, "before\n").unwrap();
        LogFile::open(path.clone(), 1000).unwrap().append(b"after\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }
}
