//! What one user may take of what all share.

use nexus_proto::orchestrator::v1::ContainerConfig;

use super::*;
use crate::domain::container;
use crate::domain::shares::Shares;

fn world(shares: Shares) -> World {
    World::new(Rules {
        shares,
        ..Rules::default()
    })
}

fn make(world: &mut World, by: &Caller) -> Result<u64, Error> {
    world.step(|state, step| state.create_session(step, by, SessionMetadata::default(), None))
}

fn names(refused: Result<u64, Error>, setting: &str) {
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Error::Limit { .. }), "{refused}");
    assert!(refused.to_string().contains(setting), "{refused}");
}

#[test]
fn sessions_of_one_user_leave_room_for_others() {
    let mut world = world(Shares {
        sessions: 2,
        ..Shares::default()
    });
    let (greedy, other) = (caller(Role::User, 7), caller(Role::User, 8));
    let first = make(&mut world, &greedy).unwrap();
    make(&mut world, &greedy).unwrap();
    names(make(&mut world, &greedy), "orchestrator.user_sessions");
    make(&mut world, &other).unwrap();
    for _ in 0..3 {
        make(&mut world, &admin()).unwrap();
    }
    world.must(|state, step| state.close_session(step, first, "").unwrap());
    make(&mut world, &greedy).unwrap();
    world.restart();
    names(make(&mut world, &greedy), "orchestrator.user_sessions");
}

#[test]
fn what_is_kept_counts_until_it_is_deleted_also_after_a_restart() {
    let mut world = world(Shares {
        stored_bytes: 10_000,
        ..Shares::default()
    });
    let by = caller(Role::User, 7);
    let session = make(&mut world, &by).unwrap();
    world.say(session, &"x".repeat(8_000)).unwrap();
    names(world.say(session, &"x".repeat(2_000)), "orchestrator.user_stored_bytes");
    names(make(&mut world, &by), "orchestrator.user_stored_bytes");
    let kept = world.state.usage.stored("uid:7");
    world.restart();
    assert_eq!(world.state.usage.stored("uid:7"), kept);
    names(world.say(session, &"x".repeat(2_000)), "orchestrator.user_stored_bytes");
    let others = make(&mut world, &caller(Role::User, 8)).unwrap();
    world.say(others, &"x".repeat(2_000)).unwrap();
    world.must(|state, step| state.delete_session(step, session).unwrap());
    assert_eq!(world.state.usage.stored("uid:7"), 0);
    make(&mut world, &by).unwrap();
}

#[test]
fn an_answer_counts_and_is_not_refused() {
    let mut world = world(Shares {
        stored_bytes: 3_000,
        ..Shares::default()
    });
    let agent = world.register("assistant");
    world.link(agent);
    let session = make(&mut world, &caller(Role::User, 7)).unwrap();
    world.say(session, "hello").unwrap();
    let (_, correlation) = world.offered();
    assert!(world.answer(agent, session, &correlation, &"y".repeat(5_000)));
    assert!(world.state.usage.stored("uid:7") > 5_000);
    names(world.say(session, "more"), "orchestrator.user_stored_bytes");
}

#[test]
fn what_is_changed_often_counts_once() {
    let mut world = world(Shares::default());
    let session = make(&mut world, &caller(Role::User, 7)).unwrap();
    let update = |world: &mut World, name: String| {
        let metadata = SessionMetadata {
            name,
            ..SessionMetadata::default()
        };
        world.step(|state, step| state.update_session(step, session, Some(metadata), None))
    };
    let before = world.state.usage.stored("uid:7");
    for _ in 0..100 {
        update(&mut world, "n".repeat(1_000)).unwrap();
    }
    let after = world.state.usage.stored("uid:7");
    assert!(after > before && after < before + 1_100, "{before} {after}");
    let refused = update(&mut world, "n".repeat(100_000)).unwrap_err();
    assert!(
        refused.to_string().contains("orchestrator.user_metadata_bytes"),
        "{refused}"
    );
    assert_eq!(world.state.usage.stored("uid:7"), after);
}

#[test]
fn events_of_one_user_are_counted_by_the_minute() {
    let mut world = world(Shares {
        events_per_minute: 3,
        ..Shares::default()
    });
    let session = make(&mut world, &caller(Role::User, 7)).unwrap();
    world.say(session, "one").unwrap();
    world.say(session, "two").unwrap();
    names(world.say(session, "three"), "orchestrator.user_events_per_minute");
    world.pass(60 * SECOND);
    world.say(session, "three").unwrap();
}

#[test]
fn registrations_and_tasks_have_their_share_too() {
    let mut world = world(Shares {
        agents: 1,
        open_tasks: 1,
        ..Shares::default()
    });
    let by = caller(Role::Agent, 7);
    let request = || RegisterRequest {
        name: "a".into(),
        ..RegisterRequest::default()
    };
    let agent = world.step(|state, step| state.register(step, &by, request())).unwrap();
    names(
        world.step(|state, step| state.register(step, &by, request())),
        "orchestrator.user_agents",
    );
    let task = || ExecuteTaskRequest {
        r#type: TaskType::CodeExecution.into(),
        config: Some(TaskConfig::default()),
        ..ExecuteTaskRequest::default()
    };
    let agent_id = world.state.agents.get(agent).unwrap().id.to_string();
    // The session is one that was offered: an administrator's name for it here, as the share is what is looked at.
    world.state.rules.assistants.insert("uid:7".into());
    let session = world.session();
    let session_id = world.state.sessions.get(session).unwrap().id.to_string();
    world.state.agents.turn_began(agent, session);
    let mut give = || {
        let request = ExecuteTaskRequest {
            agent_id: agent_id.clone(),
            session_id: session_id.clone(),
            ..task()
        };
        world.step(|state, step| state.execute_task(step, &by, request))
    };
    give().unwrap();
    names(give(), "orchestrator.user_open_tasks");
    world.restart();
    assert_eq!(world.state.tasks.iter().next().unwrap().giver.as_deref(), Some("uid:7"));
}

/// The attack: a user makes containers that end at once, until nobody can make any more; or says megabytes of one, until no
/// listing of containers fits into an answer.
#[test]
fn containers_of_one_user_leave_room_for_others() {
    let mut world = world(Shares {
        containers: 2,
        metadata_bytes: 1_000,
        ..Shares::default()
    });
    let policy = container::policy::tests::policy();
    let session = make(&mut world, &caller(Role::User, 7)).unwrap();
    let others = make(&mut world, &caller(Role::User, 8)).unwrap();
    let of_admin = make(&mut world, &admin()).unwrap();
    let mut begin = |session: u64, label: usize| {
        let config = ContainerConfig {
            labels: HashMap::from([("label".into(), "x".repeat(label))]),
            ..ContainerConfig::default()
        };
        world.step(|state, step| {
            let key = state.begin_container(step, session, config, &policy)?;
            state.containers.get_mut(key).unwrap().phase = container::Phase::Exited;
            Ok(key)
        })
    };
    names(begin(session, 1_000), "orchestrator.user_metadata_bytes");
    begin(session, 900).unwrap();
    begin(session, 900).unwrap();
    names(begin(session, 900), "orchestrator.user_containers");
    begin(others, 900).unwrap();
    for _ in 0..3 {
        begin(of_admin, 1_000).unwrap();
    }
}

#[test]
fn labels_come_with_the_events_that_say_them() {
    let mut world = world(Shares::default());
    let metadata = || SessionMetadata {
        labels: HashMap::from([("team".into(), "blue".into())]),
        ..SessionMetadata::default()
    };
    let session = world
        .step(|state, step| state.create_session(step, &admin(), metadata(), None))
        .unwrap();
    world.must(|state, step| state.update_session(step, session, Some(metadata()), None).unwrap());
    world.must(|state, step| {
        state
            .update_session(step, session, None, Some(Default::default()))
            .unwrap()
    });
    world.must(|state, step| state.close_session(step, session, "").unwrap());
    let told: Vec<(&str, usize)> = world
        .events
        .iter()
        .map(|event| (&*event.name, event.metadata.as_ref().unwrap().labels.len()))
        .collect();
    let wanted = [
        ("session.created", 1),
        ("session.updated", 1),
        ("session.updated", 0),
        ("session.closed", 0),
    ];
    assert_eq!(told, wanted);
}
