//! The process between the caller and the sandbox. It makes the namespaces and the control groups, lets pid 1 go, keeps
//! the log, passes signals on, and writes down how it ended. If it is killed, so is everything inside.
//!
//! ```text
//!   check ─▶ take sources (root) ─▶ clone ─▶ maps ─▶ go ─▶ cgroups ─▶ Started ─▶ watch ─▶ Exited
//!                                                 any failure: pid 1 is killed, the cgroups removed ─▶ Failed
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::report::{Ended, Failed, Report, Started};
use crate::spec::{Caller, Isolation, NOBODY, Network, Run, User};
use crate::sys;

use super::Reporter;
use super::cgroup::{self, Groups};
use super::init::{self, Given};
use super::join;
use super::output::Output;
use super::proc::{now_ms, process};
use super::step::{Result, Step, USERNS_HINT, failed};
use super::wire::{self, Limited, Up};
use super::{access, account, host, idmap, root};

/// Who the sandbox of this run is on the host, where the helper is root.
pub fn outside(run: &Run) -> User {
    run.host_user.unwrap_or(NOBODY)
}

/// The groups by which the processes inside have the rights of the caller's groups on mounts, and no others. In their own
/// namespace these have no number, so that it cannot be done later.
pub fn take_groups(caller: Option<&Caller>, outside: User) -> Result<()> {
    let numbers = caller
        .map(|caller| idmap::own_groups(caller, outside))
        .unwrap_or_default();
    rustix::thread::set_thread_groups(&access::groups(&numbers)).step("user", "")
}

pub fn run(run: Run, reporter: &mut Reporter) -> Result<u8> {
    check(&run)?;
    if let Some(caller) = &run.caller {
        access::check_caller(caller)?;
    }
    let uid = rustix::process::geteuid();
    let privileged = uid.is_root();
    let outside = if privileged {
        outside(&run)
    } else {
        User {
            uid: uid.as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    };
    if run.state.is_some() {
        // Not of the caller's session any more: it goes on when the caller ends.
        let _ = rustix::process::setsid();
    }
    let signals = block_signals()?;
    let bare = run.isolation == Isolation::HostUnsafe;
    if bare {
        host::adopt_all()?;
    }
    let taken = privileged && !bare;
    let sources = taken.then(|| root::sources(&run, Some(outside))).transpose()?;
    // Others than those of version 2 can be made while pid 1 is busy.
    let unified = cgroup::is_unified();
    let mut groups = unified.then(|| Groups::make(&run)).transpose()?;
    let birthplace = groups.as_ref().and_then(Groups::birthplace);
    let mut output = run.state.as_deref().map(|dir| Output::open(dir, &run)).transpose()?;
    let mut outside = outside;
    if let Some(other) = run.network_of.as_deref().filter(|_| !bare) {
        join::enter_network(other, privileged)?;
        if !privileged {
            // As the other one's user namespace names it.
            outside = User {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            };
        }
    }

    if privileged && !bare {
        take_groups(run.caller.as_ref(), outside)?;
    }
    let (ours, theirs) = wire::pair().step("start", "")?;
    let mut namespaces =
        libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if run.network == Network::None && run.network_of.is_none() {
        namespaces |= libc::CLONE_NEWNET;
    }
    if bare {
        namespaces = 0;
    }
    let mut inside = birthplace.is_some();
    let mut clone = || {
        sys::clone(namespaces, birthplace.as_ref().map(AsFd::as_fd)).or_else(|error| {
            // One without a group may be possible, and is moved into it.
            let again = std::mem::take(&mut inside);
            if again {
                sys::clone(namespaces, None)
            } else {
                Err(error)
            }
        })
    };
    let born = if privileged && !bare {
        account::charge(account::of(run.caller.as_ref(), outside), clone)?
    } else {
        clone()
    };
    let Some(pid) = born.step("namespaces", USERNS_HINT)? else {
        drop((ours, birthplace));
        if let Some(output) = &mut output
            && let Err(failed) = output.become_output()
        {
            let _ = wire::send(&theirs, &Up::Failed(failed));
            std::process::exit(0);
        }
        if bare {
            let failed = match host::begin(&run, &theirs, privileged) {
                Ok(never) => match never {},
                Err(failed) => failed,
            };
            let _ = wire::send(&theirs, &Up::Failed(failed));
            std::process::exit(127);
        }
        let given = Given {
            socket: theirs,
            sources,
        };
        init::main(&run, given)
    };
    // What pid 1 needed, and nobody else.
    drop((theirs, sources));
    let mut child = Child {
        pid: Pid::from_raw(pid),
        socket: ours,
        groups: groups.take().unwrap_or_default(),
        reaped: false,
    };
    if let Some(output) = &mut output {
        output.keep_reading();
    }

    let mut held = BTreeMap::new();
    if !bare {
        idmap::write(pid, run.user, outside, privileged)?;
        wire::go(&child.socket).step("start", "")?;
        held = hold_namespaces(pid, run.network).map_err(|failed| child.why(failed))?;
    }
    let init = process(pid).step("start", "")?;
    if !unified {
        child.groups = Groups::make(&run)?;
    }
    if !inside {
        child.groups.add(pid, false).map_err(|failed| child.why(failed))?;
    }
    let limited = Limited {
        memory: child.groups.has("memory"),
        doors: child.groups.doors()?,
    };
    // Who is gone already has said why, which is read next.
    let _ = wire::send_limited(&child.socket, &limited);
    drop(limited);
    let unenforced = child.groups.unenforced(&run);
    let landlock = child.started(bare, output.as_mut())?;
    let started = Started {
        monitor: process(std::process::id() as i32).step("start", "")?,
        init,
        namespaces: held
            .iter()
            .map(|(name, file)| (name.to_string(), file.as_raw_fd()))
            .collect(),
        cgroups: child.groups.paths(),
        unenforced,
        landlock,
    };
    if let Some(dir) = &run.state {
        save(dir, "status.json", &started)?;
    }
    reporter.say(&Report::Started(started));
    if output.is_some() {
        leave_caller()?;
    }

    let (code, signal) = child.watch(&signals, output.as_mut())?;
    if bare {
        host::end_all(child.pid, &child.groups.paths());
    }
    let oom = child.groups.oom();
    if let Some(output) = output.as_mut() {
        output.finish();
    }
    let ended = Ended {
        code,
        signal,
        oom,
        at_ms: now_ms(),
    };
    if let Some(dir) = &run.state {
        save(dir, "exit.json", &ended)?;
    }
    reporter.say(&Report::Exited(ended));
    Ok(code as u8)
}

pub fn check(run: &Run) -> Result<()> {
    let wrong = |why: String| Err(failed("spec", why, ""));
    if run.command.first().is_none_or(String::is_empty) {
        return wrong("no command".into());
    }
    if run.collect.is_some() && run.state.is_none() {
        return wrong("output is collected in a state directory, and there is none".into());
    }
    if !run.workdir.is_absolute() {
        return wrong(format!("working directory {} is not absolute", run.workdir.display()));
    }
    if run.env.iter().any(|(key, _)| key.is_empty() || key.contains('=')) {
        return wrong("an environment variable has no name, or one with =".into());
    }
    for mount in &run.mounts {
        let target = &mount.target;
        let plain = target
            .components()
            .skip(1)
            .all(|part| matches!(part, Component::Normal(_)));
        if !target.is_absolute() || !plain || target == Path::new("/") {
            return wrong(format!(
                "mount target {} is not a plain absolute path",
                target.display()
            ));
        }
        if ["/proc", "/dev", "/sys"].iter().any(|ours| target.starts_with(ours)) {
            return wrong(format!("mount target {} is the sandbox's own", target.display()));
        }
    }
    Ok(())
}

pub fn block_signals() -> Result<SignalFd> {
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).step("signals", "")?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).step("signals", "")
}

/// Open as long as this process lives, so that more commands can be brought in: pid 1 lets nobody look at its own.
fn hold_namespaces(pid: i32, network: Network) -> Result<BTreeMap<&'static str, OwnedFd>> {
    let mut held = BTreeMap::new();
    for name in ["user", "mnt", "pid", "net", "ipc", "uts"] {
        if name == "net" && network == Network::HostUnsafe {
            continue;
        }
        let file = File::open(format!("/proc/{pid}/ns/{name}")).on("namespaces", name, "")?;
        held.insert(name, file.into());
    }
    Ok(held)
}

/// Nothing of the caller's is held: it may wait for the end of its pipes.
fn leave_caller() -> Result<()> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .step("start", "")?;
    rustix::stdio::dup2_stdin(&null).step("start", "")?;
    rustix::stdio::dup2_stdout(&null).step("start", "")?;
    rustix::stdio::dup2_stderr(&null).step("start", "")
}

/// Whole, or not at all.
fn save(dir: &Path, name: &str, what: &impl serde::Serialize) -> Result<()> {
    let partial = dir.join(format!(".{name}"));
    let bytes = serde_json::to_vec(what).expect("plain data");
    let written = File::create(&partial).and_then(|mut file| file.write_all(&bytes));
    written
        .and_then(|()| fs::rename(&partial, dir.join(name)))
        .on("state", dir.display(), "")
}

/// Pid 1, as long as it is not reaped. Dropped, it is killed and its control groups are gone.
struct Child {
    pid: Pid,
    socket: OwnedFd,
    groups: Groups,
    reaped: bool,
}

impl Child {
    /// What pid 1 said of its end, if that is why something else failed.
    fn why(&self, otherwise: Failed) -> Failed {
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let said = poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0);
        match said.then(|| wire::receive(&self.socket)) {
            Some(Ok(Some(Up::Failed(failed)))) => failed,
            _ => otherwise,
        }
    }

    /// The version of Landlock that holds it; zero: none. A `bare` command just closes its end, by being executed.
    fn started(&self, bare: bool, output: Option<&mut Output>) -> Result<u32> {
        let first = match output.filter(|output| output.wants_terminal() && !bare) {
            Some(output) => match wire::receive_first(&self.socket).step("start", "")? {
                wire::First::Terminal(master) => {
                    output.terminal(master)?;
                    wire::receive(&self.socket).step("start", "")?
                }
                wire::First::Other(said) => said,
            },
            None => wire::receive(&self.socket).step("start", "")?,
        };
        let said = match first {
            Some(Up::Outside) => {
                self.groups.add(self.pid.as_raw(), true)?;
                wire::go(&self.socket).step("start", "")?;
                wire::receive(&self.socket).step("start", "")?
            }
            said => said,
        };
        match said {
            None if bare => Ok(0),
            Some(Up::Started(landlock)) => Ok(landlock),
            Some(Up::Failed(failed)) => Err(failed),
            Some(Up::Exited { .. } | Up::Outside) => Err(failed("start", "an answer out of turn", "")),
            None => Err(failed(
                "start",
                "pid 1 died while it was setting up",
                "is the memory limit too small?",
            )),
        }
    }

    /// Until the sandbox has ended: code, and the signal if one ended it.
    fn watch(&mut self, signals: &SignalFd, mut output: Option<&mut Output>) -> Result<(i32, Option<i32>)> {
        let mut ended = None;
        loop {
            let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
            if ended.is_none() {
                polled.push(PollFd::new(&self.socket, PollFlags::IN));
            }
            let fixed = polled.len();
            let wanted = output.as_ref().map(|output| output.polled()).unwrap_or_default();
            polled.extend(wanted.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
            rustix::io::retry_on_intr(|| poll(&mut polled, None)).step("watch", "")?;
            let told: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
            drop(polled);
            if let Some(output) = output.as_mut() {
                output.pump(&told[fixed..]);
            }
            if ended.is_none() && fixed == 2 && !told[1].is_empty() {
                ended = Some(wire::receive(&self.socket).step("watch", "")?);
            }
            while let Ok(Some(signal)) = signals.read_signal() {
                let number = signal.ssi_signo as i32;
                // Its own, of a report to a caller that is gone: nothing that the command should hear of.
                if number == libc::SIGPIPE {
                    continue;
                }
                if number != libc::SIGCHLD {
                    self.pass_on(number);
                    continue;
                }
                if let Some(status) = self.try_reap() {
                    let last = match ended {
                        Some(last) => last,
                        None => wire::receive(&self.socket).step("watch", "")?,
                    };
                    return Ok(match (last, status) {
                        (Some(Up::Exited { code, signal }), _) => (code, signal),
                        (_, WaitStatus::Signaled(_, signal, _)) => (128 + signal as i32, Some(signal as i32)),
                        (_, WaitStatus::Exited(_, code)) => (code, None),
                        _ => (128 + libc::SIGKILL, Some(libc::SIGKILL)),
                    });
                }
            }
        }
    }

    fn pass_on(&self, number: i32) {
        if let Ok(signal) = Signal::try_from(number) {
            let _ = kill(self.pid, signal);
        }
    }

    fn try_reap(&mut self) -> Option<WaitStatus> {
        loop {
            match waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return None,
                Ok(status) if status.pid() == Some(self.pid) => {
                    self.reaped = true;
                    return Some(status);
                }
                // One that lost its parent, on the bare host.
                Ok(_) => {}
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
            self.reaped = true;
        }
        // Its groups go after it.
    }
}
