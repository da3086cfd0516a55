//! Runs a command on the bare host, for callers that asked for exactly that: no namespaces, no root, no filter.
//!
//! What is left of a sandbox is what lies around a command: its log, limits where control groups can be made, no way to
//! more rights than its user has, and that what it started ends with it.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::spec::Run;

use super::access;
use super::init;
use super::lock;
use super::step::{Result, Step, failed};

/// Longest that killing what is left may take.
const DEATH: Duration = Duration::from_secs(5);

/// What loses its parent comes to this process, and can be ended by it.
pub fn adopt_all() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).step("watch", "")
}

/// In the child: becomes the command once the monitor lets it.
pub fn begin(run: &Run, socket: &OwnedFd, privileged: bool) -> Result<init::Never> {
    let run = init::limited(run, socket)?;
    become_command(&run, socket, privileged)
}

/// The way to the working directory may be shut to its user; what lies in it is that user's affair.
pub fn become_command(run: &Run, socket: &OwnedFd, privileged: bool) -> Result<init::Never> {
    rustix::process::chdir(&run.workdir).on("workdir", run.workdir.display(), "")?;
    let run = &Run {
        workdir: ".".into(),
        ..run.clone()
    };
    become_user(run, privileged)?;
    lock::die_with_parent(socket.as_fd())?;
    lock::limits(run, false)?;
    rustix::thread::set_no_new_privs(true).step("no-new-privileges", "")?;
    init::replace(run, None)
}

fn become_user(run: &Run, privileged: bool) -> Result<()> {
    use rustix::thread as t;
    let user = run.user;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !privileged {
        let same = (uid.as_raw(), gid.as_raw()) == (user.uid, user.gid);
        let why = format!(
            "commands run as {}:{} here, and as nobody else",
            uid.as_raw(),
            gid.as_raw()
        );
        return if same { Ok(()) } else { Err(failed("spec", why, "")) };
    }
    let groups = run.caller.as_ref().filter(|caller| caller.uid == user.uid);
    let groups = groups.map(|caller| access::groups(&caller.groups)).unwrap_or_default();
    t::set_thread_groups(&groups).step("user", "")?;
    let gid = rustix::process::Gid::from_raw(user.gid);
    let uid = rustix::process::Uid::from_raw(user.uid);
    t::set_thread_res_gid(gid, gid, gid).step("user", "")?;
    t::set_thread_res_uid(uid, uid, uid).step("user", "")
}

/// The command has ended: whatever it started ends too.
pub fn end_all(command: Pid, groups: &BTreeMap<String, String>) {
    let until = Instant::now() + DEATH;
    while Instant::now() < until {
        let _ = killpg(command, Signal::SIGKILL);
        let within = groups.values().map(|dir| format!("{dir}/cgroup.procs"));
        let mut left = pids(within);
        left.extend(pids(
            [format!("/proc/self/task/{}/children", std::process::id())].into_iter(),
        ));
        for pid in &left {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        let none = matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(Errno::ECHILD));
        if none && left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn pids(files: impl Iterator<Item = String>) -> Vec<Pid> {
    let texts = files.filter_map(|file| fs::read_to_string(file).ok());
    let numbers = texts.flat_map(|text| {
        let words: Vec<i32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        words
    });
    numbers.map(Pid::from_raw).collect()
}
