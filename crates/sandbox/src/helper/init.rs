//! Pid 1 inside: builds the root, gives up every right, executes the command, and then reaps and forwards signals until
//! the command has ended. Its own end is the end of everything inside.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::fs::Mode;

use crate::report::Failed;
use crate::spec::{Network, Run};
use crate::sys;

use super::cgroup;
use super::etc;
use super::lock;
use super::root::{self, Sources};
use super::step::{Result, Step, failed};
use super::terminal;
use super::wire::{self, Up};

/// What pid 1 is given by the monitor, next to the spec.
pub struct Given {
    pub socket: OwnedFd,
    /// Already taken where the monitor is root.
    pub sources: Option<Sources>,
}

/// Never returns.
pub fn main(run: &Run, given: Given) -> ! {
    let Given { socket, sources } = given;
    // The command's side of its terminal stays open here: a terminal that nobody has open loses what was written to it.
    let ended = start(run, &socket, sources).and_then(|(child, landlock, _terminal)| {
        wire::send(&socket, &Up::Started(landlock)).step("report", "")?;
        Ok(reap(child))
    });
    let message = match ended {
        Ok((code, signal)) => Up::Exited { code, signal },
        Err(failed) => Up::Failed(failed),
    };
    let _ = wire::send(&socket, &message);
    std::process::exit(0)
}

fn start(run: &Run, socket: &OwnedFd, sources: Option<Sources>) -> Result<(Pid, u32, Option<OwnedFd>)> {
    wire::wait_for_go(socket).step("start", "")?;
    // For the directories of the root too.
    usual_umask();
    rustix::process::setsid().step("session", "")?;
    rustix::system::sethostname(etc::hostname(run).as_bytes()).step("hostname", "")?;
    if run.network == Network::None && run.network_of.is_none() {
        sys::loopback_up().step("loopback", "")?;
    }
    lock::become_user(run.user)?;
    let sources = match sources {
        Some(sources) => sources,
        None => root::sources(run, None)?,
    };
    root::enter(run, sources)?;
    let mut terminal = None;
    if let Some(size) = run.collect.and_then(|collect| collect.tty) {
        let pair = terminal::open(size)?;
        wire::send_terminal(socket, &pair.master).step("terminal", "")?;
        terminal = Some(pair.slave);
    }
    // The groups were made meanwhile. From here on everything counts.
    let run = limited(run, socket)?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).step("cgroup-namespace", "")?;
    lock::die_with_parent(socket.as_fd())?;
    let landlock = lock::lock(&run)?;
    let child = execute(&run, terminal.as_ref())?;
    Ok((child, landlock, terminal))
}

/// Becomes a member of its control groups. A process's own limit on memory stands in for a group's, and would hide its
/// OOM kill.
pub fn limited(run: &Run, socket: &OwnedFd) -> Result<Run> {
    let limited = wire::receive_limited(socket).step("cgroup", "")?;
    if !limited.doors.iter().all(|door| cgroup::enter(door).is_ok()) {
        wire::send(socket, &Up::Outside).step("cgroup", "")?;
        wire::wait_for_go(socket).step("cgroup", "")?;
    }
    let mut run = run.clone();
    if limited.memory {
        run.limits.memory = None;
    }
    Ok(run)
}

/// Forks, and returns once the command runs or has failed to.
fn execute(run: &Run, terminal: Option<&OwnedFd>) -> Result<Pid> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("exec", "")?;
    let forked = sys::fork().step("exec", "more processes than the limit of pids allows?")?;
    let Some(pid) = forked else {
        drop(reader);
        let failed = match replace(run, terminal) {
            Ok(never) => match never {},
            Err(failed) => failed,
        };
        let _ = rustix::io::write(&writer, &serde_json::to_vec(&failed).expect("plain data"));
        std::process::exit(127);
    };
    drop(writer);
    let mut buffer = vec![0; 8192];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut buffer[..])).step("exec", "")?;
    if length > 0 {
        let failure: Failed = serde_json::from_slice(&buffer[..length])
            .map_err(|error| failed("exec", format!("garbled failure: {error}"), ""))?;
        return Err(failure);
    }
    Ok(Pid::from_raw(pid))
}

#[derive(Debug)]
pub enum Never {}

/// As programs expect it. The daemon's own, which leaves nothing to others, is for the daemon's files.
fn usual_umask() {
    rustix::process::umask(Mode::from_raw_mode(0o022));
}

/// Becomes the command, with this terminal if it has one.
pub fn replace(run: &Run, terminal: Option<&OwnedFd>) -> Result<Never> {
    usual_umask();
    let arguments = strings(run.command.iter().cloned())?;
    let environment = strings(run.env.iter().map(|(key, value)| format!("{key}={value}")))?;
    let _ = rustix::process::setsid();
    if let Some(slave) = terminal {
        terminal::control(slave)?;
    }
    let missing = "the working directory must exist inside";
    rustix::process::chdir(&run.workdir).on("workdir", run.workdir.display(), missing)?;
    sys::default_signals();
    SigSet::all().thread_unblock().step("exec", "")?;
    sys::close_range(3, u32::MAX, true).step("exec", "")?;
    let program = &run.command[0];
    let hint = "is the command in the image?";
    if program.contains('/') {
        return Err(sys::execute(program, &arguments, &environment)).on("exec", program, hint);
    }
    let path = run.env.iter().rev().find(|(key, _)| key == "PATH");
    let path = path.map_or("/usr/local/bin:/usr/bin:/bin", |(_, value)| value);
    let mut worst = std::io::Error::from_raw_os_error(libc::ENOENT);
    for dir in path.split(':').filter(|dir| dir.starts_with('/')) {
        let file = Path::new(dir).join(program);
        let error = sys::execute(&file.to_string_lossy(), &arguments, &environment);
        if error.raw_os_error() != Some(libc::ENOENT) {
            worst = error;
        }
    }
    Err(worst).on("exec", program, hint)
}

fn strings(texts: impl Iterator<Item = String>) -> Result<Vec<CString>> {
    let strings: std::result::Result<_, _> = texts.map(CString::new).collect();
    strings.map_err(|_| failed("exec", "an argument or variable holds a zero byte", ""))
}

/// Until the command ends. Everybody else whose parent died ends up here too.
fn reap(child: Pid) -> (i32, Option<i32>) {
    let signals = SigSet::all();
    loop {
        while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            match status {
                WaitStatus::Exited(pid, code) if pid == child => return (code, None),
                WaitStatus::Signaled(pid, signal, _) if pid == child => {
                    return (128 + signal as i32, Some(signal as i32));
                }
                WaitStatus::StillAlive => break,
                _ => {}
            }
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(signal) => {
                let _ = kill(child, signal);
            }
        }
    }
}
