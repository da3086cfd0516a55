//! What there was is there again: after a stop in good order, and after `kill -9`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{
    CloseSessionRequest, CreateSessionRequest, CreateSessionResponse, Event, MessageRole, SendMessageRequest,
    SessionConfig, SessionMetadata, SubscribeEventsRequest,
};
use nexus_tests::{Daemon, PATIENCE, Site, Talk, ask};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, Streaming};
use world::{World, agents, sessions, tasks};

#[tokio::test]
async fn everything_is_there_after_a_stop_and_after_a_kill() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let world = World {
        sessions: sessions::make(&connection).await,
        agents: agents::make(&connection).await,
        tasks: tasks::make(&connection).await,
    };
    let before = world.look(&connection).await;

    site.stopped(Daemon::Orchestrator).await;
    site.up(&[Daemon::Orchestrator]).await;
    assert_eq!(world.look(&site.connect()).await, before, "after a stop");

    site.kill(Daemon::Orchestrator);
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    assert_eq!(world.look(&connection).await, before, "after a kill");

    sessions::go_on(&connection, &world.sessions).await;
    agents::go_on(&connection, &world.agents).await;
    tasks::go_on(&connection, &world.tasks).await;
}

/// Everything after a cursor, up to the head as it is when this is called.
async fn events(connection: &Connection, after: u64) -> (String, Vec<Event>) {
    let answer = subscribe(connection, after, None).await.expect("the log can be read");
    let log_id = answer
        .metadata()
        .get("nexus-log-id")
        .expect("the log has an id")
        .to_str()
        .unwrap()
        .to_owned();
    let mut stream = answer.into_inner();
    // A session made now is the last event there is.
    let last = ask::create(connection, "the end").await;
    let mut found = Vec::new();
    loop {
        let event = timeout(PATIENCE, stream.message())
            .await
            .expect("an event comes")
            .unwrap()
            .expect("it goes on");
        let end = event.name == "session.created" && event.data["session_id"] == last;
        found.push(event);
        if end {
            return (log_id, found);
        }
    }
}

async fn subscribe(
    connection: &Connection,
    after: u64,
    log_id: Option<&str>,
) -> Result<Response<Streaming<Event>>, Status> {
    let mut request = Request::new(SubscribeEventsRequest {
        filter: None,
        after_sequence: Some(after),
    });
    if let Some(log_id) = log_id {
        request.metadata_mut().insert("nexus-log-id", log_id.parse().unwrap());
    }
    connection.orchestrator().subscribe_events(request).await
}

#[tokio::test]
async fn cursors_and_the_log_survive() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "log").await;
    for number in 0..20 {
        let message = ask::message("", MessageRole::System, &format!("message {number}"));
        ask::send(&connection, &session, message).await.unwrap();
    }
    let (log, before) = events(&connection, 0).await;
    let rising = before.windows(2).all(|pair| pair[0].sequence < pair[1].sequence);
    assert!(rising && before[0].sequence > 0);
    let middle = before[before.len() / 2].sequence;

    site.kill(Daemon::Orchestrator);
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let (same, after) = events(&connection, 0).await;
    assert_eq!(same, log, "the log keeps its name");
    assert_eq!(after[..before.len()], before, "the same events at the same places");
    let (_, rest) = events(&connection, middle).await;
    assert!(rest.iter().all(|event| event.sequence > middle));
    assert_eq!(
        rest[..rest.len() - 1],
        after[before.len() / 2 + 1..],
        "the cursor is good"
    );

    let head = rest.last().unwrap().sequence;
    ask::refused(subscribe(&connection, head + 1000, None).await, Code::OutOfRange);
    ask::refused(
        subscribe(&connection, middle, Some("another-log")).await,
        Code::OutOfRange,
    );
    assert!(subscribe(&connection, middle, Some(&log)).await.is_ok());

    // A stream's cursor too.
    let mut talk = Talk::open(&connection, &session, Some(15), false).await.unwrap();
    for sequence in 16..=20 {
        match talk.next().await.unwrap() {
            Some(nexus_tests::Frame::Message(message)) => assert_eq!(message.sequence, sequence),
            other => panic!("message {sequence} was due, not {other:?}"),
        }
    }
    let mut beyond = Talk::open(&connection, &session, Some(21), false).await.unwrap();
    ask::refused(beyond.end().await, Code::OutOfRange);
}

fn keyed<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

async fn create_once(connection: &Connection, key: &str, name: &str) -> Result<CreateSessionResponse, Status> {
    let metadata = SessionMetadata {
        name: name.into(),
        ..SessionMetadata::default()
    };
    let request = CreateSessionRequest {
        metadata: Some(metadata),
        config: Some(SessionConfig::default()),
    };
    Ok(connection
        .orchestrator()
        .create_session(keyed(request, key))
        .await?
        .into_inner())
}

#[tokio::test]
async fn a_repeated_call_gets_the_first_answer_across_a_restart() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let first = create_once(&connection, "k1", "once").await.unwrap();
    assert_eq!(create_once(&connection, "k1", "once").await.unwrap(), first);
    let message = SendMessageRequest {
        session_id: first.session_id.clone(),
        message: Some(ask::message("", MessageRole::System, "said once")),
    };
    let sent = connection
        .orchestrator()
        .send_message(keyed(message.clone(), "k2"))
        .await
        .unwrap()
        .into_inner();
    let close = CloseSessionRequest {
        session_id: first.session_id.clone(),
        reason: "over".into(),
    };
    let closed = connection
        .orchestrator()
        .close_session(keyed(close.clone(), "k3"))
        .await
        .unwrap()
        .into_inner();

    for kill in [false, true] {
        if kill {
            site.kill(Daemon::Orchestrator);
        } else {
            site.stopped(Daemon::Orchestrator).await;
        }
        site.up(&[Daemon::Orchestrator]).await;
        let mut client = site.connect().orchestrator();
        assert_eq!(create_once(&site.connect(), "k1", "once").await.unwrap(), first);
        let again = client
            .send_message(keyed(message.clone(), "k2"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(again, sent, "though the session is closed now");
        assert_eq!(
            client
                .close_session(keyed(close.clone(), "k3"))
                .await
                .unwrap()
                .into_inner(),
            closed
        );
        ask::refused(
            create_once(&site.connect(), "k1", "another").await,
            Code::InvalidArgument,
        );
    }
    let session = ask::session(&site.connect(), &first.session_id).await;
    assert_eq!(session.context.unwrap().messages.len(), 1);
    assert_ne!(
        create_once(&site.connect(), "k4", "once").await.unwrap().session_id,
        first.session_id
    );
}

#[tokio::test]
async fn a_deleted_session_leaves_nothing_behind() {
    const CANARY: &str = "xanthophyll-canary-7741";
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let kept = ask::create(&connection, "kept").await;
    ask::send(
        &connection,
        &kept,
        ask::message("", MessageRole::System, "this-one-stays"),
    )
    .await
    .unwrap();
    let session = create_once(&connection, "key-of-the-session", CANARY)
        .await
        .unwrap()
        .session_id;
    for number in 0..50 {
        let id = format!("{CANARY}-{number}");
        let content = format!("{CANARY} {}", "padding ".repeat(200));
        ask::send(&connection, &session, ask::message(&id, MessageRole::System, &content))
            .await
            .unwrap();
    }
    // One with a key, whose first answer is kept for a day, and one that nobody answers.
    let message = Some(ask::message("", MessageRole::User, CANARY));
    let request = SendMessageRequest {
        session_id: session.clone(),
        message,
    };
    connection
        .orchestrator()
        .send_message(keyed(request, "key-of-the-message"))
        .await
        .unwrap();
    ask::delete(&connection, &session).await;

    ask::refused(ask::find(&connection, &session).await, Code::NotFound);
    let (_, events) = events(&connection, 0).await;
    let about: Vec<_> = events
        .iter()
        .filter(|event| format!("{event:?}").contains(&session))
        .collect();
    assert!(about.iter().all(|event| event.name == "session.deleted"), "{about:?}");
    assert!(!format!("{events:?}").contains(CANARY));

    site.stopped(Daemon::Orchestrator).await;
    let files = files(site.root().path());
    let with = |text: &str| -> Vec<_> {
        files
            .iter()
            .filter(|(_, bytes)| contains(bytes, text))
            .map(|f| &f.0)
            .collect()
    };
    assert!(
        !with("this-one-stays").is_empty(),
        "what is kept is in a file, readable for this test"
    );
    assert_eq!(with(CANARY), Vec::<&std::path::PathBuf>::new());
    site.up(&[Daemon::Orchestrator]).await;
    ask::refused(ask::find(&site.connect(), &session).await, Code::NotFound);
    ask::session(&site.connect(), &kept).await;
}

fn files(folder: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push((entry.path(), std::fs::read(entry.path()).unwrap()));
        }
    }
    found
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
