//! What happens to sessions by itself, and the log that tells of it.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod fake;

use std::time::Duration;

use fake::{
    ask::{at, close, get, gone, named, next, past, subscribe},
    site::{Site, as_user, user},
};
use nexus_proto::{common::v1::Priority, gateway::v1::*, orchestrator::v1::SessionState};
use tonic::{Code, Streaming};

#[tokio::test]
async fn sessions_fall_asleep_wake_and_end_on_time() {
    let site = Site::new().await;
    let config = GatewaySessionConfig {
        idle_timeout_ns: 50_000_000,
        ..GatewaySessionConfig::default()
    };
    let (session, _) = site.session(Some(config)).await;
    let mut events = subscribe(&site, &session, Some(past(GatewayEventFilter::default()))).await;
    assert_eq!(next(&mut events).await.r#type(), GatewayEventType::SessionCreated);
    let asleep = next(&mut events).await;
    assert_eq!(
        (asleep.r#type(), asleep.data["state"].as_str()),
        (GatewayEventType::SessionUpdated, "idle")
    );
    let found = site
        .client()
        .get_gateway_session(get(&session))
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap();
    assert_eq!(found.state(), GatewaySessionState::Idle);
    let request = GatewaySendMessageRequest {
        session_id: session.clone(),
        message: Some(user("", "hi")),
    };
    site.client().gateway_send_message(request).await.unwrap();
    assert_eq!(next(&mut events).await.data["state"], "active");

    let config = GatewaySessionConfig {
        timeout_ns: 50_000_000,
        ..GatewaySessionConfig::default()
    };
    let (session, behind) = site.session(Some(config)).await;
    gone(&site, &session).await;
    site.fake
        .until("the orchestrator's side to close", |memory| {
            (memory.sessions[&behind].session.state() == SessionState::Closed).then_some(())
        })
        .await;
}

#[tokio::test]
async fn what_the_orchestrator_closes_is_closed_here() {
    let mut site = Site::new().await;
    let (session, behind) = site.session(None).await;
    site.fake
        .until("the watch", |memory| (!memory.subscribers.is_empty()).then_some(()))
        .await;
    site.fake.close(&behind);
    gone(&site, &session).await;

    // And what it closed while nobody was listening.
    let (session, behind) = site.session(None).await;
    site.kill_orchestrator();
    site.fake.memory().subscribers.clear();
    site.fake.close(&behind);
    site.start_orchestrator();
    gone(&site, &session).await;
}

async fn rest(events: &mut Streaming<GatewayEvent>) -> Vec<GatewayEvent> {
    let all = async {
        let mut all = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            all.push(event);
        }
        all
    };
    tokio::time::timeout(Duration::from_secs(10), all)
        .await
        .expect("the end of the events")
}

#[tokio::test]
async fn events_tell_the_story_live_and_again() {
    let mut site = Site::new().await;
    let mut live = subscribe(&site, "", None).await;
    let made = site
        .client()
        .create_gateway_session(named("a", "ann", "red"))
        .await
        .unwrap()
        .into_inner();
    let (session, behind) = (made.session_id, made.session.unwrap().orchestrator_session_id);
    let created = next(&mut live).await;
    assert_eq!(
        (created.r#type(), created.source.as_str()),
        (GatewayEventType::SessionCreated, "gateway.grpc")
    );
    assert_eq!(
        (
            created.data["gateway_session_id"].as_str(),
            created.data["orch_session_id"].as_str()
        ),
        (session.as_str(), behind.as_str())
    );
    let metadata = created.metadata.clone().unwrap();
    assert_eq!(
        (metadata.session_id.as_str(), metadata.user_id.as_str()),
        (session.as_str(), "ann")
    );
    assert_eq!(
        (metadata.labels["team"].as_str(), metadata.priority()),
        ("red", Priority::Normal)
    );

    site.fake.memory().echoes = true;
    let mut talk = site.chat().await;
    talk.say(&session, user("q", "hi")).await;
    talk.half_close();
    talk.read_until(StreamState::Complete).await;
    site.client().close_gateway_session(close(&session)).await.unwrap();
    let mut story = vec![created];
    while story.last().unwrap().r#type() != GatewayEventType::SessionClosed {
        story.push(next(&mut live).await);
    }
    let types: Vec<_> = story.iter().map(|event| event.r#type()).collect();
    for expected in [
        GatewayEventType::MessageSent,
        GatewayEventType::StreamStarted,
        GatewayEventType::MessageReceived,
        GatewayEventType::StreamComplete,
    ] {
        assert_eq!(
            types.iter().filter(|found| **found == expected).count(),
            1,
            "{expected:?} in {types:?}"
        );
    }
    let sequences: Vec<u64> = story
        .iter()
        .map(|event| event.data["sequence"].parse().unwrap())
        .collect();
    assert!(sequences.is_sorted_by(|a, b| a < b) && story.is_sorted_by(|a, b| a.id < b.id));

    site.restart_gateway().await;
    let over = GatewayEventFilter {
        end_time: Some(std::time::SystemTime::now().into()),
        ..past(GatewayEventFilter::default())
    };
    let again = rest(&mut subscribe(&site, &session, Some(over)).await).await;
    assert_eq!(again, story, "the same events with the same ids, and then the end");
}

#[tokio::test]
async fn event_filters_choose() {
    let site = Site::new().await;
    let mut client = site.client();
    let red = client
        .create_gateway_session(as_user(named("a", "ann", "red"), "7001"))
        .await
        .unwrap()
        .into_inner();
    let blue = client
        .create_gateway_session(as_user(named("b", "bob", "blue"), "7002"))
        .await
        .unwrap()
        .into_inner();
    client.close_gateway_session(close(&blue.session_id)).await.unwrap();
    let end_time = Some(std::time::SystemTime::now().into());
    let all = GatewayEventFilter {
        end_time,
        ..past(GatewayEventFilter::default())
    };
    let labels = [("team".to_owned(), "blue".to_owned())];
    for (session, filter, expected) in [
        ("", all.clone(), 3),
        (red.session_id.as_str(), all.clone(), 1),
        (
            "",
            GatewayEventFilter {
                r#type: GatewayEventType::SessionCreated.into(),
                ..all.clone()
            },
            2,
        ),
        (
            "",
            GatewayEventFilter {
                r#type: GatewayEventType::StreamChunk.into(),
                ..all.clone()
            },
            0,
        ),
        (
            "",
            GatewayEventFilter {
                source: "gateway.grpc".into(),
                ..all.clone()
            },
            3,
        ),
        (
            "",
            GatewayEventFilter {
                source: "elsewhere".into(),
                ..all.clone()
            },
            0,
        ),
        (
            "",
            GatewayEventFilter {
                priority: Priority::Normal.into(),
                ..all.clone()
            },
            3,
        ),
        (
            "",
            GatewayEventFilter {
                priority: Priority::Low.into(),
                ..all.clone()
            },
            0,
        ),
        (
            "",
            GatewayEventFilter {
                labels: labels.into(),
                ..all.clone()
            },
            2,
        ),
        (
            "",
            GatewayEventFilter {
                start_time: all.end_time,
                ..all.clone()
            },
            0,
        ),
        (
            "",
            GatewayEventFilter {
                end_time: Some(at(1)),
                ..all.clone()
            },
            0,
        ),
    ] {
        let found = rest(&mut subscribe(&site, session, Some(filter.clone())).await).await;
        assert_eq!(found.len(), expected, "{session} {filter:?} gave {found:?}");
    }
    let request = SubscribeToEventsRequest {
        session_id: String::new(),
        filter: Some(all),
    };
    let mut anns = client
        .subscribe_to_events(as_user(request, "7001"))
        .await
        .unwrap()
        .into_inner();
    let anns = rest(&mut anns).await;
    assert_eq!(anns.len(), 1, "only the caller's own");
    assert_eq!(anns[0].metadata.as_ref().unwrap().session_id, red.session_id);
}

#[tokio::test]
async fn a_stop_ends_open_streams() {
    let mut site = Site::new().await;
    let (session, _) = site.session(None).await;
    let mut events = subscribe(&site, &session, None).await;
    let mut talk = site.chat().await;
    talk.heartbeat(&session).await;
    talk.next().await.unwrap();
    site.gateway.take().unwrap().stop().await;
    assert_eq!(events.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(talk.next().await.unwrap_err().code(), Code::Unavailable);
}
