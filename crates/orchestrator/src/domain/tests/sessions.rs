use nexus_proto::orchestrator::v1::{SessionConfig, SessionContext};

use super::*;

fn with(config: SessionConfig) -> (World, u64) {
    let mut world = World::new(Rules::default());
    let made = world.step(|state, step| state.create_session(step, &admin(), SessionMetadata::default(), Some(config)));
    (world, made.unwrap())
}

fn state(world: &World, session: u64) -> SessionState {
    world.state.sessions.get(session).unwrap().state
}

#[test]
fn silence_makes_a_session_idle_on_time_and_a_message_wakes_it() {
    let (mut world, session) = with(SessionConfig {
        idle_timeout_ns: 5 * SECOND,
        ..SessionConfig::default()
    });
    world.pass(4 * SECOND);
    world.say(session, "hi").unwrap();
    world.pass(5 * SECOND - 1);
    assert_eq!(state(&world, session), SessionState::Active);
    world.pass(1);
    assert_eq!(state(&world, session), SessionState::Idle);
    world.say(session, "hi").unwrap();
    assert_eq!(state(&world, session), SessionState::Active);
    world.check();
    assert!(world.told().contains(&"session.updated".to_owned()));
}

#[test]
fn a_session_closes_when_its_time_is_over_also_when_idle_and_after_a_restart() {
    let config = SessionConfig {
        idle_timeout_ns: SECOND,
        max_duration_ns: 60 * SECOND,
        ..SessionConfig::default()
    };
    let (mut world, session) = with(config);
    world.pass(59 * SECOND);
    assert_eq!(state(&world, session), SessionState::Idle);
    world.restart();
    world.check();
    world.told();
    world.pass(SECOND);
    assert_eq!(state(&world, session), SessionState::Closed);
    assert!(world.state.sessions.get(session).unwrap().closed.is_some());
    assert_eq!(world.told(), ["session.closed"]);
}

#[test]
fn negative_durations_are_refused() {
    let mut world = World::new(Rules::default());
    for config in [
        SessionConfig {
            idle_timeout_ns: -1,
            ..SessionConfig::default()
        },
        SessionConfig {
            max_duration_ns: -1,
            ..SessionConfig::default()
        },
    ] {
        let made =
            world.step(|state, step| state.create_session(step, &admin(), SessionMetadata::default(), Some(config)));
        assert!(matches!(made, Err(Error::Invalid(_))));
    }
}

#[test]
fn the_limit_counts_active_sessions_and_idle_ones_with_a_stream() {
    let mut world = World::new(Rules {
        max_sessions: 2,
        ..Rules::default()
    });
    let (first, second) = (world.session(), world.session());
    let full = |world: &mut World| {
        let made = world.step(|state, step| state.create_session(step, &admin(), SessionMetadata::default(), None));
        matches!(made, Err(Error::Limit { .. }))
    };
    assert!(full(&mut world));
    world.state.count_stream(first, true).unwrap();
    world.pass(600 * SECOND);
    assert_eq!(state(&world, first), SessionState::Idle);
    assert_eq!(world.state.sessions.counted(), 1);
    let third = world.session();
    assert!(full(&mut world));
    assert!(
        world.state.count_stream(second, true).is_err(),
        "an idle session may not have a stream where it is full"
    );
    world.step(|state, step| state.close_session(step, third, "")).unwrap();
    world.state.count_stream(second, true).unwrap();
    world.check();
}

#[test]
fn an_update_applies_what_is_given_and_keeps_the_rest() {
    let (mut world, session) = with(SessionConfig {
        max_containers: 3,
        ..SessionConfig::default()
    });
    let metadata = SessionMetadata {
        name: "n".into(),
        ..SessionMetadata::default()
    };
    world
        .step(|state, step| state.update_session(step, session, Some(metadata), None))
        .unwrap();
    let context = SessionContext {
        config: Some(SessionConfig {
            max_duration_ns: SECOND,
            ..SessionConfig::default()
        }),
        ..SessionContext::default()
    };
    world
        .step(|state, step| state.update_session(step, session, None, Some(context)))
        .unwrap();
    let found = world.state.sessions.get(session).unwrap();
    assert_eq!((found.metadata.name.as_str(), found.config.max_containers), ("n", 0));
    world.pass(SECOND);
    assert_eq!(state(&world, session), SessionState::Closed);
    let late = world.step(|state, step| state.update_session(step, session, None, None));
    assert_eq!(late.unwrap_err().to_string(), "cannot update closed session");
}

#[test]
fn many_closed_sessions_leave_the_memory() {
    let mut world = World::new(Rules::default());
    for _ in 0..600 {
        let session = world.session();
        world.say(session, "hi").unwrap();
        world
            .step(|state, step| state.close_session(step, session, ""))
            .unwrap();
    }
    assert!(world.state.sessions.iter().count() <= 256);
    world.check();
}

#[test]
fn messages_in_memory_stay_within_their_budget() {
    let mut world = World::new(Rules::default());
    let text = "x".repeat(60 << 10);
    for _ in 0..300 {
        let session = world.session();
        let message = Message {
            role: MessageRole::System.into(),
            content: text.clone(),
            ..Message::default()
        };
        world
            .step(|state, step| state.add_message(step, session, message))
            .unwrap();
    }
    assert!(
        world.cache.bytes() <= (8 << 20) + text.len() + 1024,
        "{}",
        world.cache.bytes()
    );
    world.check();
}
