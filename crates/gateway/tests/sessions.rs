//! Sessions, as a client sees them.

mod fake;

use std::time::Duration;

use fake::{
    ask::{close, get, named},
    site::{Site, as_user, user, with_key},
};
use nexus_proto::{
    agent::v1::AgentType,
    common::v1::{Health, Status as WireStatus},
    gateway::v1::*,
    orchestrator::v1::SessionState,
};
use tonic::Code;

#[tokio::test]
async fn a_session_stands_before_one_of_the_orchestrators() {
    let site = Site::new().await;
    let mut client = site.client();
    let config = GatewaySessionConfig {
        timeout_ns: 3_600_000_000_000,
        idle_timeout_ns: 60_000_000_000,
        enable_streaming: true,
        ..GatewaySessionConfig::default()
    };
    let request = CreateGatewaySessionRequest {
        config: Some(config.clone()),
        ..named("web", "ann", "red")
    };
    let made = client.create_gateway_session(request).await.unwrap().into_inner();
    let session = made.session.unwrap();
    assert_eq!((made.session_id.as_str(), session.id.len()), (session.id.as_str(), 32));
    assert!(
        session
            .id
            .chars()
            .all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
    );
    assert_eq!(
        (session.state(), session.status()),
        (GatewaySessionState::Active, WireStatus::Running)
    );
    assert_eq!(session.config.as_ref(), Some(&config));
    assert!(session.expires_at.is_some() && session.created_at.is_some() && session.closed_at.is_none());
    {
        let memory = site.fake.memory();
        let behind = &memory.sessions[&session.orchestrator_session_id].session;
        assert_eq!(behind.metadata.as_ref().unwrap().owner_id, "ann");
        let behind = behind.context.as_ref().unwrap().config.as_ref().unwrap();
        assert_eq!(
            (behind.max_duration_ns, behind.idle_timeout_ns),
            (config.timeout_ns, config.idle_timeout_ns)
        );
    }
    assert_eq!(
        client
            .get_gateway_session(get(&session.id))
            .await
            .unwrap()
            .into_inner()
            .session,
        Some(session.clone())
    );

    let closed = client
        .close_gateway_session(close(&session.id))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (closed.session_id.as_str(), closed.state()),
        (session.id.as_str(), GatewaySessionState::Closed)
    );
    let status = client.get_gateway_session(get(&session.id)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "gateway session not found")
    );
    assert_eq!(
        nexus_daemon::status::reason(&status).as_deref(),
        Some("GATEWAY_SESSION_NOT_FOUND")
    );
    assert_eq!(
        client
            .close_gateway_session(close(&session.id))
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    let memory = site.fake.memory();
    assert_eq!(
        memory.sessions[&session.orchestrator_session_id].session.state(),
        SessionState::Closed
    );
}

#[tokio::test]
async fn absent_metadata_is_empty() {
    let site = Site::new().await;
    let made = site
        .client()
        .create_gateway_session(CreateGatewaySessionRequest::default())
        .await
        .unwrap();
    let session = made.into_inner().session.unwrap();
    assert_eq!(session.metadata, Some(GatewaySessionMetadata::default()));
    assert_eq!(session.state(), GatewaySessionState::Active);
}

#[tokio::test]
async fn users_see_and_use_only_what_they_made() {
    let site = Site::new().await;
    let mut client = site.client();
    let ann = client
        .create_gateway_session(as_user(named("a", "ann", "red"), "7001"))
        .await
        .unwrap()
        .into_inner();
    let bob = client
        .create_gateway_session(as_user(named("b", "bob", "red"), "7002"))
        .await
        .unwrap()
        .into_inner();

    let all = ListGatewaySessionsRequest::default();
    let seen = client
        .list_gateway_sessions(as_user(all.clone(), "7001"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (seen.total_count, seen.sessions[0].id.as_str()),
        (1, ann.session_id.as_str())
    );
    let seen = client.list_gateway_sessions(all).await.unwrap().into_inner();
    assert_eq!(seen.total_count, 2, "an admin sees all");

    let foreign = bob.session_id.as_str();
    let not_found = |status: tonic::Status| assert_eq!(status.code(), Code::NotFound, "{status:?}");
    not_found(
        client
            .get_gateway_session(as_user(get(foreign), "7001"))
            .await
            .unwrap_err(),
    );
    not_found(
        client
            .close_gateway_session(as_user(close(foreign), "7001"))
            .await
            .unwrap_err(),
    );
    let message = Some(user("", "psst"));
    let send = GatewaySendMessageRequest {
        session_id: foreign.into(),
        message,
    };
    not_found(client.gateway_send_message(as_user(send, "7001")).await.unwrap_err());
    let responses = StreamResponsesRequest {
        session_id: foreign.into(),
        ..StreamResponsesRequest::default()
    };
    not_found(client.stream_responses(as_user(responses, "7001")).await.unwrap_err());
    let events = SubscribeToEventsRequest {
        session_id: foreign.into(),
        filter: None,
    };
    not_found(client.subscribe_to_events(as_user(events, "7001")).await.unwrap_err());
    let frame = StreamChatRequest {
        session_id: foreign.into(),
        payload: None,
    };
    let chat = client
        .stream_chat(as_user(tokio_stream::iter([frame]), "7001"))
        .await
        .unwrap();
    not_found(chat.into_inner().message().await.unwrap_err());
}

#[tokio::test]
async fn lists_are_filtered() {
    let site = Site::new().await;
    let mut client = site.client();
    for (name, user, label) in [("1", "ann", "red"), ("2", "ann", "blue"), ("3", "bob", "red")] {
        client.create_gateway_session(named(name, user, label)).await.unwrap();
    }
    let none = GatewaySessionFilter::default();
    let red = [("team".to_owned(), "red".to_owned())];
    for (filter, expected) in [
        (none.clone(), &["1", "2", "3"][..]),
        (
            GatewaySessionFilter {
                user_id: "ann".into(),
                ..none.clone()
            },
            &["1", "2"],
        ),
        (
            GatewaySessionFilter {
                labels: red.clone().into(),
                ..none.clone()
            },
            &["1", "3"],
        ),
        (
            GatewaySessionFilter {
                labels: red.into(),
                user_id: "ann".into(),
                ..none.clone()
            },
            &["1"],
        ),
        (
            GatewaySessionFilter {
                state: GatewaySessionState::Active.into(),
                ..none.clone()
            },
            &["1", "2", "3"],
        ),
        (
            GatewaySessionFilter {
                state: GatewaySessionState::Idle.into(),
                ..none.clone()
            },
            &[],
        ),
        (
            GatewaySessionFilter {
                status: WireStatus::Running.into(),
                ..none.clone()
            },
            &["1", "2", "3"],
        ),
        (
            GatewaySessionFilter {
                status: WireStatus::Stopped.into(),
                ..none.clone()
            },
            &[],
        ),
    ] {
        let request = ListGatewaySessionsRequest {
            filter: Some(filter.clone()),
        };
        let found = client.list_gateway_sessions(request).await.unwrap().into_inner();
        let names: Vec<_> = found
            .sessions
            .iter()
            .map(|s| s.metadata.as_ref().unwrap().name.as_str())
            .collect();
        assert_eq!(
            (names.as_slice(), found.total_count as usize),
            (expected, expected.len()),
            "{filter:?}"
        );
    }
    let request = ListGatewaySessionsRequest {
        filter: Some(GatewaySessionFilter { state: 99, ..none }),
    };
    assert_eq!(
        client.list_gateway_sessions(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let mut site = Site::new().await;
    let mut client = site.client();
    let made = client
        .create_gateway_session(with_key(named("a", "ann", "red"), "k1"))
        .await
        .unwrap()
        .into_inner();
    let closed = client
        .create_gateway_session(named("b", "bob", "red"))
        .await
        .unwrap()
        .into_inner();
    client.close_gateway_session(close(&closed.session_id)).await.unwrap();
    site.restart_gateway().await;
    let mut client = site.client();
    let all = client
        .list_gateway_sessions(ListGatewaySessionsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(all.sessions, [made.session.clone().unwrap()]);
    let again = client
        .create_gateway_session(with_key(named("a", "ann", "red"), "k1"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, made, "and the key is still known");
    let (session, behind) = (made.session_id, made.session.unwrap().orchestrator_session_id);
    let request = GatewaySendMessageRequest {
        session_id: session,
        message: Some(user("m", "still here")),
    };
    client.gateway_send_message(request).await.unwrap();
    assert_eq!(site.fake.asked(&behind, "still here").await, "m");
}

#[tokio::test]
async fn the_same_key_is_the_same_request() {
    let site = Site::new().await;
    let mut client = site.client();
    let first = client
        .create_gateway_session(with_key(named("a", "ann", "red"), "k"))
        .await
        .unwrap()
        .into_inner();
    let again = client
        .create_gateway_session(with_key(named("a", "ann", "red"), "k"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first, again);
    assert_eq!(site.fake.memory().sessions.len(), 1);
    let other = client
        .create_gateway_session(with_key(named("z", "ann", "red"), "k"))
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument);
    let mut foreign = as_user(named("a", "ann", "red"), "7001");
    foreign.metadata_mut().insert("idempotency-key", "k".parse().unwrap());
    let foreign = client.create_gateway_session(foreign).await.unwrap().into_inner();
    assert_ne!(foreign.session_id, first.session_id, "keys are the caller's own");

    let send = |text: &str| GatewaySendMessageRequest {
        session_id: first.session_id.clone(),
        message: Some(user("", text)),
    };
    let one = client
        .gateway_send_message(with_key(send("hi"), "m"))
        .await
        .unwrap()
        .into_inner();
    let two = client
        .gateway_send_message(with_key(send("hi"), "m"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(one, two);
    let other = client
        .gateway_send_message(with_key(send("ho"), "m"))
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument);
    let behind = &first.session.as_ref().unwrap().orchestrator_session_id;
    assert_eq!(site.fake.memory().sessions[behind].messages.len(), 1);

    for _ in 0..2 {
        let closed = client
            .close_gateway_session(with_key(close(&first.session_id), "c"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(closed.state(), GatewaySessionState::Closed);
    }
}

#[tokio::test]
async fn a_message_id_chosen_by_the_client_is_one_message() {
    let site = Site::new().await;
    let (session, behind) = site.session(None).await;
    let request = GatewaySendMessageRequest {
        session_id: session.clone(),
        message: Some(user("mine", "hi")),
    };
    for _ in 0..2 {
        let sent = site
            .client()
            .gateway_send_message(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (sent.message_id.as_str(), sent.session_id.as_str()),
            ("mine", session.as_str())
        );
        assert!(sent.timestamp.is_some());
    }
    assert_eq!(site.fake.memory().sessions[&behind].messages.len(), 1);
    let request = GatewaySendMessageRequest {
        session_id: session,
        message: Some(user("mine", "other")),
    };
    assert_eq!(
        site.client().gateway_send_message(request).await.unwrap_err().code(),
        Code::AlreadyExists
    );
}

#[tokio::test]
async fn it_registers_and_says_how_it_is() {
    let mut site = Site::new().await;
    let register = site
        .fake
        .until("a registration", |memory| memory.registered.first().cloned())
        .await;
    assert_eq!(
        (register.name.as_str(), register.r#type()),
        ("gateway", AgentType::Gateway)
    );
    let labels = register.metadata.unwrap().labels;
    assert_eq!(
        labels["nexus.socket"],
        site.gateway.as_ref().unwrap().socket().display().to_string()
    );
    assert_eq!(
        (labels["nexus.services"].as_str(), labels["nexus.protocol"].as_str()),
        ("gateway.v1.GatewayService", "1")
    );

    let mut client = site.client();
    let until = async |client: &mut fake::site::Client, wanted| {
        let wait = async { while client.health_check(()).await.unwrap().into_inner().health() != wanted {} };
        tokio::time::timeout(Duration::from_secs(5), wait)
            .await
            .expect("the health to change");
    };
    until(&mut client, Health::Healthy).await;
    site.session(None).await;
    let status = client.get_status(()).await.unwrap().into_inner();
    assert_eq!(
        (status.status(), status.active_sessions, status.active_streams),
        (WireStatus::Running, 1, 0)
    );
    assert_eq!(
        status.uptime.unwrap().seconds,
        0,
        "the epoch plus the time it has been up"
    );
    assert!(status.started_at.unwrap().seconds > 1_700_000_000);

    site.kill_orchestrator();
    until(&mut client, Health::Degraded).await;
    let status = client
        .create_gateway_session(CreateGatewaySessionRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("nexus up"), "{}", status.message());
    site.start_orchestrator();
    until(&mut client, Health::Healthy).await;
    // What could not be made before leaves nothing open.
    let open = |memory: &mut fake::Memory| {
        memory
            .sessions
            .values()
            .filter(|k| k.session.state() != SessionState::Closed)
            .count()
    };
    site.fake
        .until("the clean-up", |memory| (open(memory) == 1).then_some(()))
        .await;
}
