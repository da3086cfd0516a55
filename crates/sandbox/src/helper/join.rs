//! One more command in a sandbox that runs, held by everything that holds the first.
//!
//! Its namespaces are taken from the monitor, which keeps them open. This process goes into them and forks once, as a
//! process itself never changes its pid namespace. Signals to it go to the command and all that it started; USR2 is
//! KILL.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{Signal, killpg};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::report::{Ended, Report, Started};
use crate::spec::{Isolation, Join, Run};
use crate::sys;

use super::Reporter;
use super::cgroup;
use super::host;
use super::init;
use super::lock;
use super::monitor::{block_signals, check, outside, take_groups};
use super::proc::{now_ms, process};
use super::step::{Result, Step, failed};
use super::wire::{self, Up};

pub fn run(join: Join, reporter: &mut Reporter) -> Result<u8> {
    let Join { mut started, mut run } = join;
    check(&run)?;
    if started.cgroups.contains_key("memory") {
        run.limits.memory = None;
    }
    let signals = block_signals()?;
    let privileged = rustix::process::geteuid().is_root();
    let bare = run.isolation == Isolation::HostUnsafe;
    let namespaces = namespaces(&started)?;
    if privileged && !bare {
        take_groups(run.caller.as_ref(), outside(&run))?;
    }
    for dir in started.cgroups.values() {
        cgroup::join(dir)?;
    }
    started.monitor = process(std::process::id() as i32).step("start", "")?;
    // Nobody inside may look at this process once it is there.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("dumpable", "")?;
    for (kind, namespace) in namespaces {
        move_into_link_name_space(namespace.as_fd(), Some(kind)).on("join", format!("{kind:?}"), "")?;
    }
    if bare {
        host::adopt_all()?;
    } else {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).step("cgroup-namespace", "")?;
    }

    let (ours, theirs) = wire::pair().step("start", "")?;
    let forked = sys::fork().step("join", "more processes than the limit of pids allows?")?;
    let Some(pid) = forked else {
        drop(ours);
        let failed = match inside(&run, &theirs, privileged) {
            Ok(never) => match never {},
            Err(failed) => failed,
        };
        let _ = wire::send(&theirs, &Up::Failed(failed));
        std::process::exit(127);
    };
    drop(theirs);
    match wire::receive(&ours).step("join", "")? {
        // Its end was closed by executing the command.
        None => {}
        Some(Up::Failed(failed)) => return Err(failed),
        Some(Up::Started(_) | Up::Exited { .. } | Up::Outside) => {
            return Err(failed("join", "an answer out of turn", ""));
        }
    }
    reporter.say(&Report::Started(started));
    let (code, signal) = watch(Pid::from_raw(pid), &signals)?;
    if bare {
        host::end_all(Pid::from_raw(pid), &Default::default());
    }
    let at_ms = now_ms();
    reporter.say(&Report::Exited(Ended {
        code,
        signal,
        oom: false,
        at_ms,
    }));
    Ok(code as u8)
}

/// In the order in which they have to be entered: the first gives the right to the others.
fn namespaces(started: &Started) -> Result<Vec<(LinkNameSpaceType, OwnedFd)>> {
    let kinds = [
        ("user", LinkNameSpaceType::User),
        ("ipc", LinkNameSpaceType::InterProcessCommunication),
        ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
        ("net", LinkNameSpaceType::Network),
        ("pid", LinkNameSpaceType::ProcessID),
        ("mnt", LinkNameSpaceType::Mount),
    ];
    let monitor = started.monitor;
    let mut opened = Vec::new();
    for (name, kind) in kinds {
        let Some(number) = started.namespaces.get(name) else {
            continue;
        };
        let path = format!("/proc/{}/fd/{number}", monitor.pid);
        let file = File::open(&path).on("join", "the sandbox does not run", "")?;
        opened.push((kind, file.into()));
    }
    // Only now is it sure that it was not another process of that number.
    if !process(monitor.pid).is_ok_and(|now| now == monitor) {
        return Err(failed("join", "the sandbox does not run", ""));
    }
    Ok(opened)
}

fn inside(run: &Run, socket: &OwnedFd, privileged: bool) -> Result<init::Never> {
    if run.isolation == Isolation::HostUnsafe {
        return host::become_command(run, socket, privileged);
    }
    lock::become_user(run.user)?;
    lock::die_with_parent(socket.as_fd())?;
    lock::lock(run)?;
    init::replace(run)
}

fn watch(pid: Pid, signals: &SignalFd) -> Result<(i32, Option<i32>)> {
    loop {
        let mut polled = [PollFd::new(signals, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut polled, None)).step("watch", "")?;
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGUSR2) => drop(killpg(pid, Signal::SIGKILL)),
                Ok(signal) => drop(killpg(pid, signal)),
                Err(_) => {}
            }
        }
        match waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).step("watch", "")? {
            WaitStatus::Exited(_, code) => return Ok((code, None)),
            WaitStatus::Signaled(_, signal, _) => return Ok((128 + signal as i32, Some(signal as i32))),
            _ => {}
        }
    }
}
