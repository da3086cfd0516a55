//! Collects what a command writes into one file within a bound, and passes input on to it. A disk that is full drops
//! output, and a command that does not read its input keeps the sender waiting; neither stops the other.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::PollFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, openat};
use rustix::io::Errno;

use crate::collect::{COUNTS, Counts, Frame, INPUT, NotAFrame, OUTPUT, TAIL, TAIL_BYTES, parse};
use crate::spec::Collect;

use super::step::{Result, Step};

/// Input that waits for the command; more stays with the sender.
const WAITING: usize = 64 << 10;

pub struct Collector {
    dir: PathBuf,
    bound: u64,
    file: File,
    counts: Counts,
    tail: VecDeque<u8>,
    /// A pipe, or the terminal.
    reader: Option<OwnedFd>,
    writer: Option<OwnedFd>,
    /// Read by the command; `None` once it is closed, and with a terminal, which takes input itself.
    stdin: Option<OwnedFd>,
    stdin_reader: Option<OwnedFd>,
    tty: bool,
    /// Where input comes from.
    fifo: Option<OwnedFd>,
    frames: Vec<u8>,
    input: VecDeque<u8>,
    closing: bool,
    buffer: Vec<u8>,
}

impl Collector {
    pub fn open(dir: &Path, collect: &Collect) -> Result<Collector> {
        let file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(dir.join(OUTPUT))
            .on("output", dir.display(), "")?;
        let kept = file.metadata().on("output", dir.display(), "")?.len();
        let tty = collect.tty.is_some();
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("output", "");
        let mut collector = Collector {
            dir: dir.into(),
            bound: collect.bytes,
            file,
            counts: Counts {
                bytes: kept,
                kept,
                ..Counts::default()
            },
            tail: VecDeque::new(),
            reader: None,
            writer: None,
            stdin: None,
            stdin_reader: None,
            tty,
            fifo: None,
            frames: Vec::new(),
            input: VecDeque::new(),
            closing: false,
            buffer: vec![0; 64 << 10],
        };
        if !tty {
            let (reader, writer) = pipe()?;
            rustix::io::ioctl_fionbio(&reader, true).step("output", "")?;
            (collector.reader, collector.writer) = (Some(reader), Some(writer));
        }
        if collect.stdin {
            collector.fifo = Some(fifo(dir)?);
            if !tty {
                let (reader, writer) = pipe()?;
                rustix::io::ioctl_fionbio(&writer, true).step("output", "")?;
                (collector.stdin_reader, collector.stdin) = (Some(reader), Some(writer));
            }
        }
        Ok(collector)
    }

    /// In the child: its output comes here, its input from here. With a terminal both are opened later.
    pub fn become_output(&mut self) -> Result<()> {
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .step("output", "")?;
        match self.stdin_reader.take() {
            Some(reader) => rustix::stdio::dup2_stdin(&reader).step("output", "")?,
            None => rustix::stdio::dup2_stdin(&null).step("output", "")?,
        }
        let null = OwnedFd::from(null);
        let writer = self.writer.take().unwrap_or(null);
        rustix::stdio::dup2_stdout(&writer).step("output", "")?;
        rustix::stdio::dup2_stderr(&writer).step("output", "")?;
        (self.reader, self.stdin, self.fifo) = (None, None, None);
        Ok(())
    }

    /// In the monitor: the ends of the command belong to it alone.
    pub fn keep_reading(&mut self) {
        (self.writer, self.stdin_reader) = (None, None);
    }

    /// The other side of the command's terminal.
    pub fn terminal(&mut self, master: OwnedFd) -> Result<()> {
        rustix::io::ioctl_fionbio(&master, true).step("terminal", "")?;
        self.reader = Some(master);
        Ok(())
    }

    /// What is waited for, in the order of `pump`.
    pub fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut polled = Vec::new();
        if let Some(reader) = &self.reader {
            let typing = if self.tty && !self.input.is_empty() {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            polled.push((reader.as_fd(), PollFlags::IN | typing));
        }
        if let Some(stdin) = &self.stdin {
            // An end that the command has closed is an error, which is always told.
            let wanted = if self.input.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            polled.push((stdin.as_fd(), wanted));
        }
        if let Some(fifo) = self.fifo.as_ref().filter(|_| self.input.len() < WAITING) {
            polled.push((fifo.as_fd(), PollFlags::IN));
        }
        polled
    }

    /// Everything is tried: nothing here blocks.
    pub fn pump(&mut self) {
        self.read_one();
        self.take_input();
        self.give_input();
    }

    /// Everybody who wrote is gone: what is left, and the account of it.
    pub fn finish(&mut self) {
        while self.read_one() {}
        (self.reader, self.stdin, self.fifo) = (None, None, None);
        let _ = fs::remove_file(self.dir.join(INPUT));
        if self.counts.bytes > self.counts.kept {
            let (first, second) = self.tail.as_slices();
            let _ = File::create(self.dir.join(TAIL))
                .and_then(|mut file| file.write_all(first).and_then(|()| file.write_all(second)));
        }
        let counts = serde_json::to_vec(&self.counts).expect("plain data");
        let _ = fs::write(self.dir.join(COUNTS), counts);
    }

    /// One read; false if there was nothing.
    fn read_one(&mut self) -> bool {
        let Some(reader) = &self.reader else { return false };
        match rustix::io::read(reader, &mut self.buffer[..]) {
            Ok(0) => {
                self.reader = None;
                false
            }
            Ok(length) => {
                self.keep(length);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // A terminal whose other side is closed.
            Err(_) => {
                self.reader = None;
                false
            }
        }
    }

    fn keep(&mut self, length: usize) {
        let bytes = &self.buffer[..length];
        self.counts.bytes += length as u64;
        self.counts.newlines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let room = usize::try_from(self.bound.saturating_sub(self.counts.kept)).unwrap_or(usize::MAX);
        let take = room.min(length);
        if take > 0 && self.counts.kept + length as u64 == self.counts.bytes {
            match self.file.write_all(&bytes[..take]) {
                Ok(()) => self.counts.kept += take as u64,
                // The disk is full. A part of it may be there; nothing more is added, so that nothing is missing in between.
                Err(_) => {
                    self.bound = 0;
                    self.counts.kept = self.file.metadata().map_or(self.counts.kept, |file| file.len());
                }
            }
        }
        let dropped = usize::try_from(self.counts.bytes - self.counts.kept)
            .unwrap_or(usize::MAX)
            .min(length);
        self.tail.extend(&bytes[length - dropped..]);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
    }

    fn take_input(&mut self) {
        let Some(fifo) = self.fifo.as_ref().filter(|_| self.input.len() < WAITING) else {
            return;
        };
        let mut buffer = [0; 4096];
        let Ok(length) = rustix::io::read(fifo, &mut buffer) else {
            return;
        };
        self.frames.extend_from_slice(&buffer[..length]);
        loop {
            match parse(&self.frames) {
                Ok(Some((frame, used))) => {
                    self.frames.drain(..used);
                    match frame {
                        Frame::Data(_) if self.closing => {}
                        Frame::Data(data) => self.input.extend(data),
                        Frame::Close => self.closing = true,
                    }
                }
                Ok(None) => return,
                Err(NotAFrame) => {
                    self.frames.clear();
                    return;
                }
            }
        }
    }

    fn give_input(&mut self) {
        let to = if self.tty { &self.reader } else { &self.stdin };
        let Some(to) = to else {
            self.input.clear();
            return;
        };
        while !self.input.is_empty() {
            let (first, _) = self.input.as_slices();
            match rustix::io::write(to, first) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // The command reads no more.
                Err(_) => {
                    self.input.clear();
                    if !self.tty {
                        self.stdin = None;
                    }
                    return;
                }
            }
        }
        if self.closing && !self.tty {
            self.stdin = None;
        }
    }

    /// The command has closed its input: nobody is to be told of it again and again.
    pub fn hung_up(&mut self) {
        if !self.tty {
            self.stdin = None;
            self.input.clear();
        }
    }

    /// Whether this is the end of the command's input.
    pub fn is_stdin(&self, fd: BorrowedFd<'_>) -> bool {
        use std::os::fd::AsRawFd;
        self.stdin
            .as_ref()
            .is_some_and(|stdin| stdin.as_raw_fd() == fd.as_raw_fd())
    }
}

/// Open for both directions, so that it has no end while nobody writes.
fn fifo(dir: &Path) -> Result<OwnedFd> {
    let path = dir.join(INPUT);
    let _ = fs::remove_file(&path);
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).on("input", path.display(), "")?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat(CWD, &path, flags, Mode::empty()).on("input", path.display(), "")
}
