//! A disk that fails when it is told to: what was acknowledged stays, what was not is refused, and life goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use nexus_daemon::{Caller, Role, Stop};
use nexus_orchestrator::domain::sessions::View;
use nexus_orchestrator::domain::{Error, Rules};
use nexus_orchestrator::engine::{Engine, Link, Options, Wanted};
use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, DataMessage, MessageType, RegisterRequest, agent_message, stream_agent_response,
};
use nexus_proto::orchestrator::v1::{CreateSessionRequest, Event, MessageRole};
use nexus_store::{Backend, Commit, Durability, Faults, GroupId, Lease, Memory, Op, Outcome, Read, Sqlite, Write};
use prost::Message as _;

use super::site::{soon, system, user, with_id};

/// A store whose disk is full for the next so many commits.
#[derive(Clone, Debug)]
struct Failing {
    inner: Arc<Sqlite>,
    failures: Arc<AtomicU64>,
}

struct FailingWrite {
    inner: Box<dyn Write>,
    failures: Arc<AtomicU64>,
}

impl Backend for Failing {
    fn open_write(&self) -> Result<Box<dyn Write>, nexus_store::Error> {
        Ok(Box::new(FailingWrite {
            inner: self.inner.open_write()?,
            failures: self.failures.clone(),
        }))
    }

    fn open_read(&self) -> Result<Box<dyn Read>, nexus_store::Error> {
        self.inner.open_read()
    }

    fn directory(&self) -> Option<&Path> {
        None
    }
}

impl Write for FailingWrite {
    fn log_id(&self) -> String {
        self.inner.log_id()
    }

    fn lease(&self) -> Lease {
        self.inner.lease()
    }

    fn outcome(&mut self, id: GroupId, group: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Outcome {
        self.inner.outcome(id, group, lease, seqs)
    }

    fn commit(&mut self, id: GroupId, group: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Commit {
        let fails = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok();
        if fails {
            Commit::Refused(nexus_store::Error::Full { path: "/disk".into() })
        } else {
            self.inner.commit(id, group, lease, seqs)
        }
    }

    fn close(&mut self) -> Result<(), nexus_store::Error> {
        self.inner.close()
    }
}

/// This process's own uid.
fn admin() -> Caller {
    Caller::of_uid(1, Role::Admin)
}

struct Disk {
    engine: Engine,
    failures: Arc<AtomicU64>,
    stop: Stop,
    _dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Disk {
        Disk::with(Options {
            rules: Rules::default(),
            store: nexus_store::Options::default(),
            ring_events: 64,
            ring_bytes: 1 << 20,
            event_max_age: Duration::ZERO,
            event_max_bytes: 0,
            max_message_bytes: 100 << 20,
        })
    }

    fn with(options: Options) -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let inner = Arc::new(Sqlite::new(dir.path().join("db"), Durability::Process));
        let backend = Failing {
            inner,
            failures: Arc::default(),
        };
        let (failures, stop) = (backend.failures.clone(), Stop::new());
        let engine = Engine::open(Arc::new(backend), options, &stop).unwrap();
        Disk {
            engine,
            failures,
            stop,
            _dir: dir,
        }
    }

    fn fail(&self, commits: u64) {
        self.failures.store(commits, Ordering::SeqCst);
    }

    async fn session(&self) -> String {
        let made = self
            .engine
            .create_session(None, &admin(), CreateSessionRequest::default())
            .await;
        made.unwrap().session_id
    }

    async fn said(&self, session: &str) -> Vec<(u64, String)> {
        let wanted = Wanted {
            newest: usize::MAX,
            before: 0,
        };
        let session = self.engine.session(session, View::All, wanted).await.unwrap();
        session
            .context
            .unwrap()
            .messages
            .into_iter()
            .map(|m| (m.sequence, m.content))
            .collect()
    }

    async fn assistant(&self) -> Arc<Link> {
        let request = RegisterRequest {
            name: "assistant".into(),
            ..RegisterRequest::default()
        };
        let id = self.engine.register(None, &admin(), request).await.unwrap().agent_id;
        self.engine.link(&id, &admin()).await.unwrap()
    }

    async fn asked(&self, link: &Link) -> AgentMessage {
        match soon(link.next()).await.unwrap().unwrap().payload {
            Some(stream_agent_response::Payload::Message(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&self, link: &Link, request: &AgentMessage, text: &str) -> Result<(), Error> {
        let about = request.metadata.clone().unwrap();
        let data = DataMessage {
            data: text.as_bytes().to_vec().into(),
            ..DataMessage::default()
        };
        let message = AgentMessage {
            r#type: MessageType::Data.into(),
            metadata: Some(AgentMessageMetadata {
                headers: Default::default(),
                ..about
            }),
            payload: Some(agent_message::Payload::DataMessage(data)),
            ..AgentMessage::default()
        };
        self.engine.agent_said(link, message).await
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

/// Events as they stand on the wire, each after its head.
fn decoded(mut wire: Bytes) -> Vec<Event> {
    let mut events = Vec::new();
    while wire.has_remaining() {
        wire.advance(1);
        let length = wire.get_u32() as usize;
        events.push(Event::decode(wire.split_to(length)).unwrap());
    }
    events
}

fn is_full<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(
        result,
        Err(Error::Store(
            nexus_store::Error::Full { .. } | nexus_store::Error::Superseded
        ))
    )
}

#[tokio::test]
async fn a_failed_write_is_refused_and_the_next_takes_its_place() {
    let disk = Disk::new();
    let session = disk.session().await;
    disk.engine.send(None, &session, &admin(), system("one")).await.unwrap();
    disk.fail(1);
    assert!(is_full(
        disk.engine
            .send(None, &session, &admin(), with_id("x", system("lost")))
            .await
    ));
    disk.engine.send(None, &session, &admin(), system("two")).await.unwrap();
    assert_eq!(disk.said(&session).await, [(1, "one".into()), (2, "two".into())]);
    let again = disk
        .engine
        .send(None, &session, &admin(), with_id("x", system("lost")))
        .await
        .unwrap();
    assert_eq!(again.n, 3, "a repeat is stored now");
}

#[tokio::test]
async fn under_load_exactly_what_was_acknowledged_is_there() {
    let disk = Disk::new();
    let session = disk.session().await;
    let mut acknowledged = Vec::new();
    for round in 0..20 {
        disk.fail(u64::from(round % 3 == 1));
        let sends = (0..30).map(|n| {
            let (engine, session, id) = (&disk.engine, &session, format!("{round}-{n}"));
            async move {
                let message = with_id(&id, system(&id));
                (engine.send(None, session, &admin(), message).await.is_ok(), id)
            }
        });
        let sent = futures_util::future::join_all(sends).await;
        acknowledged.extend(sent.into_iter().filter(|(ok, _)| *ok).map(|(_, id)| id));
    }
    disk.fail(0);
    let said = disk.said(&session).await;
    let numbers: Vec<u64> = said.iter().map(|(n, _)| *n).collect();
    assert_eq!(numbers, (1..=said.len() as u64).collect::<Vec<_>>());
    let mut stored: Vec<String> = said.into_iter().map(|(_, id)| id).collect();
    stored.sort();
    acknowledged.sort();
    assert_eq!(stored, acknowledged);
}

#[tokio::test]
async fn a_session_that_was_not_stored_is_not_there() {
    let disk = Disk::new();
    disk.fail(1);
    let made = disk
        .engine
        .create_session(None, &admin(), CreateSessionRequest::default())
        .await;
    assert!(is_full(made));
    assert_eq!(disk.engine.active_sessions(), 0);
    disk.session().await;
    assert_eq!(disk.engine.active_sessions(), 1);
}

#[tokio::test]
async fn an_assistant_keeps_its_turn_through_the_failure_of_another_write() {
    let disk = Disk::new();
    let session = disk.session().await;
    let link = disk.assistant().await;
    disk.engine.send(None, &session, &admin(), user("hi")).await.unwrap();
    let request = disk.asked(&link).await;
    disk.fail(1);
    assert!(is_full(
        disk.engine
            .create_session(None, &admin(), CreateSessionRequest::default())
            .await
    ));
    disk.answer(&link, &request, "hello").await.unwrap();
    assert_eq!(disk.said(&session).await[1].1, "hello");
    disk.engine.send(None, &session, &admin(), user("more")).await.unwrap();
    assert_eq!(
        disk.asked(&link).await.id.len(),
        32,
        "the stream is still the assistant's"
    );
}

#[tokio::test]
async fn an_answer_that_cannot_be_stored_fails_its_turn_and_is_not_asked_for_again_unasked() {
    let disk = Disk::new();
    let session = disk.session().await;
    let link = disk.assistant().await;
    let message = with_id("m", user("hi"));
    disk.engine
        .send(None, &session, &admin(), message.clone())
        .await
        .unwrap();
    let request = disk.asked(&link).await;
    let all = nexus_orchestrator::domain::filter::Wanted::new(None).unwrap();
    let mut events = disk.engine.subscribe(all, None, None, &admin()).await.unwrap();
    // The answer, and the first try to say that it failed.
    disk.fail(2);
    assert!(is_full(disk.answer(&link, &request, "hello").await));
    let failed = loop {
        let told = decoded(soon(events.next()).await.unwrap().unwrap());
        if let Some(event) = told.into_iter().find(|event| event.name == "turn.failed") {
            break event;
        }
    };
    assert!(failed.data["error"].starts_with("UNAVAILABLE"), "{failed:?}");
    disk.engine.send(None, &session, &admin(), message).await.unwrap();
    let again = disk.asked(&link).await;
    assert_ne!(
        again.metadata.as_ref().unwrap().correlation_id,
        request.metadata.unwrap().correlation_id
    );
    disk.answer(&link, &again, "hello").await.unwrap();
    let said = disk.said(&session).await;
    assert_eq!(said, [(1, "hi".into()), (2, "hello".into())]);
}

#[tokio::test]
async fn a_message_whose_write_failed_is_never_offered() {
    let disk = Disk::new();
    let session = disk.session().await;
    let link = disk.assistant().await;
    disk.fail(1);
    assert!(is_full(disk.engine.send(None, &session, &admin(), user("lost")).await));
    disk.engine.send(None, &session, &admin(), user("kept")).await.unwrap();
    let request = disk.asked(&link).await;
    let Some(agent_message::Payload::DataMessage(data)) = request.payload else {
        panic!("a request")
    };
    assert_eq!(&data.data[..], b"kept");
}

#[tokio::test]
async fn trimmed_events_are_told_as_a_gap_and_messages_stay() {
    let options = Options {
        rules: Rules::default(),
        store: nexus_store::Options::default(),
        ring_events: 4,
        ring_bytes: 1 << 20,
        event_max_age: Duration::from_nanos(1),
        event_max_bytes: 0,
        max_message_bytes: 100 << 20,
    };
    let disk = Disk::with(options);
    let session = disk.session().await;
    for n in 0..20 {
        disk.engine
            .send(None, &session, &admin(), system(&format!("{n}")))
            .await
            .unwrap();
    }
    disk.engine.tidy().await.unwrap();
    disk.session().await;
    let all = nexus_orchestrator::domain::filter::Wanted::new(None).unwrap();
    let mut events = disk.engine.subscribe(all, Some(0), None, &admin()).await.unwrap();
    let first = decoded(soon(events.next()).await.unwrap().unwrap()).remove(0);
    let gap = first.gap.expect("what is gone is told first");
    assert!((gap.first, gap.last) == (1, 21) && first.sequence == 0, "{gap:?}");
    let next = decoded(soon(events.next()).await.unwrap().unwrap()).remove(0);
    assert_eq!((next.name.as_str(), next.sequence), ("session.created", 22));
    assert_eq!(disk.said(&session).await.len(), 20);
    let wanted = Wanted { newest: 1, before: 0 };
    let last = disk
        .engine
        .session(&session, View::All, wanted)
        .await
        .unwrap()
        .context
        .unwrap();
    assert_eq!(last.messages[0].role(), MessageRole::System);
}

/// A store behind a connection whose answers are lost, now before a commit and now after it: whoever writes is told the
/// truth in the end, and what is told is there once.
#[tokio::test]
async fn answers_of_the_store_that_are_lost_lose_and_double_nothing() {
    let memory = Memory::with(Faults { unknown: 40, seed: 11 });
    let options = || Options {
        rules: Rules::default(),
        store: nexus_store::Options::default(),
        ring_events: 64,
        ring_bytes: 1 << 20,
        event_max_age: Duration::ZERO,
        event_max_bytes: 0,
        max_message_bytes: 100 << 20,
    };
    let mut sent: Vec<(String, Vec<String>)> = Vec::new();
    for round in 0..3 {
        let stop = Stop::new();
        let engine = Engine::open(Arc::new(memory.clone()), options(), &stop).unwrap();
        for _ in 0..4 {
            let made = engine
                .create_session(None, &admin(), CreateSessionRequest::default())
                .await;
            sent.push((made.unwrap().session_id, Vec::new()));
        }
        let mut writing = tokio::task::JoinSet::new();
        for (place, (session, _)) in sent.iter().enumerate() {
            let (engine, session) = (engine.clone(), session.clone());
            writing.spawn(async move {
                let mut told = Vec::new();
                for n in 0..25 {
                    let text = format!("{round}.{n}");
                    let message = with_id(&format!("{round}-{n}"), system(&text));
                    // Each is sent twice, as by a client that heard no answer.
                    for _ in 0..2 {
                        engine.send(None, &session, &admin(), message.clone()).await.unwrap();
                    }
                    told.push(text);
                }
                (place, told)
            });
        }
        while let Some(done) = writing.join_next().await {
            let (place, told) = done.unwrap();
            sent[place].1.extend(told);
        }
        for (session, told) in &sent {
            let wanted = Wanted {
                newest: usize::MAX,
                before: 0,
            };
            let found = engine
                .session(session, View::All, wanted)
                .await
                .unwrap()
                .context
                .unwrap();
            let texts: Vec<String> = found.messages.iter().map(|message| message.content.clone()).collect();
            assert_eq!(&texts, told);
            let numbers: Vec<u64> = found.messages.iter().map(|message| message.sequence).collect();
            assert_eq!(numbers, (1..=told.len() as u64).collect::<Vec<_>>());
        }
        stop.trigger();
        assert!(engine.close(Duration::from_secs(20)).await);
        drop(engine);
    }
}

/// A writer that another process has replaced must not go on as if it could still promise anything: the daemon stops with
/// the reason, and its supervisor starts it again.
#[tokio::test]
async fn a_daemon_whose_lease_was_taken_stops_with_the_reason() {
    let memory = Memory::with(Faults { unknown: 0, seed: 1 });
    let options = Options {
        rules: Rules::default(),
        store: nexus_store::Options::default(),
        ring_events: 64,
        ring_bytes: 1 << 20,
        event_max_age: Duration::ZERO,
        event_max_bytes: 0,
        max_message_bytes: 100 << 20,
    };
    let stop = Stop::new();
    let engine = Engine::open(Arc::new(memory.clone()), options, &stop).unwrap();
    let caller = admin();
    let create = || engine.create_session(None, &caller, CreateSessionRequest::default());
    create().await.unwrap();
    assert_eq!(stop.failure(), None);
    let _other = memory.take_over();
    let refused = create().await;
    assert!(
        matches!(refused, Err(Error::Store(nexus_store::Error::LeaseLost))),
        "{refused:?}"
    );
    soon(stop.requested()).await;
    let reason = stop.failure().unwrap();
    assert!(reason.contains("another process has taken over writing"), "{reason}");
}
