//! Above a further command where the sandbox has no control groups: whatever the command starts comes to this process
//! when its parent dies, so that all of it can be ended.
//!
//! It is the same user as the command, which can therefore kill it; `join` then ends the whole sandbox.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys;

use super::lock;
use super::step::{Result, Step};

/// Longest that ending everything may take.
const DEATH: Duration = Duration::from_millis(900);

/// Forks. Returns in the child, which becomes the command; the parent stays as its guard and never returns.
pub fn stand_above(socket: OwnedFd) -> Result<OwnedFd> {
    nix::sys::prctl::set_child_subreaper(true).step("join", "")?;
    lock::die_with_parent(socket.as_fd())?;
    let forked = sys::fork().step("join", "more processes than the limit of pids allows?")?;
    let Some(command) = forked else {
        return Ok(socket);
    };
    drop(socket);
    std::process::exit(watch(Pid::from_raw(command)))
}

/// Until the command has ended: its exit code. What it left running in the background goes on.
fn watch(command: Pid) -> i32 {
    let signals = SigSet::all();
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            match status {
                WaitStatus::Exited(pid, code) if pid == command => return code,
                WaitStatus::Signaled(pid, signal, _) if pid == command => return 128 + signal as i32,
                WaitStatus::StillAlive => break,
                _ => {}
            }
        }
        match signals.wait() {
            Ok(Signal::SIGUSR2) => {
                end_all();
                return 128 + Signal::SIGKILL as i32;
            }
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(signal) => drop(killpg(command, signal)),
        }
    }
}

/// Everything that descends from this process.
fn end_all() {
    let until = Instant::now() + DEATH;
    while Instant::now() < until {
        for pid in descendants() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return,
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn descendants() -> Vec<i32> {
    let mut found = Vec::new();
    let mut next = vec![std::process::id() as i32];
    while let Some(pid) = next.pop() {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children
                .split_whitespace()
                .filter_map(|child| child.parse::<i32>().ok());
            let children: Vec<i32> = children.filter(|child| !found.contains(child)).collect();
            found.extend(&children);
            next.extend(children);
        }
    }
    found
}
