//! Identifies a process beyond its pid: by its start time, and by a pidfd.
//!
//! What is asked of `/proc` has no answer on other systems; there a number is all there is, used right after it was seen
//! to be right.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// The variable by which a process tells whose service it is, or descends from.
pub const MARK: &str = "NEXUS_SERVICE";

/// This program, also when its file was replaced meanwhile.
pub fn own_program() -> std::io::Result<std::path::PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    std::env::current_exe()
}

/// When it was started, as the kernel counts it; `None` if it has ended.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also brackets and blanks; what follows its end does not.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The program's short name, as the system lists it.
pub fn program(pid: i32) -> Option<String> {
    if cfg!(target_os = "linux") {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        return Some(name.trim_end().to_owned());
    }
    let listed = std::process::Command::new("ps")
        .args(["-o", "comm=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let path = String::from_utf8(listed.stdout).ok()?;
    Some(path.trim().rsplit('/').next()?.to_owned())
}

/// Whether it is a daemon of ours by its name, and not an init system on behalf of one that it would start again.
pub fn is_daemon(pid: i32) -> bool {
    pid > 1 && program(pid).is_some_and(|name| name.starts_with("nexus-"))
}

/// Whether it may listen for a daemon that it starts: our supervisor, or an init system.
pub fn keeps_sockets(pid: i32) -> bool {
    pid == 1 || program(pid).is_some_and(|name| ["nexus", "systemd", "launchd"].contains(&name.as_str()))
}

/// Whether the init system started it, and would again.
pub fn is_of_init(pid: i32) -> bool {
    environ(pid).is_some_and(|environ| has(&environ, |entry| entry.starts_with(b"NOTIFY_SOCKET=")))
}

/// Whether it works in another tree than this one: it has files open in that one's `state`, and none in ours.
/// What cannot be seen (another system, another user) is not held against it.
pub fn is_of_another_tree(pid: i32, state: &Path) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let ours = state.canonicalize().unwrap_or_else(|_| state.to_path_buf());
    let rooms = ["state/db", "state/run", "state/logs"];
    let mut elsewhere = false;
    for open in entries.flatten().filter_map(|entry| entry.path().read_link().ok()) {
        if open.starts_with(&ours) {
            return false;
        }
        let parent = open.parent();
        elsewhere |= rooms.iter().any(|room| parent.is_some_and(|dir| dir.ends_with(room)));
    }
    elsewhere
}

/// The daemon that has the listening socket of this path open, whoever made it.
pub fn holder(path: &Path) -> Option<i32> {
    let inode = listening_inode(path)?;
    let open = format!("socket:[{inode}]");
    processes().find(|pid| {
        is_daemon(*pid)
            && fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
                fds.flatten().any(|fd| {
                    fd.path()
                        .read_link()
                        .is_ok_and(|link| link.as_os_str() == open.as_str())
                })
            })
    })
}

/// Flags of a socket that accepts connections, in `/proc/net/unix`.
const ACCEPTS: &str = "00010000";

fn listening_inode(path: &Path) -> Option<String> {
    let table = BufReader::new(fs::File::open("/proc/net/unix").ok()?);
    let name = path.to_str()?;
    // Of several of the same name the newest is the one that the file means; the table has it last or only one listens.
    table
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let flags = fields.nth(3)?;
            let inode = fields.nth(2)?;
            let bound = line.get(line.find('/')?..)?;
            (flags == ACCEPTS && bound == name).then(|| inode.to_owned())
        })
        .last()
}

/// Processes that carry this mark, but for one.
pub fn marked(mark: &str, except: Option<i32>) -> Vec<i32> {
    processes()
        .filter(|pid| Some(*pid) != except && carries(*pid, mark))
        .collect()
}

pub fn carries(pid: i32, mark: &str) -> bool {
    let wanted = format!("{MARK}={mark}");
    environ(pid).is_some_and(|environ| has(&environ, |entry| entry == wanted.as_bytes()))
}

fn environ(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/environ")).ok()
}

fn has(environ: &[u8], wanted: impl Fn(&[u8]) -> bool) -> bool {
    environ.split(|byte| *byte == 0).any(wanted)
}

fn processes() -> impl Iterator<Item = i32> {
    let own = nix::unistd::getpid().as_raw();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let number = |name: &[u8]| std::str::from_utf8(name).ok()?.parse::<i32>().ok();
    entries
        .filter_map(move |entry| number(entry.file_name().as_bytes()))
        .filter(move |pid| *pid != own)
}

#[cfg(target_os = "linux")]
mod held {
    use std::{io, os::fd::OwnedFd};

    use nix::sys::signal::Signal;
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
    };
    use tokio::io::{Interest, unix::AsyncFd};

    /// One process, whatever becomes of its number.
    #[derive(Debug)]
    pub struct Held {
        process: OwnedFd,
    }

    impl Held {
        /// `None` if there is no such process.
        pub fn of(pid: i32) -> io::Result<Option<Held>> {
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
                Signal::SIGHUP => rustix::process::Signal::HUP,
                _ => rustix::process::Signal::TERM,
            };
            match pidfd_send_signal(&self.process, signal) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::SRCH) => Ok(false),
                Err(errno) => Err(errno.into()),
            }
        }

        /// Whether it has ended by now.
        pub fn is_over(&self) -> bool {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
        }

        /// A pidfd is readable once its process has ended, reaped or not.
        pub async fn ended(&self) -> io::Result<()> {
            #[expect(
                deprecated,
                reason = "what replaces it is unsafe for the sake of types that close their descriptor"
            )]
            let process = AsyncFd::with_interest(self.process.try_clone()?, Interest::READABLE)?;
            process.readable().await.map(drop)
        }

        /// A descriptor that it has open, if we may have it too.
        pub fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
            let flags = rustix::process::PidfdGetfdFlags::empty();
            Ok(rustix::process::pidfd_getfd(&self.process, number, flags)?)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod held {
    use std::{io, os::fd::OwnedFd, time::Duration};

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
        /// `None` if there is no such process.
        pub fn of(pid: i32) -> io::Result<Option<Held>> {
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

        pub fn is_over(&self) -> bool {
            kill(self.pid, None).is_err()
        }

        pub async fn ended(&self) -> io::Result<()> {
            while kill(self.pid, None).is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(())
        }

        pub fn descriptor(&self, _number: i32) -> io::Result<OwnedFd> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

pub use held::Held;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn our_own_start_time_is_known_and_does_not_change() {
        let own = nix::unistd::getpid().as_raw();
        assert!(start_time(own).is_some());
        assert_eq!(start_time(own), start_time(own));
    }

    #[test]
    fn a_listening_socket_is_found_by_its_path_and_only_while_it_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a name.sock");
        assert_eq!(listening_inode(&path), None);
        let listener = UnixListener::bind(&path).unwrap();
        assert!(listening_inode(&path).is_some());
        drop(listener);
        assert_eq!(listening_inode(&path), None);
    }
}
