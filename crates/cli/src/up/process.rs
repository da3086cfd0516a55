//! Who is behind a socket, and how to signal exactly that process.
//!
//! The kernel tells the process that listens. It is held by a pidfd, taken while a connection to it stands: if the
//! connection still stands after that, the pidfd is the listener's and can never come to mean a stranger.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream as StdStream,
    path::Path,
    time::Duration,
};

use tokio::net::UnixStream;

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
    let give_up = tokio::time::Instant::now() + BACKLOG_WAIT;
    loop {
        return match UnixStream::connect(path).await {
            Ok(stream) => {
                let credentials = stream.peer_cred()?;
                let (pid, uid) = (credentials.pid().unwrap_or_default(), credentials.uid());
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
        if cfg!(target_os = "linux") {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", self.pid)).ok()?;
            return Some(name.trim_end().to_owned());
        }
        let listed = std::process::Command::new("ps")
            .args(["-o", "comm=", "-p", &self.pid.to_string()])
            .output()
            .ok()?;
        let path = String::from_utf8(listed.stdout).ok()?;
        Some(path.trim().rsplit('/').next()?.to_owned())
    }

    /// Whether a daemon itself listens, and not an init system on behalf of one that it would start again.
    pub fn is_daemon(&self) -> bool {
        self.pid > 1 && self.program().is_some_and(|name| name.starts_with("nexus-"))
    }

    /// Whether it works in another tree than this one: it has data open under a `state/db`, and none under ours.
    /// What cannot be seen (another system, another user) is not held against it.
    pub fn is_of_another_tree(&self, db_dir: &Path) -> bool {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return false;
        };
        let ours = db_dir.canonicalize().unwrap_or_else(|_| db_dir.to_path_buf());
        let mut elsewhere = false;
        for open in entries.flatten().filter_map(|entry| entry.path().read_link().ok()) {
            if open.starts_with(&ours) {
                return false;
            }
            elsewhere |= open.parent().is_some_and(|parent| parent.ends_with("state/db"));
        }
        elsewhere
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

#[cfg(target_os = "linux")]
mod held {
    use std::{io, os::fd::OwnedFd, time::Duration};

    use nix::sys::signal::Signal;
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
    };

    const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

    /// One process, whatever becomes of its number.
    #[derive(Debug)]
    pub struct Held {
        process: OwnedFd,
    }

    impl Held {
        pub(super) fn of(pid: i32) -> io::Result<Option<Held>> {
            let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(process) => Ok(Some(Held { process })),
                Err(rustix::io::Errno::SRCH) => Ok(None),
                Err(errno) => Err(errno.into()),
            }
        }

        /// False if it has ended already.
        pub fn signal(&self, signal: Signal) -> io::Result<bool> {
            let signal = match signal {
                Signal::SIGKILL => rustix::process::Signal::KILL,
                _ => rustix::process::Signal::TERM,
            };
            match pidfd_send_signal(&self.process, signal) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::SRCH) => Ok(false),
                Err(errno) => Err(errno.into()),
            }
        }

        pub async fn ended(&self) -> io::Result<()> {
            // A pidfd is readable once its process has ended, reaped or not.
            while poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&AT_ONCE))? == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(())
        }
    }
}

/// Elsewhere a number is all there is; it is used right after the connection was seen to stand.
#[cfg(not(target_os = "linux"))]
mod held {
    use std::{io, time::Duration};

    use nix::{
        errno::Errno,
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    #[derive(Debug)]
    pub struct Held {
        pid: Pid,
    }

    impl Held {
        pub(super) fn of(pid: i32) -> io::Result<Option<Held>> {
            Ok((pid > 1).then(|| Held {
                pid: Pid::from_raw(pid),
            }))
        }

        /// False if it has ended already.
        pub fn signal(&self, signal: Signal) -> io::Result<bool> {
            match kill(self.pid, signal) {
                Ok(()) => Ok(true),
                Err(Errno::ESRCH) => Ok(false),
                Err(errno) => Err(errno.into()),
            }
        }

        pub async fn ended(&self) -> io::Result<()> {
            while kill(self.pid, None).is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(())
        }
    }
}

pub use held::Held;

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
