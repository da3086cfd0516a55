use super::*;

fn session(timeout_ns: i64, idle_timeout_ns: i64) -> Session {
    let config = Config {
        timeout_ns,
        idle_timeout_ns,
        max_message_size: 10,
        ..Config::default()
    };
    let requested = NewSession {
        config: Some(config),
        ..NewSession::default()
    };
    let mut session = Session::new("s".into(), "uid:1".into(), requested, 100);
    session.step(Command::Open, 100).unwrap();
    session
}

#[test]
fn it_falls_asleep_on_time_and_a_message_wakes_it() {
    let mut session = session(0, 50);
    assert_eq!(session.due_at(), Some(150));
    assert_eq!(session.step(Command::Tick, 149), Ok(Outcome::Unchanged));
    assert_eq!(session.step(Command::Use, 149), Ok(Outcome::Used));
    assert_eq!(session.step(Command::Tick, 150), Ok(Outcome::Unchanged));
    assert_eq!(session.step(Command::Tick, 199), Ok(Outcome::Idled));
    assert_eq!((session.state, session.due_at()), (State::Idle, None));
    assert_eq!(session.step(Command::Use, 300), Ok(Outcome::Woke));
    assert_eq!((session.state, session.due_at()), (State::Active, Some(350)));
}

#[test]
fn it_ends_on_time_and_stays_ended() {
    let mut session = session(50, 0);
    assert_eq!(
        session.step(Command::Use, 150),
        Err(Error::Closed),
        "not even before the tick"
    );
    assert_eq!(session.step(Command::Tick, 150), Ok(Outcome::Expired));
    assert_eq!(
        (session.state, session.closed_at, session.due_at()),
        (State::Closed, Some(150), None)
    );
    assert_eq!(session.step(Command::Close, 160), Ok(Outcome::Unchanged));
    assert_eq!(session.step(Command::Use, 160), Err(Error::Closed));
}

#[test]
fn the_smaller_limit_counts() {
    let session = session(0, 0);
    assert_eq!(session.check_size(10, 100), Ok(()));
    assert_eq!(
        session.check_size(11, 100),
        Err(Error::TooLarge { size: 11, limit: 10 })
    );
    assert_eq!(session.check_size(6, 5), Err(Error::TooLarge { size: 6, limit: 5 }));
}

#[test]
fn negative_values_and_huge_metadata_are_refused() {
    let negative = |config| {
        NewSession {
            config: Some(config),
            ..NewSession::default()
        }
        .check()
    };
    for (field, config) in [
        (
            "timeout_ns",
            Config {
                timeout_ns: -1,
                ..Config::default()
            },
        ),
        (
            "idle_timeout_ns",
            Config {
                idle_timeout_ns: -1,
                ..Config::default()
            },
        ),
        (
            "max_message_size",
            Config {
                max_message_size: -1,
                ..Config::default()
            },
        ),
        (
            "chunk_size",
            Config {
                stream: Some(StreamConfig {
                    chunk_size: -1,
                    ..StreamConfig::default()
                }),
                ..Config::default()
            },
        ),
    ] {
        assert_eq!(negative(config), Err(Error::Negative(field)));
    }
    let metadata = Metadata {
        description: "x".repeat(MAX_METADATA + 1),
        ..Metadata::default()
    };
    assert!(matches!(
        NewSession { metadata, config: None }.check(),
        Err(Error::TooLong { .. })
    ));
}
