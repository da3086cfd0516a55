//! The log files of one service, current and rotated, and the read position in them.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::record::Record;
use crate::failure::Failure;

/// Older files of one service that are looked for.
const OLDER: u32 = 9;
/// The end of a file that is read where the newest lines are wanted.
const END: u64 = 512 << 10;
/// A longer line is not one of ours.
const LONGEST_LINE: usize = 1 << 20;

/// All that left a log.
pub fn services(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let name = name.strip_suffix(".log")?;
        Some(name.strip_suffix(".err").unwrap_or(name).to_owned())
    });
    let names: BTreeSet<String> = names.collect();
    names.into_iter().collect()
}

/// One file that grows, and is replaced when it is full.
#[derive(Debug)]
pub struct Tail {
    service: String,
    path: PathBuf,
    open: Option<(File, u64)>,
    read: u64,
    last: Option<SystemTime>,
}

impl Tail {
    /// The log, and what was printed past it.
    pub fn of(dir: &Path, service: &str) -> [Tail; 2] {
        [".log", ".err.log"].map(|end| Tail {
            service: service.to_owned(),
            path: dir.join(format!("{service}{end}")),
            open: None,
            read: 0,
            last: None,
        })
    }

    /// What was written since then; without a time the end of it.
    pub fn past(&mut self, since: Option<SystemTime>, records: &mut Vec<Record>) -> Result<(), Failure> {
        for older in (1..=OLDER).rev() {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{older}"));
            let path = PathBuf::from(path);
            let changed = fs::metadata(&path).and_then(|found| found.modified());
            let wanted = matches!((changed, since), (Ok(changed), Some(since)) if changed >= since);
            if wanted {
                let file = File::open(&path).map_err(|error| Failure::file("read", &path, &error))?;
                self.take(file, 0, records)
                    .map_err(|error| Failure::file("read", &path, &error))?;
            }
        }
        self.open(since.is_none(), records)
    }

    /// What came since it was read last.
    pub fn more(&mut self, records: &mut Vec<Record>) -> Result<(), Failure> {
        let failed = |path: &Path, error: io::Error| Failure::file("read", path, &error);
        if let Some((file, inode)) = self.open.take() {
            let there = fs::metadata(&self.path).map(|found| found.ino());
            let again = file.try_clone().map_err(|error| failed(&self.path, error))?;
            self.read = self
                .take(file, self.read, records)
                .map_err(|error| failed(&self.path, error))?;
            if there.is_ok_and(|there| there == inode) {
                self.open = Some((again, inode));
                return Ok(());
            }
            self.read = 0;
        }
        self.open(false, records)
    }

    fn open(&mut self, end: bool, records: &mut Vec<Record>) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::file("read", &self.path, &error);
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let found = file.metadata().map_err(failed)?;
        let from = if end {
            found.len().saturating_sub(END)
        } else {
            self.read
        };
        let again = file.try_clone().map_err(failed)?;
        let path = self.path.clone();
        self.read = self
            .take(file, from, records)
            .map_err(|error| Failure::file("read", &path, &error))?;
        self.open = Some((again, found.ino()));
        Ok(())
    }

    /// Whole lines only; gives where the first one begins that is not whole yet.
    fn take(&mut self, mut file: File, from: u64, records: &mut Vec<Record>) -> io::Result<u64> {
        file.seek(SeekFrom::Start(from))?;
        let mut reader = BufReader::new(file);
        let (mut at, mut line) = (from, Vec::new());
        let mut cut = from > 0 && self.read == 0;
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if length == 0 || line.last() != Some(&b'\n') {
                return Ok(at);
            }
            at += length as u64;
            // The first of a file's end is the end of one.
            if std::mem::take(&mut cut) || length > LONGEST_LINE {
                continue;
            }
            let text = String::from_utf8_lossy(&line[..length - 1]);
            let record = Record::parse(&self.service, &text, self.last);
            self.last = record.time;
            records.push(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(records: &mut Vec<Record>) -> Vec<String> {
        records.drain(..).map(|record| record.text()).collect()
    }

    #[test]
    fn a_file_that_is_replaced_is_read_to_its_end_and_the_new_one_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        fs::write(&path, "{\"message\":\"one\"}\n{\"message\":\"ha").unwrap();
        let [mut tail, _] = Tail::of(dir.path(), "x");
        let mut records = Vec::new();
        tail.past(None, &mut records).unwrap();
        assert_eq!(texts(&mut records), ["one"]);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"lf\"}\n").unwrap();
        tail.more(&mut records).unwrap();
        assert_eq!(texts(&mut records), ["half"]);
        file.write_all(b"{\"message\":\"last\"}\n").unwrap();
        fs::rename(&path, dir.path().join("x.log.1")).unwrap();
        fs::write(&path, "{\"message\":\"new\"}\n").unwrap();
        tail.more(&mut records).unwrap();
        assert_eq!(texts(&mut records), ["last", "new"]);
        tail.more(&mut records).unwrap();
        assert!(records.is_empty());
    }

    #[test]
    fn services_are_known_by_the_files_they_left() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["llm.log", "llm.err.log", "llm.log.1", "gateway.err.log", "other.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(services(dir.path()), ["gateway", "llm"]);
    }
}
