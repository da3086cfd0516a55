//! Runs a command in a running sandbox, under everything that restricts the first one.
//!
//! Its namespaces are taken from the monitor, which keeps them open. This process goes into them and forks once, as a
//! process itself never changes its pid namespace. Signals to it go to the command's process group; USR2 kills everything
//! that the command started: its control group, or what [`guard`] stands above where there is none.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::signal::{Signal, kill, killpg};
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
use super::cgroup::{self, Own};
use super::guard;
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
    let namespaces = namespaces(&started, &ALL)?;
    if privileged && !bare {
        take_groups(run.caller.as_ref(), outside(&run))?;
    }
    let first = first(&started)?;
    let own = if bare { None } else { Own::make(&started) };
    let birthplace = own.as_ref().and_then(Own::birthplace);
    for dir in started.cgroups.values() {
        match &own {
            Some(own) if own.is_below(dir) && birthplace.is_some() => {}
            Some(own) if own.is_below(dir) => cgroup::join(own.dir())?,
            _ => cgroup::join(Path::new(dir))?,
        }
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
    let forked = sys::clone(0, birthplace.as_ref().map(AsFd::as_fd));
    let forked = forked.step("join", "more processes than the limit of pids allows?")?;
    let Some(pid) = forked else {
        drop((ours, birthplace));
        let guarded = own.is_none() && !bare;
        // Its group is the parent's to remove.
        std::mem::forget(own);
        let theirs = if guarded {
            guard::stand_above(theirs).unwrap_or_else(|_| std::process::exit(127))
        } else {
            theirs
        };
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
    reporter.say(&Report::Started(started.clone()));
    let (code, signal, timed_out) = watch(Pid::from_raw(pid), &signals, own.as_ref(), own.is_none() && !bare)?;
    if timed_out && own.is_none() && !bare && signal.is_some() {
        // Its guard was killed before it could end what it guards, which only what is inside can have done.
        let _ = rustix::process::pidfd_send_signal(&first, rustix::process::Signal::KILL);
    }
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

/// A handle of the sandbox's first process, which `namespaces` has shown to be there.
fn first(started: &Started) -> Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(started.init.pid).ok_or_else(|| failed("join", "no first process", ""))?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).step("join", "")
}

type Kind = (&'static str, LinkNameSpaceType);

const USER: Kind = ("user", LinkNameSpaceType::User);
const NETWORK: Kind = ("net", LinkNameSpaceType::Network);
/// In the order in which they have to be entered: the first gives the right to the others.
const ALL: [Kind; 6] = [
    USER,
    ("ipc", LinkNameSpaceType::InterProcessCommunication),
    ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
    NETWORK,
    ("pid", LinkNameSpaceType::ProcessID),
    ("mnt", LinkNameSpaceType::Mount),
];

/// Goes into the network of a sandbox, to start another one in it. An ordinary user gets the right to that in the user
/// namespace of the other one, which is its own too; the new sandbox then has one below that.
pub fn enter_network(started: &Started, privileged: bool) -> Result<()> {
    let kinds = if privileged {
        &[NETWORK][..]
    } else {
        &[USER, NETWORK][..]
    };
    for (kind, namespace) in namespaces(started, kinds)? {
        move_into_link_name_space(namespace.as_fd(), Some(kind)).on("network", format!("{kind:?}"), "")?;
    }
    Ok(())
}

fn namespaces(started: &Started, kinds: &[Kind]) -> Result<Vec<(LinkNameSpaceType, OwnedFd)>> {
    let monitor = started.monitor;
    let mut opened = Vec::new();
    for (name, kind) in kinds {
        let Some(number) = started.namespaces.get(*name) else {
            continue;
        };
        let path = format!("/proc/{}/fd/{number}", monitor.pid);
        let file = File::open(&path).on("join", "the sandbox does not run", "")?;
        opened.push((*kind, file.into()));
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
    init::replace(run, None)
}

/// Until the command has ended: its exit code, the signal that ended it, and whether that was asked for by USR2.
fn watch(pid: Pid, signals: &SignalFd, own: Option<&Own>, guarded: bool) -> Result<(i32, Option<i32>, bool)> {
    let mut timed_out = false;
    loop {
        let mut polled = [PollFd::new(signals, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut polled, None)).step("watch", "")?;
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGUSR2) => {
                    timed_out = true;
                    match own {
                        Some(own) => own.kill(),
                        // A guard ends everything, and then itself.
                        None if guarded => drop(kill(pid, Signal::SIGUSR2)),
                        None => {}
                    }
                    if !guarded {
                        let _ = killpg(pid, Signal::SIGKILL);
                    }
                }
                Ok(signal) if guarded => drop(kill(pid, signal)),
                Ok(signal) => drop(killpg(pid, signal)),
                Err(_) => {}
            }
        }
        match waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).step("watch", "")? {
            WaitStatus::Exited(_, code) => return Ok((code, None, timed_out)),
            WaitStatus::Signaled(_, signal, _) => return Ok((128 + signal as i32, Some(signal as i32), timed_out)),
            _ => {}
        }
    }
}
