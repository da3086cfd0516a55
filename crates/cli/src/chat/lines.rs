//! Reads lines that a person types while an answer is shown.
//!
//! The terminal is opened once more by its own name: to read without waiting is then a property of this handle alone, and
//! neither the prompt nor the shell that shares standard input notices.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Read},
    os::unix::fs::OpenOptionsExt,
};

use nix::{fcntl::OFlag, unistd::ttyname};
use tokio::io::{Interest, unix::AsyncFd};

/// Bytes of one line; what is longer is no answer to anything.
const LONGEST: usize = 64 << 10;

pub struct Lines {
    terminal: AsyncFd<File>,
    buffer: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// `None` where nobody can type, or would not see what is asked.
    pub fn open() -> Option<Lines> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        let name = ttyname(io::stdin()).ok()?;
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let terminal = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits())
            .open(name)
            .ok()?;
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe to call; this file stays open for as long as it is registered"
        )]
        let terminal = AsyncFd::with_interest(terminal, Interest::READABLE).ok()?;
        Some(Lines {
            terminal,
            buffer: Vec::new(),
            ended: false,
        })
    }

    /// The next line without its end. May be given up at any moment without a loss; after the end it waits for ever.
    pub async fn next(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            if self.buffer.len() > LONGEST {
                self.buffer.clear();
            }
            if self.ended {
                return std::future::pending().await;
            }
            let mut piece = [0; 1024];
            let read = |mut terminal: &File| terminal.read(&mut piece);
            match self.terminal.async_io(Interest::READABLE, read).await {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => self.ended = true,
                Ok(bytes) => self.buffer.extend_from_slice(&piece[..bytes]),
            }
        }
    }
}

/// The same where there may be nobody who types.
pub async fn next(lines: &mut Option<Lines>) -> String {
    match lines {
        Some(lines) => lines.next().await,
        None => std::future::pending().await,
    }
}
