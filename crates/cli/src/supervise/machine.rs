//! What is to be done about each service: a pure state machine that starts nothing and reads no clock.
//!
//! ```text
//!             want                SERVING                     stop, restart, hangs
//!  stopped ───────────▶ starting ─────────▶ ready ─────────────────────────▶ stopping ──▶ stopped, or again
//!     ▲                    │  ended           │ ended
//!     │     pause over     ▼                  ▼
//!     └──────────────── backoff ◀──────── a crash ──▶ failed: a wrong config, or too many crashes
//! ```
//!
//! The first restart is immediate; then pauses are drawn from zero to a ceiling that doubles. A healthy minute starts
//! the count anew. What must not be restarted, or crashes too often, is left alone until somebody asks for it.
//! A service that others need is stopped after them. Nobody waits to be started: sockets exist before daemons do.

use std::{collections::VecDeque, time::Duration};

/// Since the machine was made, on a clock that never goes back.
pub type Time = Duration;

#[derive(Clone, Debug)]
pub struct Policy {
    /// How long a daemon may take until it serves.
    pub start_timeout: Duration,
    /// How long a stop may take before the process is killed.
    pub stop_timeout: Duration,
    /// Health checks in a row without an answer after which a daemon is taken to hang; 0 is never.
    pub probe_failures: u32,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// After this time without a crash the count is reset.
    pub healthy_after: Duration,
    /// So many crashes within the window, and it is left alone.
    pub crash_limit: usize,
    pub crash_window: Duration,
}

/// One that hangs is asked to stop all the same: it may still flush.
const HUNG_GRACE: Duration = Duration::from_secs(2);
/// A socket is kept for waiting clients through a pause of at most this; through a longer one they are refused.
const KEEP_WAITING: Duration = Duration::from_secs(2);
/// A wrong command line, damaged data, a wrong config: another start ends the same way.
const PERMANENT: [i32; 3] = [64, 65, 78];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Of a process that was not our child nobody tells.
    Unknown,
    NotStarted(String),
}

#[derive(Clone, Debug)]
pub enum Event {
    Start(usize),
    /// All of them at once, so that the order among them holds.
    Stop {
        units: Vec<usize>,
        budget: Option<Duration>,
    },
    Restart(Vec<usize>),
    Enable(usize),
    Disable(usize),
    /// A process from before is this service. It is wanted until somebody says otherwise.
    Adopted(usize),
    Ended {
        unit: usize,
        instance: u64,
        exit: Exit,
    },
    /// Its health says SERVING.
    Answered {
        unit: usize,
        instance: u64,
    },
    Silent {
        unit: usize,
        instance: u64,
        why: String,
    },
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Spawn {
        unit: usize,
        instance: u64,
    },
    Terminate(usize),
    Kill(usize),
    /// Its socket is not kept any longer.
    Release(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Stopped,
    Starting { until: Time },
    Ready,
    Stopping { kill_at: Option<Time>, hung: bool },
    Backoff { until: Time },
    Failed,
}

#[derive(Clone, Debug)]
pub struct Ending {
    pub exit: Exit,
    pub at: Time,
    /// It did not stop when asked, and was killed.
    pub forced: bool,
}

#[derive(Clone, Debug)]
pub struct Unit {
    needs: Vec<usize>,
    pub wanted: bool,
    pub enabled: bool,
    pub phase: Phase,
    /// When this phase began.
    pub since: Time,
    /// Counts its processes; what is heard of an older one is passed over.
    pub instance: u64,
    /// Restarts that nobody asked for.
    pub restarts: u32,
    pub misses: u32,
    pub ending: Option<Ending>,
    pub error: Option<(String, Time)>,
    /// Stop it and start it again.
    cycle: bool,
    budget: Duration,
    killed: bool,
    /// Crashes without a healthy minute between them.
    streak: u32,
    crashes: VecDeque<Time>,
}

impl Unit {
    fn new(needs: Vec<usize>, policy: &Policy) -> Unit {
        Unit {
            needs,
            wanted: false,
            enabled: true,
            phase: Phase::Stopped,
            since: Time::ZERO,
            instance: 0,
            restarts: 0,
            misses: 0,
            ending: None,
            error: None,
            cycle: false,
            budget: policy.stop_timeout,
            killed: false,
            streak: 0,
            crashes: VecDeque::new(),
        }
    }

    /// It has a process.
    pub fn is_alive(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting { .. } | Phase::Ready | Phase::Stopping { .. }
        )
    }

    fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Ready)
    }

    pub fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. }) || self.is_to_stop()
    }

    fn is_to_stop(&self) -> bool {
        self.is_up() && (!self.wanted || self.cycle)
    }

    fn enter(&mut self, phase: Phase, now: Time) {
        self.phase = phase;
        self.since = now;
    }

    fn forgive(&mut self) {
        self.streak = 0;
        self.crashes.clear();
    }

    fn timer(&self) -> Option<Time> {
        match self.phase {
            Phase::Starting { until } | Phase::Backoff { until } => Some(until),
            Phase::Stopping { kill_at, .. } => kill_at,
            Phase::Stopped | Phase::Ready | Phase::Failed => None,
        }
    }
}

/// Units stand in an order in which each needs only earlier ones.
#[derive(Clone, Debug)]
pub struct Machine {
    pub policy: Policy,
    pub units: Vec<Unit>,
}

impl Machine {
    pub fn new(policy: Policy, needs: Vec<Vec<usize>>) -> Machine {
        let units = needs.into_iter().map(|needs| Unit::new(needs, &policy)).collect();
        Machine { policy, units }
    }

    /// `draw` gives a pause between zero and the ceiling it is asked with.
    pub fn step(&mut self, event: Event, now: Time, draw: &mut dyn FnMut(Duration) -> Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Start(unit) => self.want(unit, now),
            Event::Stop { units, budget } => {
                let budget = budget.unwrap_or(self.policy.stop_timeout);
                for unit in units {
                    let unit = &mut self.units[unit];
                    unit.wanted = false;
                    unit.budget = budget;
                    if let Phase::Stopping { kill_at, .. } = &mut unit.phase {
                        *kill_at = kill_at.map(|at| at.min(now + budget));
                    }
                }
            }
            Event::Restart(units) => {
                for unit in units {
                    let up = self.units[unit].is_up();
                    self.want(unit, now);
                    self.units[unit].cycle = up && self.units[unit].wanted;
                }
            }
            Event::Enable(unit) => self.units[unit].enabled = true,
            Event::Disable(unit) => {
                self.units[unit].enabled = false;
                self.units[unit].wanted = false;
            }
            Event::Adopted(unit) => {
                let until = now + self.policy.start_timeout;
                let unit = &mut self.units[unit];
                unit.instance += 1;
                unit.wanted = true;
                unit.enter(Phase::Starting { until }, now);
            }
            Event::Ended { unit, instance, exit } => self.ended(unit, instance, exit, now, draw, &mut effects),
            Event::Answered { unit, instance } => self.answered(unit, instance, now),
            Event::Silent { unit, instance, why } => {
                let limit = self.policy.probe_failures;
                let it = &mut self.units[unit];
                if it.instance == instance && it.phase == Phase::Ready {
                    it.misses += 1;
                    it.error = Some((why, now));
                    if limit > 0 && it.misses >= limit {
                        self.give_up(unit, now, &mut effects);
                    }
                }
            }
            Event::Tick => {}
        }
        self.timers(now, &mut effects);
        self.settle(now, &mut effects);
        effects
    }

    /// When it is to be stepped next, if nothing happens before.
    pub fn next_timer(&self) -> Option<Time> {
        self.units.iter().filter_map(Unit::timer).min()
    }

    /// It and what it needs; what is disabled stays down.
    fn want(&mut self, unit: usize, now: Time) {
        for needed in self.units[unit].needs.clone() {
            if !self.units[needed].wanted || !self.units[needed].is_alive() {
                self.want(needed, now);
            }
        }
        let unit = &mut self.units[unit];
        if !unit.enabled {
            return;
        }
        unit.wanted = true;
        if !unit.is_alive() {
            unit.forgive();
            unit.enter(Phase::Stopped, now);
        }
    }

    fn answered(&mut self, unit: usize, instance: u64, now: Time) {
        let healthy_after = self.policy.healthy_after;
        let unit = &mut self.units[unit];
        if unit.instance != instance || !unit.is_up() {
            return;
        }
        unit.misses = 0;
        if unit.phase != Phase::Ready {
            unit.enter(Phase::Ready, now);
        } else if now >= unit.since + healthy_after {
            unit.forgive();
        }
    }

    fn ended(
        &mut self,
        index: usize,
        instance: u64,
        exit: Exit,
        now: Time,
        draw: &mut dyn FnMut(Duration) -> Duration,
        effects: &mut Vec<Effect>,
    ) {
        let policy = self.policy.clone();
        let unit = &mut self.units[index];
        if unit.instance != instance || !unit.is_alive() {
            return;
        }
        let asked = matches!(unit.phase, Phase::Stopping { hung: false, .. });
        let forced = std::mem::take(&mut unit.killed);
        unit.misses = 0;
        unit.cycle = false;
        unit.ending = Some(Ending {
            exit: exit.clone(),
            at: now,
            forced,
        });
        if asked || !unit.wanted {
            unit.forgive();
            unit.enter(Phase::Stopped, now);
            if !unit.wanted {
                effects.push(Effect::Release(index));
            }
            return;
        }
        if unit.phase == Phase::Ready && now >= unit.since + policy.healthy_after {
            unit.forgive();
        }
        unit.streak += 1;
        unit.crashes.push_back(now);
        while unit.crashes.front().is_some_and(|at| *at + policy.crash_window < now) {
            unit.crashes.pop_front();
        }
        let permanent = matches!(exit, Exit::Code(code) if PERMANENT.contains(&code));
        if permanent || unit.crashes.len() >= policy.crash_limit {
            unit.enter(Phase::Failed, now);
            effects.push(Effect::Release(index));
            return;
        }
        unit.restarts += 1;
        let pause = match unit.streak {
            0 | 1 => Duration::ZERO,
            again => draw(ceiling(&policy, again - 2)),
        };
        if pause.is_zero() {
            unit.enter(Phase::Stopped, now);
            return;
        }
        unit.enter(Phase::Backoff { until: now + pause }, now);
        if pause > KEEP_WAITING {
            effects.push(Effect::Release(index));
        }
    }

    /// It hangs: what it is worth is what a crash is worth.
    fn give_up(&mut self, index: usize, now: Time, effects: &mut Vec<Effect>) {
        let unit = &mut self.units[index];
        let kill_at = Some(now + HUNG_GRACE.min(unit.budget));
        unit.enter(Phase::Stopping { kill_at, hung: true }, now);
        effects.push(Effect::Terminate(index));
    }

    fn timers(&mut self, now: Time, effects: &mut Vec<Effect>) {
        for index in 0..self.units.len() {
            let start_timeout = self.policy.start_timeout;
            let unit = &mut self.units[index];
            if unit.timer().is_none_or(|at| at > now) {
                continue;
            }
            match &mut unit.phase {
                Phase::Starting { .. } => {
                    let limit = humantime::format_duration(start_timeout);
                    unit.error = Some((format!("did not become ready within {limit}"), now));
                    self.give_up(index, now, effects);
                }
                Phase::Stopping { kill_at, .. } => {
                    *kill_at = None;
                    unit.killed = true;
                    effects.push(Effect::Kill(index));
                }
                Phase::Backoff { .. } => unit.enter(Phase::Stopped, now),
                Phase::Stopped | Phase::Ready | Phase::Failed => {}
            }
        }
    }

    /// What is wanted and what is, brought together as far as it can be now.
    fn settle(&mut self, now: Time, effects: &mut Vec<Effect>) {
        for index in (0..self.units.len()).rev() {
            let waits = self
                .units
                .iter()
                .any(|other| other.needs.contains(&index) && other.is_leaving());
            let unit = &mut self.units[index];
            if unit.is_to_stop() && !waits {
                let kill_at = Some(now + unit.budget);
                unit.enter(Phase::Stopping { kill_at, hung: false }, now);
                effects.push(Effect::Terminate(index));
            }
            if !unit.wanted && matches!(unit.phase, Phase::Backoff { .. } | Phase::Failed) {
                unit.enter(Phase::Stopped, now);
                effects.push(Effect::Release(index));
            }
        }
        let start_timeout = self.policy.start_timeout;
        for (index, unit) in self.units.iter_mut().enumerate() {
            if unit.wanted && unit.phase == Phase::Stopped {
                unit.instance += 1;
                unit.misses = 0;
                unit.cycle = false;
                unit.enter(
                    Phase::Starting {
                        until: now + start_timeout,
                    },
                    now,
                );
                effects.push(Effect::Spawn {
                    unit: index,
                    instance: unit.instance,
                });
            }
        }
    }
}

/// The ceiling of the pause after this many pauses.
fn ceiling(policy: &Policy, pauses: u32) -> Duration {
    let doubled = policy.backoff_min.saturating_mul(1 << pauses.min(16));
    doubled.min(policy.backoff_max)
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
