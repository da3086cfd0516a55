//! Takes what is heard to the machine, one thing after the other, has the effects carried out, and tells the result.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    control::{Control, Held},
    executor::Executor,
    handover::{self, Handed},
    machine::{Effect, Event, Exit, Machine, Phase, Unit},
    memory::{Disabled, Memory, Remembered},
    prober::ProbeResult,
    view,
};
use crate::{
    failure::{self, Failure},
    supervise::{
        channel::{Action, Request},
        model::{Snapshot, boot_id},
        table::{self, TABLE},
    },
};

/// The inputs of the dispatcher.
pub enum Input {
    Ended {
        unit: usize,
        instance: u64,
        exit: Exit,
    },
    ProbeResult {
        unit: usize,
        instance: u64,
        look: Box<ProbeResult>,
    },
    Command {
        request: Request,
        reply: oneshot::Sender<Result<Arc<Snapshot>, Failure>>,
    },
    /// A signal asks us to end, and everything with us.
    Stop,
}

/// Between two looks whether the tree and our own socket are still there.
const TREE_LOOK: Duration = Duration::from_secs(1);

/// Why a supervisor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    Stopped,
    /// Another supervisor has taken over.
    Replaced,
}

pub struct Dispatcher {
    pub machine: Machine,
    pub executor: Executor,
    pub begin: Instant,
    begun: SystemTime,
    /// By unit, what its present process said last.
    looks: Vec<Option<(ProbeResult, SystemTime)>>,
    stopping: bool,
    written: Memory,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Dispatcher {
    pub fn new(machine: Machine, executor: Executor) -> Dispatcher {
        let empty = Arc::new(Snapshot::new(Vec::new(), None));
        let looks = TABLE.iter().map(|_| None).collect();
        Dispatcher {
            machine,
            executor,
            begin: Instant::now(),
            begun: SystemTime::now(),
            looks,
            stopping: false,
            written: Memory::default(),
            snapshots: watch::Sender::new(empty),
        }
    }

    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// Takes over what a supervisor before this one, or nobody, left behind.
    pub fn adopt(&mut self, memory: &Memory, disabled: &Disabled, handed: &mut Handed) {
        for (unit, entry) in TABLE.iter().enumerate() {
            if disabled.disabled.iter().any(|name| name == entry.name) {
                self.step(Event::Disable(unit));
            }
        }
        for (unit, entry) in TABLE.iter().enumerate() {
            let remembered = memory.services.get(entry.name).cloned().unwrap_or_default();
            self.machine.units[unit].restarts = remembered.restarts;
            if self.executor.adopt(unit, &remembered, handed) {
                self.step(Event::Adopted(unit));
                let printed = handed.pipe(entry.name);
                self.executor
                    .watch_adopted(unit, self.machine.units[unit].instance, printed);
                // Without a memory of it, what runs is taken to be wanted.
                if remembered.pid.is_some() && !remembered.wanted {
                    self.step(Event::Stop {
                        units: vec![unit],
                        budget: None,
                    });
                }
            }
        }
        for (unit, entry) in TABLE.iter().enumerate() {
            if memory.services.get(entry.name).is_some_and(|before| before.wanted) {
                self.step(Event::Start(unit));
            }
        }
        self.publish();
    }

    /// Until everything is stopped and told so.
    pub async fn run(&mut self, inbox: &mut mpsc::Receiver<Input>, control: &mut Control) -> StopReason {
        let mut tree = tokio::time::interval(TREE_LOOK);
        tree.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(self.stopping && self.machine.units.iter().all(|unit| !unit.is_alive())) {
            let timer = self.machine.next_timer().map(|at| self.begin + at);
            tokio::select! {
                heard = inbox.recv() => match heard {
                    Some(heard) => self.hear(heard, control),
                    None => return StopReason::Stopped,
                },
                () = sleep_until(timer) => self.step(Event::Tick),
                _ = tree.tick() => {
                    if !self.executor.context.root.run_dir().is_dir() {
                        self.stop_all(None);
                        self.publish();
                    } else if control.keep() == Held::Taken {
                        return StopReason::Replaced;
                    }
                    // Nothing that anybody follows has changed.
                    continue;
                }
            }
            self.publish();
        }
        StopReason::Stopped
    }

    fn hear(&mut self, heard: Input, control: &Control) {
        match heard {
            Input::Ended { unit, instance, exit } => {
                if self.machine.units[unit].instance == instance {
                    self.executor.exited(unit);
                    self.looks[unit] = None;
                }
                self.step(Event::Ended { unit, instance, exit });
            }
            Input::ProbeResult { unit, instance, look } => self.look(unit, instance, *look),
            Input::Command { request, reply } => {
                let done = match &request.action {
                    Action::HandOver { program } => self.hand_over(program, control),
                    _ => self.command(&request),
                };
                self.publish();
                let answer = done.map(|()| self.snapshots.borrow().clone());
                // Who hung up does not want an answer.
                let _gone = reply.send(answer);
            }
            Input::Stop => self.stop_all(None),
        }
    }

    fn look(&mut self, unit: usize, instance: u64, look: ProbeResult) {
        if self.machine.units[unit].instance != instance || !self.machine.units[unit].is_alive() {
            return;
        }
        let event = match &look.said {
            Ok(said) if said.serving => Event::Answered { unit, instance },
            Ok(_) => Event::Silent {
                unit,
                instance,
                why: "does not serve".to_owned(),
            },
            Err(why) => Event::Silent {
                unit,
                instance,
                why: why.clone(),
            },
        };
        self.looks[unit] = Some((look, SystemTime::now()));
        self.step(event);
    }

    fn command(&mut self, request: &Request) -> Result<(), Failure> {
        let units = chosen(&request.services)?;
        let named = !request.services.is_empty();
        if self.stopping && !matches!(request.action, Action::Status | Action::Shutdown { .. }) {
            return Err(
                Failure::new(failure::Exit::Failed, "everything is being stopped").hint("try again in a moment")
            );
        }
        let budget = |ms: &Option<u64>| ms.map(Duration::from_millis);
        match &request.action {
            Action::Status | Action::HandOver { .. } => {}
            Action::Start | Action::Restart => {
                let down = units.iter().find(|unit| !self.machine.units[**unit].enabled);
                if let Some(unit) = down.filter(|_| named) {
                    let name = TABLE[*unit].name;
                    return Err(Failure::new(failure::Exit::Failed, format!("{name} is disabled"))
                        .hint(format!("enable it first: nexus services enable {name}")));
                }
                match request.action {
                    Action::Start => units.into_iter().for_each(|unit| self.step(Event::Start(unit))),
                    _ => self.step(Event::Restart(units)),
                }
            }
            Action::Stop { budget_ms } => self.step(Event::Stop {
                units,
                budget: budget(budget_ms),
            }),
            Action::Enable | Action::Disable => {
                for unit in units {
                    self.step(match request.action {
                        Action::Enable => Event::Enable(unit),
                        _ => Event::Disable(unit),
                    });
                }
                self.write_disabled()?;
            }
            Action::Shutdown { budget_ms } => self.stop_all(budget(budget_ms)),
        }
        Ok(())
    }

    /// Only comes back if it could not be done; then everything is as it was.
    fn hand_over(&mut self, program: &Path, control: &Control) -> Result<(), Failure> {
        if self.stopping {
            return Err(Failure::new(failure::Exit::Failed, "everything is being stopped"));
        }
        let Some(control) = control.kept() else {
            return Err(Failure::new(
                failure::Exit::Failed,
                "the supervisor's own socket cannot be bound",
            ));
        };
        self.remember();
        Err(handover::hand_over(program, &self.executor, control))
    }

    fn stop_all(&mut self, budget: Option<Duration>) {
        self.stopping = true;
        let units = (0..TABLE.len()).collect();
        self.step(Event::Stop { units, budget });
    }

    fn write_disabled(&self) -> Result<(), Failure> {
        let units = self.machine.units.iter().zip(TABLE);
        let disabled = units.filter(|(unit, _)| !unit.enabled);
        let disabled = Disabled {
            disabled: disabled.map(|(_, entry)| entry.name.to_owned()).collect(),
        };
        let root = &self.executor.context.root;
        disabled
            .write(root)
            .map_err(|error| Failure::file("write", &super::memory::disabled_file(root), &error))
    }

    /// One event, and whatever follows from its effects at once.
    fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let effects = self.machine.step(event, self.begin.elapsed(), &mut jitter);
            for effect in effects {
                if let Effect::Spawn { unit, .. } = &effect {
                    self.looks[*unit] = None;
                }
                let keep = match &effect {
                    Effect::Terminate(unit) => self.machine.units[*unit].wanted,
                    _ => true,
                };
                if let Some(failed) = self.executor.carry_out(effect, keep) {
                    events.push(failed);
                }
            }
        }
        self.remember();
    }

    fn remember(&mut self) {
        let remembered = |(index, unit): (usize, &Unit)| {
            let process = self.executor.process(index);
            let now = Remembered {
                wanted: unit.wanted && !self.stopping,
                pid: process.map(|process| process.pid),
                start_time: process.and_then(|process| process.start_time),
                restarts: unit.restarts,
            };
            (TABLE[index].name.to_owned(), now)
        };
        let memory = Memory {
            boot_id: boot_id(),
            services: self.machine.units.iter().enumerate().map(remembered).collect(),
        };
        if memory == self.written {
            return;
        }
        // A disk that is full: then the sockets tell a successor.
        let _lost = memory.write(&self.executor.context.root);
        self.written = memory;
    }

    fn publish(&mut self) {
        let view = view::View {
            now: self.begin.elapsed(),
            wall: SystemTime::now(),
            begun: self.begun,
            stopping: self.stopping,
            executor: &self.executor,
            machine: &self.machine,
            looks: &self.looks,
        };
        self.snapshots.send_replace(Arc::new(view.snapshot()));
    }
}

impl Unit {
    pub fn hangs(&self) -> bool {
        matches!(self.phase, Phase::Stopping { hung: true, .. })
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Full jitter: evenly between zero and the ceiling, so that what crashed together does not start together.
fn jitter(ceiling: Duration) -> Duration {
    let part = getrandom::u32().map_or(1.0, |drawn| f64::from(drawn) / f64::from(u32::MAX));
    ceiling.mul_f64(part)
}

fn chosen(names: &[String]) -> Result<Vec<usize>, Failure> {
    if names.is_empty() {
        return Ok((0..TABLE.len()).collect());
    }
    let position = |name: &String| {
        let unknown = || table::unknown(name);
        TABLE.iter().position(|entry| entry.name == name).ok_or_else(unknown)
    };
    let mut units: Vec<usize> = names.iter().map(position).collect::<Result<_, _>>()?;
    units.sort_unstable();
    units.dedup();
    Ok(units)
}
