//! Carries out what the machine decides: keeps sockets, starts processes, holds and signals them. Decides nothing.

use std::{
    io::{self, PipeReader},
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::Child,
    sync::Arc,
};

use nexus_daemon::{StatusFile, listener::Kept};
use nix::{
    sys::{
        signal::Signal,
        socket::{getsockopt, sockopt},
    },
    unistd::geteuid,
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    child::{self, Process},
    dispatcher::Input,
    handover::Handed,
    machine::{Effect, Event, Exit},
    memory::Remembered,
    policy::Policy,
    prober::Prober,
    pump,
};
use crate::{
    context::Context,
    environment::Environment,
    supervise::{
        process, programs,
        table::{Entry, Socket, TABLE, address},
    },
};

/// Where a daemon that was started with a socket has it.
const PASSED: i32 = 3;

/// What there is of one service.
struct Slot {
    entry: &'static Entry,
    socket: Socket,
    kept: Option<Kept>,
    process: Option<Process>,
    probing: Option<JoinHandle<()>>,
    /// What its process prints, a second time: for a successor, since the first is being read.
    printed: Option<PipeReader>,
}

pub struct Executor {
    pub context: Arc<Context>,
    /// What the daemons are given; see [`crate::environment`].
    pub environment: Environment,
    policy: Policy,
    slots: Vec<Slot>,
    heard: mpsc::Sender<Input>,
}

impl Executor {
    pub fn new(
        context: Arc<Context>,
        environment: Environment,
        policy: Policy,
        sockets: Vec<Socket>,
        heard: mpsc::Sender<Input>,
    ) -> Executor {
        let slot = |(entry, socket)| Slot {
            entry,
            socket,
            kept: None,
            process: None,
            probing: None,
            printed: None,
        };
        Executor {
            context,
            environment,
            policy,
            slots: TABLE.iter().zip(sockets).map(slot).collect(),
            heard,
        }
    }

    pub fn process(&self, unit: usize) -> Option<&Process> {
        self.slots[unit].process.as_ref()
    }

    pub fn socket(&self, unit: usize) -> &Socket {
        &self.slots[unit].socket
    }

    /// What could not be done comes back as an event.
    pub fn carry_out(&mut self, effect: Effect, keep_socket: bool) -> Option<Event> {
        match effect {
            Effect::Spawn { unit, instance } => {
                let reason = self.spawn(unit, instance).err()?;
                let exit = Exit::NotStarted(reason);
                return Some(Event::Ended { unit, instance, exit });
            }
            Effect::Terminate(unit) => {
                if !keep_socket {
                    self.slots[unit].kept = None;
                }
                self.signal(unit, Signal::SIGTERM);
            }
            Effect::Kill(unit) => self.signal(unit, Signal::SIGKILL),
            Effect::Release(unit) => self.slots[unit].kept = None,
        }
        None
    }

    fn signal(&self, unit: usize, signal: Signal) {
        if let Some(process) = &self.slots[unit].process {
            // One that has ended meanwhile is about to be told.
            let _gone = process.held.signal(signal);
        }
    }

    /// Its process has ended and was told so.
    pub fn exited(&mut self, unit: usize) {
        let slot = &mut self.slots[unit];
        slot.process = None;
        slot.printed = None;
        if let Some(probing) = slot.probing.take() {
            probing.abort();
        }
    }

    fn spawn(&mut self, unit: usize, instance: u64) -> Result<(), String> {
        let context = self.context.clone();
        let slot = &mut self.slots[unit];
        let entry = slot.entry;
        let program = programs::find(entry.binary).ok_or_else(|| format!("cannot find {}", entry.binary))?;
        if slot.kept.as_ref().is_none_or(|kept| !kept.is_there()) {
            // First given up: what cleans old files away took its name, and its lock is ours.
            slot.kept = None;
            let socket = &slot.socket;
            let kept = Kept::bind(&socket.path, socket.mode, socket.group.as_deref()).map_err(|error| chain(&error))?;
            slot.kept = Some(kept);
        }
        let kept = slot.kept.as_ref().expect("it was just bound");
        let (child, process, printed) = child::spawn(&context, &self.environment, entry, &program, kept.listener())
            .map_err(|error| format!("failed to start {}: {error}", program.display()))?;
        slot.process = Some(process);
        let printing = self.pump(unit, printed);
        self.watch(unit, instance, Some(child), Some(printing));
        Ok(())
    }

    pub fn watch_adopted(&mut self, unit: usize, instance: u64, printed: Option<PipeReader>) {
        let printing = printed.map(|printed| self.pump(unit, printed));
        self.watch(unit, instance, None, printing);
    }

    fn pump(&mut self, unit: usize, printed: PipeReader) -> JoinHandle<()> {
        let slot = &mut self.slots[unit];
        // Without a second one a successor does not read on, and what is printed then is lost.
        slot.printed = printed.try_clone().ok();
        tokio::spawn(pump::run(printed, pump::path(&self.context.root, slot.entry.name)))
    }

    /// By the services' names, what a successor takes over: sockets, and what is printed.
    pub fn belongings(&self) -> impl Iterator<Item = (&'static str, Option<&Kept>, Option<&PipeReader>)> {
        self.slots
            .iter()
            .map(|slot| (slot.entry.name, slot.kept.as_ref(), slot.printed.as_ref()))
    }

    fn watch(&mut self, unit: usize, instance: u64, child: Option<Child>, printing: Option<JoinHandle<()>>) {
        let slot = &mut self.slots[unit];
        let Some(process) = slot.process.clone() else { return };
        let (mark, pid) = (child::mark(&self.context, slot.entry), process.pid);
        let heard = self.heard.clone();
        tokio::spawn(async move {
            let exit = child::end(process, child, printing, mark).await;
            // Nobody hears it only while the supervisor ends.
            let _ending = heard.send(Input::Ended { unit, instance, exit }).await;
        });
        let prober = Prober {
            unit,
            instance,
            entry: slot.entry,
            pid,
            status_file: StatusFile::file(&self.context.root, slot.entry.name),
            address: address(&self.context, slot.entry, &slot.socket),
            orchestrator: self.context.orchestrator.clone(),
            options: self.context.options.clone(),
            interval: self.policy.probe_interval,
            limit: self.policy.probe_timeout,
        };
        if let Some(before) = slot.probing.replace(tokio::spawn(prober.run(self.heard.clone()))) {
            before.abort();
        }
    }

    /// Finds the process that is this service already. What is left of one that is none any more is ended.
    pub fn adopt(&mut self, unit: usize, remembered: &Remembered, handed: &mut Handed) -> bool {
        let slot = &mut self.slots[unit];
        let kept = handed.listener(slot.entry.name, &slot.socket.path);
        let process = match (remembered.pid, remembered.start_time) {
            (Some(pid), Some(start_time)) => Process::find(pid, start_time).ok().flatten(),
            _ => None,
        };
        let process = process.or_else(|| listener(&self.context, &slot.socket));
        let Some(process) = process else {
            child::end_stragglers(&child::mark(&self.context, slot.entry), None);
            if remembered.wanted {
                slot.kept = kept;
            }
            return false;
        };
        slot.kept = kept.or_else(|| keep(&process, &slot.socket));
        slot.process = Some(process);
        true
    }
}

/// The daemon of this tree that listens there, unless an init system looks after it.
fn listener(context: &Context, socket: &Socket) -> Option<Process> {
    use std::os::unix::fs::MetadataExt;
    let own = geteuid().as_raw();
    let ours = socket.path.symlink_metadata().is_ok_and(|found| found.uid() == own);
    if !ours {
        return None;
    }
    let pid = process::holder(&socket.path)?;
    if process::is_of_init(pid) || process::is_of_another_tree(pid, &context.root.state()) {
        return None;
    }
    let process = Process::of(pid).ok().flatten()?;
    // Looked at again now that it is held.
    (process::holder(&socket.path) == Some(pid)).then_some(process)
}

/// The listening socket of a process that was started by a supervisor before us, if the system lets us have it too.
/// Without it the service is restarted as one that makes its socket itself.
fn keep(process: &Process, socket: &Socket) -> Option<Kept> {
    let theirs: OwnedFd = process.held.descriptor(PASSED).ok()?;
    let listens = getsockopt(&theirs, sockopt::AcceptConn).ok()?;
    let listener = UnixListener::from(theirs);
    let here = listener.local_addr().ok()?.as_pathname() == Some(&socket.path);
    if !(listens && here) {
        return None;
    }
    Kept::of(listener, &socket.path).ok()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The descriptors that a supervisor needs are few; it never waits for one.
pub fn listen(kept: &Kept) -> io::Result<tokio::net::UnixListener> {
    let listener = kept.listener().try_clone()?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}
