//! The calls about sessions.

use nexus_daemon::{Role, token};
use nexus_proto::orchestrator::v1::*;
use tonic::Code;

use super::site::{Site, refused, system};

fn get(id: &str) -> GetSessionRequest {
    GetSessionRequest {
        session_id: id.into(),
        ..GetSessionRequest::default()
    }
}

fn numbers(session: &Session) -> Vec<u64> {
    let messages = &session.context.as_ref().unwrap().messages;
    messages.iter().map(|message| message.sequence).collect()
}

fn omitted(session: &Session) -> u64 {
    session.context.as_ref().unwrap().messages_omitted
}

#[tokio::test]
async fn a_session_needs_nothing_and_always_carries_its_metadata() {
    let site = Site::new().await;
    let made = site
        .orchestrator()
        .create_session(CreateSessionRequest::default())
        .await
        .unwrap()
        .into_inner();
    let session = made.session.unwrap();
    assert_eq!((&session.id, session.state()), (&made.session_id, SessionState::Active));
    assert!(session.metadata.is_some());
    let listed = site
        .orchestrator()
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(listed.sessions[0].metadata.is_some());
}

#[tokio::test]
async fn pages_are_stable_while_sessions_come_and_close() {
    let site = Site::new().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(site.session().await);
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListSessionsRequest {
            page_size: 3,
            page_token: token,
            ..ListSessionsRequest::default()
        };
        let page = site.orchestrator().list_sessions(request).await.unwrap().into_inner();
        assert!(page.sessions.len() <= 3);
        seen.extend(page.sessions.into_iter().map(|session| session.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        let close = CloseSessionRequest {
            session_id: made[5].clone(),
            reason: String::new(),
        };
        site.orchestrator().close_session(close).await.unwrap();
    }
    assert_eq!(seen, made, "oldest first, none twice, none left out");
    let all = site
        .orchestrator()
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (all.sessions.len(), all.total_count, all.next_page_token),
        (7, 7, String::new())
    );
    let closed = SessionFilter {
        state: SessionState::Closed.into(),
        ..SessionFilter::default()
    };
    let request = ListSessionsRequest {
        filter: Some(closed),
        ..ListSessionsRequest::default()
    };
    let closed = site.orchestrator().list_sessions(request).await.unwrap().into_inner();
    assert_eq!(closed.sessions.iter().map(|s| &s.id).collect::<Vec<_>>(), [&made[5]]);
}

#[tokio::test]
async fn an_answer_carries_as_many_messages_as_asked_for() {
    let site = Site::new().await;
    let id = site.session().await;
    for n in 1..=150 {
        site.send(&id, system(&format!("{n}"))).await.unwrap();
    }
    let whole = site.get(&id).await;
    assert_eq!((numbers(&whole), omitted(&whole)), ((1..=150).collect(), 0));
    let request = GetSessionRequest {
        message_limit: 10,
        messages_before: 101,
        ..get(&id)
    };
    let some = site
        .orchestrator()
        .get_session(request)
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap();
    assert_eq!((numbers(&some), omitted(&some)), ((91..=100).collect(), 90));
    let request = GetSessionRequest {
        messages_before: 1,
        ..get(&id)
    };
    let none = site
        .orchestrator()
        .get_session(request)
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap();
    assert_eq!((numbers(&none), omitted(&none)), (vec![], 0));
    let listed = site
        .orchestrator()
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (numbers(&listed.sessions[0]), omitted(&listed.sessions[0])),
        ((51..=150).collect(), 50)
    );
    let request = ListSessionsRequest {
        without_messages: true,
        ..ListSessionsRequest::default()
    };
    let bare = site.orchestrator().list_sessions(request).await.unwrap().into_inner();
    assert_eq!((numbers(&bare.sessions[0]), omitted(&bare.sessions[0])), (vec![], 150));
}

#[tokio::test]
async fn an_answer_that_would_be_too_large_says_what_to_ask_for() {
    let site = Site::with(&[("common.max_message_bytes", "1MiB")]).await;
    let id = site.session().await;
    for _ in 0..4 {
        site.send(&id, system(&"x".repeat(300 << 10))).await.unwrap();
    }
    let message = refused(site.orchestrator().get_session(get(&id)).await, Code::ResourceExhausted);
    assert!(message.contains("message_limit"), "{message}");
    let request = GetSessionRequest {
        message_limit: 2,
        ..get(&id)
    };
    assert!(site.orchestrator().get_session(request).await.is_ok());
}

#[tokio::test]
async fn a_listing_answers_whatever_is_stored() {
    let site = Site::with(&[("common.max_message_bytes", "1MiB")]).await;
    let list =
        async |request: ListSessionsRequest| site.orchestrator().list_sessions(request).await.unwrap().into_inner();
    let (silent, busy) = (site.session().await, site.session().await);
    for session in [&silent, &busy] {
        for _ in 0..4 {
            site.send(session, system(&"x".repeat(200 << 10))).await.unwrap();
        }
    }
    let all = list(ListSessionsRequest::default()).await;
    let shown: Vec<_> = all
        .sessions
        .iter()
        .map(|one| (one.id.clone(), numbers(one), omitted(one)))
        .collect();
    assert_eq!(
        shown,
        [(silent.clone(), vec![4], 3), (busy.clone(), vec![1, 2, 3, 4], 0)],
        "the oldest of the session that was silent for longer are left out"
    );
    assert_eq!((all.total_count, all.next_page_token.as_str()), (2, ""));

    // Even bare sessions may be too many for one answer: then it is a page.
    let metadata = SessionMetadata {
        description: "d".repeat(100 << 10),
        ..SessionMetadata::default()
    };
    for _ in 0..14 {
        let request = CreateSessionRequest {
            metadata: Some(metadata.clone()),
            ..CreateSessionRequest::default()
        };
        site.orchestrator().create_session(request).await.unwrap();
    }
    let first = list(ListSessionsRequest::default()).await;
    assert!(!first.next_page_token.is_empty() && first.total_count == 16);
    let rest = ListSessionsRequest {
        page_token: first.next_page_token,
        ..ListSessionsRequest::default()
    };
    let rest = list(rest).await;
    assert_eq!(first.sessions.len() + rest.sessions.len(), 16);
    assert_eq!(rest.next_page_token, "");
}

#[tokio::test]
async fn an_update_is_an_event_and_a_closed_session_takes_none() {
    let site = Site::new().await;
    let id = site.session().await;
    let metadata = SessionMetadata {
        name: "new".into(),
        ..SessionMetadata::default()
    };
    let update = UpdateSessionRequest {
        session_id: id.clone(),
        metadata: Some(metadata),
        ..Default::default()
    };
    let updated = site
        .orchestrator()
        .update_session(update.clone())
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap();
    assert_eq!(updated.metadata.unwrap().name, "new");
    let names = vec!["session.updated".to_owned()];
    let mut events = site
        .replay(EventFilter {
            names,
            ..EventFilter::default()
        })
        .await;
    assert_eq!(events.next().await.data["name"], "new");
    let close = CloseSessionRequest {
        session_id: id.clone(),
        reason: String::new(),
    };
    for _ in 0..2 {
        let closed = site
            .orchestrator()
            .close_session(close.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(closed.state(), SessionState::Closed, "closing again is no error");
    }
    let message = refused(
        site.orchestrator().update_session(update).await,
        Code::FailedPrecondition,
    );
    assert_eq!(message, "cannot update closed session");
    let message = refused(site.send(&id, system("late")).await, Code::FailedPrecondition);
    assert_eq!(message, "cannot add message to closed session");
}

#[tokio::test]
async fn a_session_is_idle_and_closed_on_time() {
    let site = Site::new().await;
    let config = SessionConfig {
        idle_timeout_ns: 1_000_000,
        max_duration_ns: 300_000_000,
        ..SessionConfig::default()
    };
    let request = CreateSessionRequest {
        config: Some(config),
        ..CreateSessionRequest::default()
    };
    site.orchestrator().create_session(request).await.unwrap();
    let mut events = site.replay(EventFilter::default()).await;
    assert_eq!(events.of("session.updated").await.data["state"], "idle");
    let closed = events.of("session.closed").await;
    let session = site.get(&closed.data["session_id"]).await;
    assert_eq!(session.state(), SessionState::Closed);
    let nanos = |time: Option<nexus_proto::Timestamp>| time.map(|t| (t.seconds, t.nanos));
    assert!(nanos(session.closed_at) >= nanos(session.expires_at));
}

#[tokio::test]
async fn the_limit_is_of_live_sessions_and_says_its_setting() {
    let site = Site::with(&[("max_sessions", "2")]).await;
    let (first, _second) = (site.session().await, site.session().await);
    let full = site
        .orchestrator()
        .create_session(CreateSessionRequest::default())
        .await;
    let message = refused(full, Code::ResourceExhausted);
    assert!(message.starts_with("maximum sessions limit reached: 2"), "{message}");
    let close = CloseSessionRequest {
        session_id: first,
        reason: String::new(),
    };
    site.orchestrator().close_session(close).await.unwrap();
    site.session().await;
}

#[tokio::test]
async fn what_is_deleted_is_gone_while_others_look() {
    let site = Site::new().await;
    for _ in 0..20 {
        let id = site.session().await;
        site.send(&id, system("one")).await.unwrap();
        let mut client = site.orchestrator();
        let delete = client.delete_session(DeleteSessionRequest { session_id: id.clone() });
        let looks = (0..8).map(|_| {
            let (mut client, id) = (site.orchestrator(), id.clone());
            async move { client.get_session(get(&id)).await }
        });
        let (deleted, _) = tokio::join!(delete, futures_util::future::join_all(looks));
        deleted.unwrap();
        refused(site.orchestrator().get_session(get(&id)).await, Code::NotFound);
        refused(site.send(&id, system("two")).await, Code::NotFound);
        let again = DeleteSessionRequest { session_id: id.clone() };
        refused(site.orchestrator().delete_session(again).await, Code::NotFound);
        let mut events = site
            .replay(EventFilter {
                session_id: id,
                ..EventFilter::default()
            })
            .await;
        assert_eq!(
            events.next().await.name,
            "session.deleted",
            "nothing else is left of it"
        );
    }
}

#[tokio::test]
async fn a_user_sees_its_own_sessions_and_events_only() {
    let site = Site::with(&[("common.require_token", "true")]).await;
    let file = site.root.token_file();
    let new = |name: &str, role| token::new(&file, name, role, &[], None).unwrap().text;
    let tokens = (new("me", Role::User), new("you", Role::User), new("root", Role::Admin));
    let (mut me, mut you, mut root) = (
        site.with_token(&tokens.0),
        site.with_token(&tokens.1),
        site.with_token(&tokens.2),
    );
    let mine = me
        .create_session(CreateSessionRequest::default())
        .await
        .unwrap()
        .into_inner()
        .session_id;
    let yours = you
        .create_session(CreateSessionRequest::default())
        .await
        .unwrap()
        .into_inner()
        .session_id;
    refused(you.get_session(get(&mine)).await, Code::NotFound);
    let close = CloseSessionRequest {
        session_id: mine.clone(),
        reason: String::new(),
    };
    refused(you.close_session(close).await, Code::NotFound);
    let listed = you
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.sessions.iter().map(|s| &s.id).collect::<Vec<_>>(), [&yours]);
    let all = root
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(all.total_count, 2);
    let replay = SubscribeEventsRequest {
        after_sequence: Some(0),
        ..SubscribeEventsRequest::default()
    };
    let mut events = you.subscribe_events(replay).await.unwrap().into_inner();
    let first = super::site::soon(events.message()).await.unwrap().unwrap();
    assert_eq!(
        (first.name.as_str(), &first.data["session_id"]),
        ("session.created", &yours)
    );
}
