use super::*;
use crate::domain::{
    event::Kind,
    session::{Command, NewSession},
};
use nexus_store::{Durability, Sqlite};

/// A writer's thread lets go of the file a moment after its last commit.
fn open(dir: &tempfile::TempDir) -> (Store, Vec<Session>) {
    let end = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        let backend = Sqlite::new(dir.path().join("gateway.db"), Durability::Process);
        match Store::open(Arc::new(backend), &Options::default()) {
            Err(Error::Store(Engine::InUse { .. })) if std::time::Instant::now() < end => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

fn session(id: &str) -> Session {
    let mut session = Session::new(id.into(), "uid:1".into(), NewSession::default(), 5);
    session.step(Command::Open, 6).unwrap();
    session
}

#[tokio::test]
async fn sessions_and_events_are_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (store, sessions) = open(&dir);
    assert!(sessions.is_empty());
    let (one, two) = (session("one"), session("two"));
    let created = |session| Event::of(session, Kind::SessionCreated);
    store
        .commit(Change::default().put(&one).event(created(&one)), 10)
        .await
        .unwrap();
    let second = store
        .commit(Change::default().put(&two).event(created(&two)), 20)
        .await
        .unwrap();
    store.commit(Change::default().remove("one"), 30).await.unwrap();
    let log_id = store.log_id().to_owned();
    assert!(store.close(Duration::from_secs(5)).await);
    assert!(matches!(
        store.commit(Change::default(), 1).await,
        Err(Error::Store(Engine::Closed))
    ));
    drop(store);

    let (store, sessions) = open(&dir);
    assert_eq!(sessions, std::slice::from_ref(&two));
    assert_eq!((store.newest(), store.log_id()), (second, log_id.as_str()));
    let events = store.events(0, 10).await.unwrap();
    assert_eq!(
        events.iter().map(|e| e.event.session.as_str()).collect::<Vec<_>>(),
        ["one", "two"]
    );
    let third = store.commit(Change::default().event(created(&two)), 15).await.unwrap();
    assert!(third > second, "the sequence goes on");
    assert_eq!(
        store.events(second, 10).await.unwrap()[0].time,
        20,
        "and its time never falls"
    );
}

#[tokio::test]
async fn a_time_finds_its_place_and_trimming_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    let session = session("s");
    let mut last = 0;
    for time in [10, 20, 30] {
        let event = Event::of(&session, Kind::MessageSent);
        last = store.commit(Change::default().event(event), time).await.unwrap();
    }
    assert_eq!(store.before(20).await.unwrap(), last - 2);
    assert_eq!(store.trimmed().await.unwrap(), 0);
    store.trim(30).await.unwrap();
    assert_eq!(store.trimmed().await.unwrap(), last - 1);
    assert_eq!(store.events(0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn first_answers_are_kept_and_forgotten_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    let answer = |at| FirstAnswer {
        at,
        fingerprint: "f".into(),
        answer: "{}".into(),
    };
    for (key, at) in [("old", 10), ("new", 20)] {
        store
            .commit(Change::default().first_answer(key, &answer(at)), at)
            .await
            .unwrap();
    }
    assert_eq!(store.first_answer("old").await.unwrap(), Some(answer(10)));
    assert!(!store.forget_answers(20, 10).await.unwrap());
    assert_eq!(store.first_answer("old").await.unwrap(), None);
    assert_eq!(store.first_answer("new").await.unwrap(), Some(answer(20)));
}
