//! Identifies processes by more than their pid, so that a reused pid is never mistaken for them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use nexus_sandbox::Started;
use nexus_sandbox::report::Process;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Fields of `/proc/<pid>/stat` after the name, from the state on.
fn fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_string).collect())
}

/// A dead one of which nobody has taken note is not.
pub fn alive(process: Process) -> bool {
    let Some(fields) = fields(process.pid) else {
        return false;
    };
    fields.get(19).and_then(|start| start.parse().ok()) == Some(process.start)
        && !matches!(fields[0].as_str(), "Z" | "X")
}

fn open(process: Process) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(process.pid) else {
        return Ok(None);
    };
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // It is this one for good; was it the right one?
    Ok(alive(process).then_some(fd))
}

/// False: it is gone.
pub fn signal(process: Process, number: i32) -> io::Result<bool> {
    let Some(fd) = open(process)? else { return Ok(false) };
    let signal = Signal::from_named_raw(number)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{number} is not a signal")))?;
    match pidfd_send_signal(fd, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What a command on the bare host started, whose helper was killed: no namespace took it along.
pub fn kill_group(started: &Started) {
    if let Some(leader) = Pid::from_raw(started.init.pid) {
        let _ = rustix::process::kill_process_group(leader, Signal::KILL);
    }
    for dir in started.cgroups.values() {
        let within = fs::read_to_string(format!("{dir}/cgroup.procs")).unwrap_or_default();
        for pid in within.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// Returns once it has ended, whoever's child it is.
pub async fn ended(process: Process) -> io::Result<()> {
    let Some(fd) = open(process)? else { return Ok(()) };
    #[expect(
        deprecated,
        reason = "an OwnedFd keeps its number to itself, which is what the new call asks for"
    )]
    let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
    fd.readable().await.map(drop)
}

/// What a process and all that descend from it use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    pub ticks: u64,
    pub pages: u64,
    pub threads: u64,
}

pub fn used(root: i32) -> Used {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = pid else { continue };
        let Some(fields) = fields(pid) else { continue };
        let number = |index: usize| {
            fields
                .get(index)
                .and_then(|field| field.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let used = Used {
            ticks: (11..15).map(number).sum(),
            pages: number(21),
            threads: number(17),
        };
        all.push((pid, number(1) as i32, used));
    }
    let mut within = vec![root];
    let mut sum = Used::default();
    while let Some(pid) = within.pop() {
        within.extend(
            all.iter()
                .filter(|(_, parent, _)| *parent == pid)
                .map(|(child, _, _)| *child),
        );
        if let Some((_, _, used)) = all.iter().find(|(one, _, _)| *one == pid) {
            sum.ticks += used.ticks;
            sum.pages += used.pages;
            sum.threads += used.threads;
        }
    }
    sum
}
