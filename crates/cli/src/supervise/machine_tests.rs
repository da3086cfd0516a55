//! The machine against a world that plays processes: what must hold whatever happens, and what a user would notice.

use proptest::prelude::*;

use super::*;

fn policy() -> Policy {
    Policy {
        start_timeout: Duration::from_secs(60),
        stop_timeout: Duration::from_secs(15),
        probe_failures: 3,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        healthy_after: Duration::from_secs(60),
        crash_limit: 5,
        crash_window: Duration::from_secs(120),
    }
}

/// The processes there are, by what the machine had done.
struct World {
    machine: Machine,
    now: Time,
    alive: Vec<Option<u64>>,
    log: Vec<Effect>,
    jitter: f64,
}

impl World {
    /// 1 and 3 need 0, 2 needs 0 and 1.
    fn new() -> World {
        World {
            machine: Machine::new(policy(), vec![vec![], vec![0], vec![0, 1], vec![0]]),
            now: Time::ZERO,
            alive: vec![None; 4],
            log: Vec::new(),
            jitter: 0.5,
        }
    }

    fn step(&mut self, event: Event) {
        let jitter = self.jitter;
        let mut draw = |ceiling: Duration| {
            assert!(ceiling <= Duration::from_secs(60), "{ceiling:?}");
            ceiling.mul_f64(jitter)
        };
        for effect in self.machine.step(event, self.now, &mut draw) {
            match &effect {
                Effect::Spawn { unit, instance } => {
                    assert_eq!(self.alive[*unit], None, "two of one");
                    self.alive[*unit] = Some(*instance);
                }
                Effect::Terminate(unit) => {
                    assert!(self.alive[*unit].is_some(), "a signal to nobody");
                    for (other, it) in self.machine.units.iter().enumerate() {
                        let first = it.needs.contains(unit) && self.alive[other].is_some() && !it.wanted;
                        let hung = matches!(self.machine.units[*unit].phase, Phase::Stopping { hung: true, .. });
                        assert!(!first || hung, "{unit} is stopped before {other}, which needs it");
                    }
                }
                Effect::Kill(unit) => assert!(self.alive[*unit].is_some(), "a signal to nobody"),
                Effect::Release(_) => {}
            }
            self.log.push(effect);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.machine.next_timer().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step(Event::Tick);
        }
        self.now = end;
    }

    fn end(&mut self, unit: usize, exit: Exit) {
        if let Some(instance) = self.alive[unit].take() {
            self.step(Event::Ended { unit, instance, exit });
        }
    }

    fn answer(&mut self, unit: usize) {
        if let Some(instance) = self.alive[unit] {
            self.step(Event::Answered { unit, instance });
        }
    }

    fn up(&mut self, unit: usize) {
        self.step(Event::Start(unit));
        for unit in 0..4 {
            self.answer(unit);
        }
    }

    fn unit(&self, unit: usize) -> &Unit {
        &self.machine.units[unit]
    }
}

#[test]
fn a_start_brings_what_is_needed_along_and_a_stop_goes_the_other_way() {
    let mut world = World::new();
    world.up(2);
    assert!(world.alive[0].is_some() && world.alive[1].is_some() && world.alive[2].is_some());
    assert!(world.alive[3].is_none(), "nobody asked for it");
    world.log.clear();
    world.step(Event::Stop {
        units: vec![0, 1, 2, 3],
        budget: None,
    });
    assert_eq!(world.log, [Effect::Terminate(2)]);
    world.end(2, Exit::Code(0));
    world.end(1, Exit::Code(0));
    world.end(0, Exit::Code(0));
    let stopped: Vec<&Effect> = world.log.iter().filter(|e| matches!(e, Effect::Terminate(_))).collect();
    assert_eq!(
        stopped,
        [&Effect::Terminate(2), &Effect::Terminate(1), &Effect::Terminate(0)]
    );
    assert!(world.machine.units.iter().all(|unit| unit.phase == Phase::Stopped));
}

#[test]
fn the_first_restart_is_at_once_and_the_next_ones_wait_longer_and_longer() {
    let mut world = World::new();
    world.jitter = 1.0;
    world.up(0);
    world.end(0, Exit::Signal(9));
    assert!(world.alive[0].is_some(), "it is back at once");
    let mut pauses = Vec::new();
    for _ in 0..3 {
        world.end(0, Exit::Signal(9));
        let Phase::Backoff { until } = world.unit(0).phase else {
            panic!("{:?}", world.unit(0).phase)
        };
        pauses.push((until - world.now).as_secs());
        world.pass(until - world.now);
        assert!(world.alive[0].is_some());
    }
    assert_eq!(pauses, [1, 2, 4]);
    world.end(0, Exit::Signal(9));
    assert_eq!(world.unit(0).phase, Phase::Failed, "the fifth in two minutes");
    world.pass(Duration::from_secs(3_600));
    assert!(world.alive[0].is_none());
    world.step(Event::Start(0));
    assert!(world.alive[0].is_some(), "somebody asked for it");
}

#[test]
fn a_healthy_minute_forgives() {
    let mut world = World::new();
    world.up(0);
    for _ in 0..20 {
        world.end(0, Exit::Signal(11));
        assert!(world.alive[0].is_some(), "at once, each time");
        world.answer(0);
        world.pass(Duration::from_secs(61));
        world.answer(0);
    }
    assert_eq!(world.unit(0).restarts, 20);
}

#[test]
fn a_wrong_config_is_not_tried_again() {
    let mut world = World::new();
    world.step(Event::Start(0));
    world.end(0, Exit::Code(78));
    assert_eq!(world.unit(0).phase, Phase::Failed);
    assert!(world.log.contains(&Effect::Release(0)), "nobody waits at its socket");
}

#[test]
fn one_that_hangs_is_restarted_after_three_checks_and_killed_if_it_must_be() {
    let mut world = World::new();
    world.up(0);
    let instance = world.alive[0].unwrap();
    for _ in 0..3 {
        let why = "no answer".to_owned();
        world.step(Event::Silent { unit: 0, instance, why });
    }
    assert!(world.log.ends_with(&[Effect::Terminate(0)]));
    world.pass(Duration::from_secs(3));
    assert!(world.log.ends_with(&[Effect::Kill(0)]));
    world.end(0, Exit::Signal(9));
    assert!(world.alive[0].is_some());
    assert!(world.unit(0).ending.as_ref().unwrap().forced);
}

#[test]
fn a_restart_in_a_restart_is_one_restart() {
    let mut world = World::new();
    world.up(0);
    world.step(Event::Restart(vec![0]));
    world.step(Event::Restart(vec![0]));
    world.end(0, Exit::Code(0));
    assert_eq!(world.unit(0).instance, 2);
    world.answer(0);
    world.pass(Duration::from_secs(600));
    assert_eq!(world.unit(0).instance, 2);
    assert_eq!(world.unit(0).restarts, 0, "it was asked for");
}

#[test]
fn a_stop_in_a_restart_is_a_stop() {
    let mut world = World::new();
    world.up(0);
    world.step(Event::Restart(vec![0]));
    world.step(Event::Stop {
        units: vec![0],
        budget: None,
    });
    world.end(0, Exit::Code(0));
    assert_eq!(world.unit(0).phase, Phase::Stopped);
    assert!(world.alive[0].is_none());
}

#[test]
fn what_is_disabled_stays_down_until_it_is_enabled() {
    let mut world = World::new();
    world.step(Event::Disable(3));
    world.step(Event::Start(3));
    assert!(world.alive[3].is_none());
    world.step(Event::Enable(3));
    world.step(Event::Start(3));
    assert!(world.alive[3].is_some());
}

#[derive(Clone, Debug)]
enum Act {
    Command(u8, usize),
    End(usize, i32),
    Answer(usize),
    Silent(usize),
    Stale(usize),
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let unit = 0..4_usize;
    prop_oneof![
        (0..5_u8, unit.clone()).prop_map(|(kind, unit)| Act::Command(kind, unit)),
        (unit.clone(), prop_oneof![Just(0), Just(1), Just(78), Just(-9)]).prop_map(|(unit, code)| Act::End(unit, code)),
        unit.clone().prop_map(Act::Answer),
        unit.clone().prop_map(Act::Silent),
        unit.prop_map(Act::Stale),
        (0..100_000_u64).prop_map(Act::Pass),
    ]
}

proptest! {
    /// Whatever happens: never two of one, no signal to nobody (both asserted by the world), and what is wanted comes
    /// about once the crashing ends.
    #[test]
    fn whatever_happens_it_ends_as_wanted(acts in prop::collection::vec(act(), 0..120), jitter in 0.0..=1.0_f64) {
        let mut world = World::new();
        world.jitter = jitter;
        for act in acts {
            match act {
                Act::Command(0, unit) => world.step(Event::Start(unit)),
                Act::Command(1, unit) => world.step(Event::Stop { units: vec![unit], budget: None }),
                Act::Command(2, unit) => world.step(Event::Restart(vec![unit])),
                Act::Command(3, unit) => world.step(Event::Disable(unit)),
                Act::Command(_, unit) => world.step(Event::Enable(unit)),
                Act::End(unit, code) if code < 0 => world.end(unit, Exit::Signal(-code)),
                Act::End(unit, code) => world.end(unit, Exit::Code(code)),
                Act::Answer(unit) => world.answer(unit),
                Act::Silent(unit) => {
                    let instance = world.unit(unit).instance;
                    world.step(Event::Silent { unit, instance, why: String::new() });
                }
                Act::Stale(unit) => {
                    let instance = world.unit(unit).instance.wrapping_sub(1);
                    world.step(Event::Ended { unit, instance, exit: Exit::Code(1) });
                }
                Act::Pass(ms) => world.pass(Duration::from_millis(ms)),
            }
            for unit in 0..4 {
                prop_assert_eq!(world.alive[unit].is_some(), world.unit(unit).is_alive());
            }
        }
        // From here every process obeys and answers.
        for unit in 0..4 {
            world.step(Event::Enable(unit));
            world.step(Event::Start(unit));
        }
        for _ in 0..200 {
            world.pass(Duration::from_secs(1));
            for unit in 0..4 {
                match world.unit(unit).phase {
                    Phase::Stopping { .. } => world.end(unit, Exit::Code(0)),
                    Phase::Starting { .. } => world.answer(unit),
                    _ => {}
                }
            }
        }
        for unit in 0..4 {
            prop_assert_eq!(&world.unit(unit).phase, &Phase::Ready);
        }
        world.step(Event::Stop { units: vec![0, 1, 2, 3], budget: None });
        for _ in 0..4 {
            for unit in 0..4 {
                if matches!(world.unit(unit).phase, Phase::Stopping { .. }) {
                    world.end(unit, Exit::Code(0));
                }
            }
        }
        for unit in 0..4 {
            prop_assert_eq!(&world.unit(unit).phase, &Phase::Stopped);
        }
    }
}
