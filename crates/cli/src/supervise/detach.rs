//! The last step of starting a process: a session of its own, so that no terminal takes it along, then exec.
//!
//! It is this same program run once more, because a process may only leave its session after the fork and before the
//! exec, and only then does it know the number by which a socket is handed to it; neither can be done from a running
//! runtime. The process id stays the same through both.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::{
        fd::{IntoRawFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Command, ExitCode, Stdio},
};

/// The first argument that asks for it, with a listening socket as standard input that the program is to get as systemd
/// passes one. Not a command of the tree: it is of no use to people.
pub const WITH_SOCKET: &str = "\u{1}detach-with-socket";
/// The same, with the file of [`crate::environment`] as standard input, which the program is to inherit.
pub const WITH_ENVIRONMENT: &str = "\u{1}detach-with-environment";

/// The number of the first socket that is passed in.
const FIRST: RawFd = 3;

/// `None` if this is an ordinary run. Else it only comes back if the program could not be started.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut args = env::args_os().skip(1);
    let asked = args.next()?;
    let socket = asked == WITH_SOCKET;
    let environment = asked == WITH_ENVIRONMENT;
    if !environment && !socket {
        return None;
    }
    let program = args.next()?;
    if let Err(errno) = nix::unistd::setsid() {
        eprintln!("failed to start a session: {errno}");
        return Some(ExitCode::from(71));
    }
    let mut command = Command::new(&program);
    command.args(args).stdin(Stdio::null());
    // What a service manager told us is not meant for those that we start.
    for name in [
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
    ] {
        command.env_remove(name);
    }
    close_inherited();
    if let Err(error) = pass_input() {
        eprintln!("failed to pass what was handed over: {error}");
        return Some(ExitCode::from(71));
    }
    if socket {
        command
            .env("LISTEN_FDS", "1")
            .env("LISTEN_PID", std::process::id().to_string());
    } else {
        command.env(crate::environment::VARIABLE, FIRST.to_string());
    }
    let error = command.exec();
    eprintln!("failed to start {}: {error}", OsStr::new(&program).display());
    Some(ExitCode::from(127))
}

/// Whatever a shell left open does not stay open for as long as a daemon lives.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/dev/fd") else { return };
    let open: Vec<RawFd> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in open.into_iter().filter(|number| *number >= FIRST) {
        // The listing itself was one of them and is closed by now.
        let _closed = nix::unistd::close(number);
    }
}

fn pass_input() -> io::Result<()> {
    let number = nix::unistd::dup(io::stdin())?.into_raw_fd();
    if number == FIRST {
        return Ok(());
    }
    Err(io::Error::other(format!("it became number {number}")))
}
