//! What is there after a restart: everything, as it was.

use nexus_proto::orchestrator::v1::*;

use super::site::{Site, system, user};

#[tokio::test]
async fn a_question_that_was_open_is_answered_after_a_restart_by_the_same_agent() {
    let mut site = Site::new().await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    site.send(&session, user("one")).await.unwrap();
    site.send(&session, user("two")).await.unwrap();
    assistant.asked().await;
    let id = assistant.id.clone();
    drop(assistant);
    site.restart().await;
    let mut assistant = site.link(&id).await;
    let mut chat = site.chat(&session).await;
    for text in ["one", "two"] {
        let (request, asked) = assistant.asked().await;
        assert_eq!(asked, text);
        assistant.answer(&request, &format!("re: {text}")).await;
        assert_eq!(chat.answer().await, format!("re: {text}"));
    }
}

#[tokio::test]
async fn a_question_that_was_open_fails_after_the_grace_if_nobody_comes() {
    let mut site = Site::with(&[("assistant_grace", "100ms")]).await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    site.send(&session, user("one")).await.unwrap();
    assistant.asked().await;
    drop(assistant);
    site.restart().await;
    let names = vec!["turn.failed".to_owned()];
    let mut events = site
        .replay(EventFilter {
            names,
            ..EventFilter::default()
        })
        .await;
    assert!(events.next().await.data["error"].starts_with("NOT_FOUND"));
}

#[tokio::test]
async fn sessions_come_back_whole() {
    let mut site = Site::new().await;
    let metadata = SessionMetadata {
        name: "n".into(),
        owner_id: "../../etc".into(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..SessionMetadata::default()
    };
    let config = SessionConfig {
        max_containers: 3,
        idle_timeout_ns: 5_000_000_000,
        ..SessionConfig::default()
    };
    let request = CreateSessionRequest {
        metadata: Some(metadata),
        config: Some(config),
    };
    let made = site.orchestrator().create_session(request).await.unwrap().into_inner();
    let id = made.session_id;
    site.send(&id, system("one")).await.unwrap();
    let closed = site.session().await;
    let close = CloseSessionRequest {
        session_id: closed.clone(),
        reason: "done".into(),
    };
    site.orchestrator().close_session(close).await.unwrap();
    let before = (site.get(&id).await, site.get(&closed).await);
    site.restart().await;
    assert_eq!((site.get(&id).await, site.get(&closed).await), before);
    assert_eq!(before.1.state(), SessionState::Closed);
    site.send(&id, system("two")).await.unwrap();
    site.chat(&id).await;
}

#[tokio::test]
async fn the_log_goes_on_where_it_was() {
    let mut site = Site::new().await;
    let session = site.session().await;
    site.send(&session, system("one")).await.unwrap();
    let names = vec!["message.sent".to_owned()];
    let filter = EventFilter {
        names,
        ..EventFilter::default()
    };
    let mut before = site.replay(filter.clone()).await;
    let (log, first) = (before.log_id.clone(), before.next().await);
    site.restart().await;
    site.send(&session, system("two")).await.unwrap();
    let request = SubscribeEventsRequest {
        filter: Some(filter),
        after_sequence: Some(first.sequence),
    };
    let mut after = site.events(request).await.unwrap();
    assert_eq!(after.log_id, log);
    let second = after.next().await;
    assert!(second.sequence > first.sequence);
    let mut replayed = site
        .replay(EventFilter {
            names: vec!["message.sent".into()],
            ..EventFilter::default()
        })
        .await;
    assert_eq!(
        (replayed.next().await, replayed.next().await),
        (first, second),
        "the same after a restart"
    );
}
