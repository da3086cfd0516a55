//! Takes what the command writes and keeps it, newest last, within a bound. A disk that is full drops output; it never
//! stops the command.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::log::{HEADER, MAX_RECORD, SEGMENTS, header, segment, segments};

use super::proc::now_ms;
use super::step::{Result, Step};

pub struct Logs {
    dir: PathBuf,
    /// Of each file.
    bound: u64,
    number: u64,
    file: File,
    written: u64,
    /// stdout, stderr.
    readers: [Option<OwnedFd>; 2],
    writers: Option<[OwnedFd; 2]>,
    buffer: Vec<u8>,
}

impl Logs {
    /// Goes on after what an earlier run wrote.
    pub fn open(dir: &Path, bytes: u64) -> Result<Logs> {
        let last = segments(dir).on("log", dir.display(), "")?.last().copied();
        let number = last.map_or(0, |last| last + 1);
        let file = create(dir, number).on("log", dir.display(), "")?;
        // Each run of the same container begins a file.
        drop_oldest(dir, number);
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("log", "");
        let (out, out_writer) = pipe()?;
        let (err, err_writer) = pipe()?;
        for reader in [&out, &err] {
            rustix::io::ioctl_fionbio(reader, true).step("log", "")?;
        }
        Ok(Logs {
            dir: dir.into(),
            bound: (bytes / SEGMENTS).max(2 * (MAX_RECORD + HEADER) as u64),
            number,
            file,
            written: 0,
            readers: [Some(out), Some(err)],
            writers: Some([out_writer, err_writer]),
            buffer: vec![0; MAX_RECORD],
        })
    }

    /// In the child: its output comes here. It has no input.
    pub fn become_output(&mut self) -> Result<()> {
        let [out, err] = self.writers.take().expect("taken once, in the child");
        self.readers = [None, None];
        let null = File::open("/dev/null").step("log", "")?;
        rustix::stdio::dup2_stdin(&null).step("log", "")?;
        rustix::stdio::dup2_stdout(&out).step("log", "")?;
        rustix::stdio::dup2_stderr(&err).step("log", "")
    }

    /// In the monitor: the ends that are written to belong to the child alone.
    pub fn keep_reading(&mut self) {
        self.writers = None;
    }

    pub fn readers(&self) -> Vec<BorrowedFd<'_>> {
        self.readers.iter().flatten().map(AsFd::as_fd).collect()
    }

    /// `ready` stands for [`Logs::readers`], in order.
    pub fn pump(&mut self, ready: &[bool]) {
        let open: Vec<usize> = (0..2).filter(|index| self.readers[*index].is_some()).collect();
        for (index, _) in open.into_iter().zip(ready).filter(|(_, ready)| **ready) {
            self.read_one(index);
        }
    }

    /// Everything is written and nobody writes any more: what is left in the pipes.
    pub fn drain(&mut self) {
        for index in 0..2 {
            while self.read_one(index) {}
        }
        self.readers = [None, None];
    }

    /// One read; false if there was nothing.
    fn read_one(&mut self, index: usize) -> bool {
        let Some(reader) = &self.readers[index] else {
            return false;
        };
        match rustix::io::read(reader, &mut self.buffer[..]) {
            Ok(0) => {
                self.readers[index] = None;
                false
            }
            Ok(length) => {
                self.keep(index == 1, length);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => {
                self.readers[index] = None;
                false
            }
        }
    }

    fn keep(&mut self, stderr: bool, length: usize) {
        let total = (HEADER + length) as u64;
        if self.written + total > self.bound {
            self.next_file();
        }
        let mut record = Vec::with_capacity(HEADER + length);
        record.extend_from_slice(&header(stderr, now_ms(), length));
        record.extend_from_slice(&self.buffer[..length]);
        match self.file.write_all(&record) {
            Ok(()) => self.written += total,
            // A record may be there in part: no reader gets past it in this file.
            Err(_) => self.next_file(),
        }
    }

    fn next_file(&mut self) {
        let Ok(file) = create(&self.dir, self.number + 1) else {
            return;
        };
        self.number += 1;
        self.file = file;
        self.written = 0;
        drop_oldest(&self.dir, self.number);
    }
}

/// Keeps the newest files, of which `newest` is the last.
fn drop_oldest(dir: &Path, newest: u64) {
    for old in segments(dir).unwrap_or_default() {
        if old + SEGMENTS <= newest {
            let _ = std::fs::remove_file(segment(dir, old));
        }
    }
}

fn create(dir: &Path, number: u64) -> std::io::Result<File> {
    File::options().append(true).create_new(true).open(segment(dir, number))
}
