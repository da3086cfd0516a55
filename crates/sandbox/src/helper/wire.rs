//! What the monitor and pid 1 say to each other, over a socket pair that keeps messages whole.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{read, write};
use serde::{Deserialize, Serialize};

use crate::report::Failed;

#[derive(Debug, Serialize, Deserialize)]
pub enum Up {
    /// The command was executed; the Landlock version that holds it.
    Started(u32),
    Failed(Failed),
    /// Wait status of the command: code, or signal.
    Exited {
        code: i32,
        signal: Option<i32>,
    },
}

pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

pub fn send(socket: impl AsFd, message: &Up) -> io::Result<()> {
    let bytes = serde_json::to_vec(message).expect("messages are plain data");
    write(socket, &bytes)?;
    Ok(())
}

/// `None`: the other side is gone.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Up>> {
    let mut buffer = vec![0; 16 << 10];
    let length = rustix::io::retry_on_intr(|| read(&socket, &mut buffer[..]))?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&buffer[..length])?))
}

/// The word that lets pid 1 go on.
pub fn go(socket: impl AsFd) -> io::Result<()> {
    write(socket, b"go")?;
    Ok(())
}

pub fn wait_for_go(socket: impl AsFd) -> io::Result<()> {
    let mut word = [0; 2];
    match rustix::io::retry_on_intr(|| read(&socket, &mut word))? {
        2 => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the helper went away")),
    }
}
