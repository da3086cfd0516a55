use nexus_proto::agent::v1::stream_task_request::Payload as Said;
use nexus_proto::agent::v1::{TaskComplete, TaskError, TaskOutput, TaskProgress, TaskStatusUpdate};

use super::*;

fn said(world: &mut World, task: u64, works: &mut Option<i64>, said: Said) -> Result<(), Error> {
    world.step(|state, step| state.worker_said(step, task, works, said))
}

fn status(state: TaskState) -> Said {
    Said::Status(TaskStatusUpdate {
        state: state.into(),
        ..TaskStatusUpdate::default()
    })
}

fn state(world: &World, task: u64) -> TaskState {
    world
        .state
        .tasks
        .get(task)
        .map_or(world.task_states[&task], |task| task.state())
}

fn retrying() -> TaskConfig {
    TaskConfig {
        retry_on_failure: true,
        max_retries: 1,
        ..TaskConfig::default()
    }
}

#[test]
fn a_task_is_offered_with_every_heartbeat_until_it_is_taken() {
    let mut world = World::new(Rules::default());
    let agent = world.register("worker");
    let task = world.task(Some(agent), TaskConfig::default()).unwrap();
    let id = world.state.tasks.get(task).unwrap().id.to_string();
    assert_eq!(world.heartbeat(agent), std::slice::from_ref(&id));
    assert_eq!(world.heartbeat(agent), std::slice::from_ref(&id));
    assert_eq!(state(&world, task), TaskState::Pending);
    world.step(|s, step| Ok(s.heartbeat(step, agent, None, &[id]))).unwrap();
    assert_eq!(state(&world, task), TaskState::Running);
    assert!(world.heartbeat(agent).is_empty());
    world.check();
}

#[test]
fn the_orchestrator_finds_a_worker_by_capability_whatever_its_hyphen() {
    let mut world = World::new(Rules::default());
    let task = world.task(None, TaskConfig::default()).unwrap();
    assert_eq!(world.state.tasks.get(task).unwrap().agent, None, "nobody is there yet");
    let worker = world.register("worker");
    assert_eq!(world.heartbeat(worker).len(), 1);
    let idle = world.register("other");
    let next = world.task(None, TaskConfig::default()).unwrap();
    assert_eq!(
        world.state.tasks.get(next).unwrap().agent,
        Some(idle),
        "the least busy one"
    );
}

#[test]
fn a_worker_says_how_it_goes() {
    let mut world = World::new(Rules::default());
    let agent = world.register("worker");
    let task = world.task(Some(agent), TaskConfig::default()).unwrap();
    let mut works = None;
    said(&mut world, task, &mut works, status(TaskState::Running)).unwrap();
    let progress = TaskProgress {
        percent: 7.0,
        ..TaskProgress::default()
    };
    said(&mut world, task, &mut works, Said::Progress(progress)).unwrap();
    assert_eq!(world.state.tasks.get(task).unwrap().wire.progress, 1.0, "0 to 1");
    said(&mut world, task, &mut works, Said::Output(TaskOutput::default())).unwrap();
    said(&mut world, task, &mut works, status(TaskState::Paused)).unwrap();
    assert!(
        said(&mut world, task, &mut works, status(TaskState::Queued)).is_err(),
        "not in the diagram"
    );
    assert!(
        said(&mut world, task, &mut works, status(TaskState::Pending)).is_err(),
        "only we put it back"
    );
    said(&mut world, task, &mut works, Said::Complete(TaskComplete::default())).unwrap();
    assert_eq!(state(&world, task), TaskState::Completed);
    said(&mut world, task, &mut works, status(TaskState::Running)).unwrap();
    assert_eq!(state(&world, task), TaskState::Completed, "nothing leads out of it");
    assert!(world.told().contains(&"task.completed".to_owned()));
}

#[test]
fn a_failure_is_tried_again_as_often_as_the_caller_said() {
    let mut world = World::new(Rules::default());
    let agent = world.register("worker");
    let task = world.task(Some(agent), retrying()).unwrap();
    let mut works = None;
    said(&mut world, task, &mut works, Said::ErrorMsg(TaskError::default())).unwrap();
    assert_eq!(state(&world, task), TaskState::Pending);
    said(&mut world, task, &mut works, status(TaskState::Running)).unwrap();
    said(&mut world, task, &mut works, Said::ErrorMsg(TaskError::default())).unwrap();
    assert_eq!(state(&world, task), TaskState::Failed);
}

#[test]
fn the_lease_ends_with_the_heartbeat_and_the_old_worker_is_not_believed() {
    let mut world = World::new(Rules::default());
    let (lost, other) = (world.register("a"), world.register("b"));
    let free = world.task(None, retrying()).unwrap();
    let bound = world.task(Some(lost), TaskConfig::default()).unwrap();
    let once = world.task(Some(lost), TaskConfig::default()).unwrap();
    assert_eq!(world.state.tasks.get(free).unwrap().agent, Some(lost));
    let (mut works, mut ran) = (None, None);
    said(&mut world, free, &mut works, status(TaskState::Running)).unwrap();
    said(&mut world, once, &mut ran, status(TaskState::Running)).unwrap();
    world.pass(60 * SECOND);
    world.heartbeat(other);
    world.pass(30 * SECOND);
    assert_eq!(
        world.state.tasks.get(free).unwrap().agent,
        Some(other),
        "offered to another"
    );
    assert_eq!(
        state(&world, bound),
        TaskState::Pending,
        "waits for the one it was meant for"
    );
    assert_eq!(state(&world, once), TaskState::Failed, "nothing runs twice unasked");
    let mut late = works;
    let word = said(&mut world, free, &mut late, Said::Complete(TaskComplete::default()));
    assert!(matches!(word, Err(Error::LeaseOver(_))), "{word:?}");
    world.must(|s, step| s.unregister(step, lost, ""));
    assert_eq!(state(&world, bound), TaskState::Failed, "gone for good");
    world.check();
}

#[test]
fn a_worker_that_speaks_on_its_task_is_alive() {
    let mut world = World::new(Rules::default());
    let agent = world.register("a");
    let task = world.task(Some(agent), TaskConfig::default()).unwrap();
    let mut works = None;
    for _ in 0..5 {
        world.pass(60 * SECOND);
        said(&mut world, task, &mut works, Said::Output(TaskOutput::default())).unwrap();
    }
    assert_eq!(state(&world, task), TaskState::Running);
}

#[test]
fn timeout_counts_from_the_start_and_expiry_from_the_making() {
    let mut world = World::new(Rules {
        task_expiry: 100 * SECOND,
        agent_ttl: i64::MAX / 2,
        ..Rules::default()
    });
    let agent = world.register("a");
    let config = || TaskConfig {
        timeout_ns: 10 * SECOND,
        ..TaskConfig::default()
    };
    let (runs, waits) = (
        world.task(Some(agent), config()).unwrap(),
        world.task(Some(agent), config()).unwrap(),
    );
    world.pass(50 * SECOND);
    said(&mut world, runs, &mut None, status(TaskState::Running)).unwrap();
    world.restart();
    world.check();
    world.pass(9 * SECOND);
    assert_eq!(state(&world, runs), TaskState::Running);
    world.pass(SECOND);
    assert_eq!(state(&world, runs), TaskState::Timeout);
    assert!(
        world
            .notes
            .iter()
            .any(|(task, note)| *task == runs && matches!(note, Note::Cancel { .. }))
    );
    world.pass(39 * SECOND);
    assert_eq!(state(&world, waits), TaskState::Pending);
    world.pass(SECOND);
    assert_eq!(state(&world, waits), TaskState::Timeout);
}

#[test]
fn a_retried_task_keeps_its_expiry() {
    let mut world = World::new(Rules {
        task_expiry: 100 * SECOND,
        agent_ttl: i64::MAX / 2,
        ..Rules::default()
    });
    let agent = world.register("a");
    let task = world
        .task(
            Some(agent),
            TaskConfig {
                timeout_ns: 10 * SECOND,
                ..retrying()
            },
        )
        .unwrap();
    said(&mut world, task, &mut None, Said::ErrorMsg(TaskError::default())).unwrap();
    world.pass(99 * SECOND);
    world.check();
    assert_eq!(state(&world, task), TaskState::Pending);
    world.pass(SECOND);
    assert_eq!(state(&world, task), TaskState::Timeout);
}

#[test]
fn cancel_ends_what_is_not_over_and_nothing_else() {
    let mut world = World::new(Rules::default());
    let agent = world.register("a");
    let task = world.task(Some(agent), TaskConfig::default()).unwrap();
    let cancel = |world: &mut World| {
        world
            .step(|s, step| Ok(s.cancel_task(step, task, "enough", true)))
            .unwrap()
    };
    assert!(cancel(&mut world));
    assert_eq!(state(&world, task), TaskState::Cancelled);
    assert!(!cancel(&mut world));
    let kinds: Vec<bool> = world
        .notes
        .iter()
        .map(|(_, note)| matches!(note, Note::Cancel { .. }))
        .collect();
    assert!(kinds.first() == Some(&true), "the worker hears of it first");
}
