//! Finds the process that listens on a socket, and signals exactly that process.
//!
//! The kernel tells the process that listens, or that has the listening socket open. It is held by a pidfd, taken while
//! a connection to it stands: if the connection still stands after that, the pidfd is the listener's and can never come
//! to mean a stranger.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream as StdStream,
    path::Path,
    time::Duration,
};

use tokio::net::UnixStream;

use super::process::{self, Held};

/// What is found at a socket's path.
#[derive(Debug)]
pub enum Found {
    Absent,
    /// A socket file nobody listens on: its daemon died without cleaning up.
    Stale,
    /// Something that is not a socket.
    Other,
    /// We may not connect.
    Denied,
    Running(Peer),
}

/// A standing connection to whoever listens.
#[derive(Debug)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
    line: StdStream,
}

/// A full backlog is a daemon that is busy; it gets this long.
const BACKLOG_WAIT: Duration = Duration::from_secs(2);

pub async fn look(path: &Path) -> io::Result<Found> {
    use std::os::unix::fs::FileTypeExt;
    if let Some(reason) = nexus_config::socket_path_too_long(path) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let give_up = tokio::time::Instant::now() + BACKLOG_WAIT;
    loop {
        return match UnixStream::connect(path).await {
            Ok(stream) => {
                let credentials = stream.peer_cred()?;
                let (listener, uid) = (credentials.pid().unwrap_or_default(), credentials.uid());
                // A supervisor made the socket for the daemon that accepts on it.
                let pid = if process::is_daemon(listener) {
                    listener
                } else {
                    process::holder(path).unwrap_or(listener)
                };
                Ok(Found::Running(Peer {
                    pid,
                    uid,
                    line: stream.into_std()?,
                }))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Ok(Found::Absent),
                io::ErrorKind::PermissionDenied => Ok(Found::Denied),
                io::ErrorKind::ConnectionRefused => {
                    let socket = path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
                    Ok(if socket { Found::Stale } else { Found::Other })
                }
                io::ErrorKind::WouldBlock if tokio::time::Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                _ => Err(error),
            },
        };
    }
}

impl Peer {
    pub fn is_ours(&self) -> bool {
        self.uid == nix::unistd::geteuid().as_raw()
    }

    /// The program's short name, as the system lists it.
    pub fn program(&self) -> Option<String> {
        process::program(self.pid)
    }

    /// Whether a daemon itself listens, and not an init system on behalf of one that it would start again.
    pub fn is_daemon(&self) -> bool {
        process::is_daemon(self.pid)
    }

    /// The process, unless it only keeps the socket for a daemon.
    pub fn daemon(&self) -> Option<i32> {
        (!process::keeps_sockets(self.pid)).then_some(self.pid)
    }

    /// Whether it works in another tree than this one: it has files open in that one's `state`, and none in ours.
    /// What cannot be seen (another system, another user) is not held against it.
    pub fn is_of_another_tree(&self, state: &Path) -> bool {
        process::is_of_another_tree(self.pid, state)
    }

    /// Whether the listener we connected to still holds its end.
    fn stands(&mut self) -> bool {
        let mut byte = [0];
        match self.line.read(&mut byte) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// `None` if it has gone meanwhile. The connection is given back: a daemon that stops need not wait for it.
    pub fn hold(mut self) -> io::Result<Option<Held>> {
        let Some(held) = Held::of(self.pid)? else {
            return Ok(None);
        };
        Ok(self.stands().then_some(held))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_path_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        assert!(matches!(look(&path).await.unwrap(), Found::Absent));
        let listener = UnixListener::bind(&path).unwrap();
        let Found::Running(peer) = look(&path).await.unwrap() else {
            panic!("not running")
        };
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert!(peer.is_ours());
        drop(listener);
        assert!(matches!(look(&path).await.unwrap(), Found::Stale));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(matches!(look(&path).await.unwrap(), Found::Other));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_listener_that_has_gone_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let Found::Running(peer) = look(&path).await.unwrap() else {
            panic!("not running")
        };
        let (accepted, _) = listener.accept().unwrap();
        drop(accepted);
        assert!(peer.hold().unwrap().is_none());
        let Found::Running(peer) = look(&path).await.unwrap() else {
            panic!("not running")
        };
        assert!(peer.hold().unwrap().is_some());
    }
}
