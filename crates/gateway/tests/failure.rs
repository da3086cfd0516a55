//! A disk that refuses: nothing is half done, and nothing is left open at the orchestrator.

mod fake;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fake::Fake;
use nexus_client::{Address, Options};
use nexus_config::Root;
use nexus_daemon::{Caller, Health, Role, Stop};
use nexus_gateway::{
    Config, Error,
    domain::{filter::SessionFilter, session::NewSession},
    engine::Handle,
    remote::Orchestrator,
    store::Store,
};
use nexus_proto::orchestrator::v1::SessionState;
use nexus_store::{Backend, Commit, Durability, Error as Engine, GroupId, Lease, Op, Outcome, Read, Sqlite, Write};

/// A disk that is full after so many commits, for one commit.
#[derive(Debug)]
struct Flaky {
    disk: Sqlite,
    good: Arc<AtomicUsize>,
}

struct FlakyWrite {
    write: Box<dyn Write>,
    good: Arc<AtomicUsize>,
}

impl Backend for Flaky {
    fn open_write(&self) -> Result<Box<dyn Write>, Engine> {
        Ok(Box::new(FlakyWrite {
            write: self.disk.open_write()?,
            good: self.good.clone(),
        }))
    }

    fn open_read(&self) -> Result<Box<dyn Read>, Engine> {
        self.disk.open_read()
    }

    fn directory(&self) -> Option<&Path> {
        self.disk.directory()
    }
}

impl Write for FlakyWrite {
    fn log_id(&self) -> String {
        self.write.log_id()
    }

    fn lease(&self) -> Lease {
        self.write.lease()
    }

    fn commit(&mut self, id: GroupId, group: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Commit {
        if self.good.fetch_sub(1, Ordering::SeqCst) == 0 {
            return Commit::Refused(Engine::Full { path: "/full".into() });
        }
        self.write.commit(id, group, lease, seqs)
    }

    fn outcome(&mut self, id: GroupId, group: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Outcome {
        self.write.outcome(id, group, lease, seqs)
    }

    fn close(&mut self) -> Result<(), Engine> {
        self.write.close()
    }
}

fn config() -> Config {
    Config {
        max_sessions: 10,
        max_open_streams: 10,
        max_message_size: 1 << 20,
        answer_timeout: Duration::from_secs(10),
        orchestrator_patience: Duration::from_secs(10),
        heartbeat_interval: Duration::from_secs(10),
        event_retention: Duration::from_secs(3600),
    }
}

#[tokio::test]
async fn a_session_that_cannot_be_written_is_closed_at_the_orchestrator() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::at(dir.path());
    root.create().unwrap();
    let fake = Fake::new(&root.socket("orchestrator"));
    let _process = fake.start();
    // The intent is written; the finished session is not.
    let good = Arc::new(AtomicUsize::new(1));
    let disk = Sqlite::new(dir.path().join("gateway.db"), Durability::Process);
    let (store, sessions) = Store::open(Arc::new(Flaky { disk, good }), &nexus_store::Options::default()).unwrap();
    let orchestrator = Orchestrator::new(Address::Unix(fake.socket.clone()), Options::default());
    let stop = Stop::new();
    let gateway = Handle::spawn(store, sessions, orchestrator, config(), Health::new(), &stop);
    let caller = Caller::of_uid(1, Role::User);

    let failed = gateway.create(&caller, NewSession::default(), None).await.unwrap_err();
    assert!(matches!(failed, Error::Store(Engine::Full { .. })), "{failed:?}");
    assert!(gateway.list(&caller, &SessionFilter::default()).is_empty());
    fake.until("the close", |memory| {
        let closed = |kept: &fake::Kept| kept.session.state() == SessionState::Closed;
        (memory.sessions.len() == 1 && memory.sessions.values().all(closed)).then_some(())
    })
    .await;

    // The disk has room again, and the places are free.
    for _ in 0..10 {
        gateway.create(&caller, NewSession::default(), None).await.unwrap();
    }
    stop.trigger();
    gateway.flush(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_crash_in_the_middle_of_making_a_session_leaves_nothing_open() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::at(dir.path());
    root.create().unwrap();
    let fake = Fake::new(&root.socket("orchestrator"));
    let _process = fake.start();
    let orchestrator = Orchestrator::new(Address::Unix(fake.socket.clone()), Options::default());
    let session =
        nexus_gateway::domain::session::Session::new("0".repeat(32), "uid:1".into(), NewSession::default(), 1);
    let open = || {
        let disk = Arc::new(Sqlite::new(dir.path().join("gateway.db"), Durability::Process));
        let end = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            match Store::open(disk.clone(), &nexus_store::Options::default()) {
                Err(Error::Store(Engine::InUse { .. })) if std::time::Instant::now() < end => std::thread::yield_now(),
                opened => return opened.unwrap(),
            }
        }
    };
    // What such a crash leaves: the intent here, the session there.
    let (store, _) = open();
    store
        .commit(nexus_gateway::store::Change::default().put(&session), 1)
        .await
        .unwrap();
    store.close(Duration::from_secs(5)).await;
    orchestrator.create_session(&session, &session.id).await.unwrap();

    let (store, sessions) = open();
    assert_eq!(sessions.len(), 1);
    let stop = Stop::new();
    let gateway = Handle::spawn(store, sessions, orchestrator, config(), Health::new(), &stop);
    let admin = Caller::of_uid(0, Role::Admin);
    assert!(gateway.list(&admin, &SessionFilter::default()).is_empty());
    fake.until("the close", |memory| {
        let closed = |kept: &fake::Kept| kept.session.state() == SessionState::Closed;
        (memory.sessions.len() == 1 && memory.sessions.values().all(closed)).then_some(())
    })
    .await;
    stop.trigger();
    gateway.flush(Duration::from_secs(5)).await;
}
