//! `nexus services exec`: what launchd starts. It replaces itself by the daemon, and is never its parent.
//!
//! launchd starts again whatever did not end as a success, every few seconds and for ever, so what no start can heal
//! must end as one: the config is looked at first, and said to be wrong in the log.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use crate::{
    failure::{Exit, Failure},
    supervise::{programs, table},
};

/// Only comes back if the daemon is not to run.
pub fn run(service: &str) -> Result<Exit, Failure> {
    let entry = table::find(service).ok_or_else(|| crate::units::check::unknown(service))?;
    let program = programs::all(&[entry])?.remove(0);
    let checked = Command::new(&program)
        .args(entry.args)
        .arg("--check-config")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| Failure::file("run", &program, &error))?;
    if let Some(code @ (64 | 65 | 78)) = checked.code() {
        eprintln!(
            "{service} is not started: its check ended with {code}; put it right, then: nexus services start {service}"
        );
        return Ok(Exit::Ok);
    }
    let mut command = Command::new(&program);
    command.args(entry.args).envs(handed_over()?);
    // What crosses the exec must live until then.
    Err(Failure::file("run", &program, &command.exec()))
}

/// The socket that launchd holds for us, as systemd would name it to the daemon.
#[cfg(target_os = "macos")]
fn handed_over() -> Result<Vec<(&'static str, OsString)>, Failure> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use std::os::fd::{AsRawFd, IntoRawFd};

    let fds = match raunch::activate_socket("Listener") {
        Ok(fds) => fds,
        // Started by hand: the daemon makes its own.
        Err(raunch::Error::NotInPlist | raunch::Error::NotManaged) => return Ok(Vec::new()),
        Err(error) => return Err(Failure::new(Exit::Failed, format!("launchd keeps its socket: {error}"))),
    };
    let Some(fd) = fds.first() else {
        return Ok(Vec::new());
    };
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("failed to take over the socket: {error}"));
    // A number is all we have. Opening it by its name gives the same socket under a number that is ours.
    let own = std::fs::File::options()
        .read(true)
        .write(true)
        .open(format!("/dev/fd/{fd}"))
        .map_err(failed)?;
    fcntl(&own, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|errno| failed(errno.into()))?;
    let number = own.as_raw_fd();
    let _kept_open = own.into_raw_fd();
    Ok(vec![
        ("LISTEN_FDS", "1".into()),
        ("LISTEN_FDS_FIRST_FD", number.to_string().into()),
        ("LISTEN_PID", std::process::id().to_string().into()),
    ])
}

#[cfg(not(target_os = "macos"))]
fn handed_over() -> Result<Vec<(&'static str, OsString)>, Failure> {
    Ok(Vec::new())
}
