//! Whether a socket's path is free to be taken. systemd takes it from whoever has it, so its units ask here first.

use std::{io::ErrorKind, os::unix::fs::FileTypeExt, os::unix::net::UnixStream, path::Path};

use crate::failure::{Exit, Failure};

/// What stands at the path.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing, or a socket that nobody listens on.
    Free,
    NotASocket,
    /// Somebody listens: their process, if the system tells.
    Taken(Option<i32>),
}

pub fn look(path: &Path) -> std::io::Result<Claim> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Claim::Free),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Ok(Claim::NotASocket);
    }
    match UnixStream::connect(path) {
        Ok(stream) => Ok(Claim::Taken(peer(&stream))),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(Claim::Free),
        // A full queue has somebody behind it.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Claim::Taken(None)),
        Err(error) => Err(error),
    }
}

/// For the units: succeeds if it is free.
pub fn run(path: &Path) -> Result<Exit, Failure> {
    let shown = path.display();
    let problem = match look(path).map_err(|error| Failure::file("look at", path, &error))? {
        Claim::Free => return Ok(Exit::Ok),
        Claim::NotASocket => format!("{shown} exists and is not a socket"),
        Claim::Taken(Some(pid)) => format!("{shown} is in use by {} (pid {pid})", program(pid)),
        Claim::Taken(None) => format!("{shown} is in use"),
    };
    Err(Failure::new(Exit::Refused, problem).hint("stop that one (nexus down), or set another socket_path"))
}

/// The short name of a process.
pub fn program(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.map_or_else(|_| "another process".to_owned(), |name| name.trim_end().to_owned())
}

#[cfg(target_os = "linux")]
fn peer(stream: &UnixStream) -> Option<i32> {
    let peer = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    (peer.pid() > 0).then_some(peer.pid())
}

#[cfg(not(target_os = "linux"))]
fn peer(_stream: &UnixStream) -> Option<i32> {
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_what_nobody_uses_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(look(&path).unwrap(), Claim::Free);
        let listener = UnixListener::bind(&path).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let expected = if cfg!(target_os = "linux") { Some(own) } else { None };
        assert_eq!(look(&path).unwrap(), Claim::Taken(expected));
        assert!(run(&path).unwrap_err().message.contains("is in use by"));
        drop(listener);
        assert_eq!(look(&path).unwrap(), Claim::Free);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "notes").unwrap();
        assert_eq!(look(&path).unwrap(), Claim::NotASocket);
        assert!(run(&path).unwrap_err().message.contains("not a socket"));
    }
}
