//! One process of a service: started, or found from before; held, watched, and gone for good with all its descendants.

use std::{
    ffi::OsString,
    io::{self, PipeReader},
    os::unix::{net::UnixListener, process::ExitStatusExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use tokio::{task::JoinHandle, time::timeout};

use super::{detach, machine::Exit};
use crate::{
    context::Context,
    environment::Environment,
    supervise::{
        process::{self, Held, MARK},
        table::Entry,
    },
};

/// How long the last words of a process that has ended may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    pub start_time: Option<u64>,
    pub held: Arc<Held>,
}

impl Process {
    /// The process of this number, if it was started then.
    pub fn find(pid: i32, start_time: u64) -> io::Result<Option<Process>> {
        let Some(process) = Process::of(pid)? else {
            return Ok(None);
        };
        Ok((process.start_time == Some(start_time)).then_some(process))
    }

    /// Held first and looked at then: what is seen is of the process that is held.
    pub fn of(pid: i32) -> io::Result<Option<Process>> {
        let Some(held) = Held::of(pid)? else { return Ok(None) };
        let start_time = process::start_time(pid);
        if cfg!(target_os = "linux") && start_time.is_none() {
            return Ok(None);
        }
        Ok(Some(Process {
            pid,
            start_time,
            held: Arc::new(held),
        }))
    }
}

/// By which its descendants are known.
pub fn mark(context: &Context, entry: &Entry) -> String {
    format!("{}@{}", entry.name, context.root.path().display())
}

pub fn spawn(
    context: &Context,
    environment: &Environment,
    entry: &Entry,
    program: &Path,
    socket: &UnixListener,
) -> io::Result<(Child, Process, PipeReader)> {
    let program = std::path::absolute(program)?;
    let (printed, pipe) = io::pipe()?;
    let mut command = Command::new(process::own_program()?);
    command
        .arg(detach::WITH_SOCKET)
        .arg(&program)
        .args(entry.args)
        .env_clear()
        .envs(environment.for_service(entry, &context.root))
        .envs(variables(context))
        .env(MARK, mark(context, entry))
        .current_dir(context.root.path())
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket.try_clone()?)))
        .stdout(pipe.try_clone()?)
        .stderr(pipe);
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    match Process::of(pid) {
        Ok(Some(process)) => Ok((child, process, printed)),
        // Ended already; its number is ours until it is waited for.
        Ok(None) => {
            let held = Held::of(pid)?.ok_or_else(|| io::Error::other("it is gone at once"))?;
            let process = Process {
                pid,
                start_time: None,
                held: Arc::new(held),
            };
            Ok((child, process, printed))
        }
        Err(error) => {
            let _gone = child.kill();
            let _reaped = child.wait();
            Err(error)
        }
    }
}

fn variables(context: &Context) -> Vec<(&'static str, OsString)> {
    let mut variables = vec![("NEXUS_ROOT", context.root.path().as_os_str().to_owned())];
    if let Some(socket) = &context.told {
        variables.push(("GRPC_SOCKET_PATH", socket.as_os_str().to_owned()));
    }
    variables
}

/// Until it has ended, and all that descends from it.
pub async fn end(process: Process, child: Option<Child>, printing: Option<JoinHandle<()>>, mark: String) -> Exit {
    if let Err(error) = process.held.ended().await {
        return Exit::NotStarted(format!("cannot be watched: {error}"));
    }
    let exit = match child {
        Some(mut child) => {
            // It has ended and was not waited for: until then its number, and that of its group, mean nobody else.
            let _empty = nix::sys::signal::killpg(Pid::from_raw(process.pid), Signal::SIGKILL);
            match child.wait() {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::Unknown,
                },
                Err(_) => Exit::Unknown,
            }
        }
        None => reap(process.pid),
    };
    end_stragglers(&mark, None);
    if let Some(printing) = printing {
        let _late = timeout(LAST_WORDS, printing).await;
    }
    exit
}

/// Of a process that was started by the program that we were before: still our child. Of a stranger this asks nothing.
fn reap(pid: i32) -> Exit {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Exit::Code(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
        _ => Exit::Unknown,
    }
}

/// Ends what descends from a service that has ended: it would hold the socket, or do the same work twice.
pub fn end_stragglers(mark: &str, except: Option<i32>) {
    for pid in process::marked(mark, except) {
        // Held first and looked at again then, so that no stranger is hit who got the number meanwhile.
        if let Ok(Some(held)) = Held::of(pid)
            && process::carries(pid, mark)
        {
            let _gone = held.signal(Signal::SIGKILL);
        }
    }
}
