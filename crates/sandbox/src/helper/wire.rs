//! The messages between the monitor and pid 1, over a socket pair that preserves message boundaries.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, read, write};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::report::Failed;

#[derive(Debug, Serialize, Deserialize)]
pub enum Up {
    /// The command was executed; the Landlock version that holds it.
    Started(u32),
    Failed(Failed),
    /// It could not go through the doors of its control groups: the monitor has to move it, and say go.
    Outside,
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
    let mut next = || rustix::io::retry_on_intr(|| read(&socket, &mut buffer[..]));
    let length = match next() {
        // It is gone, and did not read all that it was told. What it said before comes now.
        Err(Errno::CONNRESET) => next(),
        other => other,
    }?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&buffer[..length])?))
}

/// What pid 1 said first, where the command has a terminal.
pub enum First {
    Terminal(OwnedFd),
    Other(Option<Up>),
}

pub fn send_terminal(socket: impl AsFd, master: &OwnedFd) -> io::Result<()> {
    let rights = [master.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&rights)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    sendmsg(socket, &[IoSlice::new(b"t")], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

pub fn receive_first(socket: impl AsFd) -> io::Result<First> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = vec![0; 16 << 10];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::io::retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, flags))?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut rights) = message
            && let Some(master) = rights.next()
        {
            return Ok(First::Terminal(master));
        }
    }
    if received.bytes == 0 {
        return Ok(First::Other(None));
    }
    Ok(First::Other(Some(serde_json::from_slice(&buffer[..received.bytes])?)))
}

/// What is known of the control groups once they are made.
pub struct Limited {
    /// A group limits memory, so that a limit of each process is not needed.
    pub memory: bool,
    pub doors: Vec<OwnedFd>,
}

/// More controllers than there are.
const MOST_DOORS: usize = 8;

pub fn send_limited(socket: impl AsFd, limited: &Limited) -> io::Result<()> {
    let doors: Vec<_> = limited.doors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DOORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !doors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&doors)) {
        return Err(io::Error::other("too many control groups"));
    }
    let word = [u8::from(limited.memory)];
    sendmsg(socket, &[IoSlice::new(&word)], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

pub fn receive_limited(socket: impl AsFd) -> io::Result<Limited> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DOORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::io::retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut word)], &mut ancillary, flags))?;
    if received.bytes == 0 {
        return Err(disconnected());
    }
    let mut doors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            doors.extend(rights);
        }
    }
    Ok(Limited {
        memory: word[0] == 1,
        doors,
    })
}

fn disconnected() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the helper went away")
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
        _ => Err(disconnected()),
    }
}
