//! SubscribeEvents: filters, cursors, times, ends.

use std::time::SystemTime;

use nexus_proto::common::v1::Priority;
use nexus_proto::orchestrator::v1::*;
use tonic::{Code, Request};

use super::site::{Site, refused, system};

fn labelled(name: &str, value: &str) -> CreateSessionRequest {
    let labels = [(name.to_owned(), value.to_owned())].into();
    let metadata = SessionMetadata {
        labels,
        ..SessionMetadata::default()
    };
    CreateSessionRequest {
        metadata: Some(metadata),
        ..CreateSessionRequest::default()
    }
}

#[tokio::test]
async fn every_field_of_a_filter_counts() {
    let site = Site::new().await;
    let mut client = site.orchestrator();
    let red = client
        .create_session(labelled("colour", "red"))
        .await
        .unwrap()
        .into_inner()
        .session_id;
    let blue = client
        .create_session(labelled("colour", "blue"))
        .await
        .unwrap()
        .into_inner()
        .session_id;
    for session in [&red, &blue] {
        site.send(session, system("hi")).await.unwrap();
    }
    site.register("worker").await;
    let labels = [("colour".to_owned(), "red".to_owned())].into();
    let mut of_red = site
        .replay(EventFilter {
            labels,
            ..EventFilter::default()
        })
        .await;
    assert_eq!(of_red.next().await.name, "session.created");
    let sent = of_red.next().await;
    assert_eq!(
        (sent.name.as_str(), &sent.metadata.unwrap().session_id),
        ("message.sent", &red)
    );
    let mut of_blue = site
        .replay(EventFilter {
            session_id: blue.clone(),
            ..EventFilter::default()
        })
        .await;
    assert_eq!(of_blue.next().await.data["session_id"], blue);
    let r#type = EventType::SessionCreated.into();
    let mut created = site
        .replay(EventFilter {
            r#type,
            ..EventFilter::default()
        })
        .await;
    assert_eq!(
        (created.next().await.name, created.next().await.name),
        ("session.created".into(), "session.created".into())
    );
    let mut agents = site
        .replay(EventFilter {
            source: "agent.grpc".into(),
            ..EventFilter::default()
        })
        .await;
    assert_eq!(agents.next().await.name, "agent.registered");
    let names = vec!["agent.registered".into(), "system.startup".into()];
    let mut named = site
        .replay(EventFilter {
            names,
            ..EventFilter::default()
        })
        .await;
    assert_eq!(
        (named.next().await.name, named.next().await.name),
        ("system.startup".into(), "agent.registered".into())
    );
    let filter = EventFilter {
        priority: Priority::Critical.into(),
        end_time: Some(SystemTime::now().into()),
        ..EventFilter::default()
    };
    assert_eq!(
        site.replay(filter).await.end().await.unwrap(),
        None,
        "none has this priority"
    );
}

#[tokio::test]
async fn from_a_time_on_and_until_a_time() {
    let site = Site::new().await;
    let session = site.session().await;
    site.send(&session, system("one")).await.unwrap();
    let mut all = site.replay(EventFilter::default()).await;
    let one = all.of("message.sent").await;
    site.send(&session, system("two")).await.unwrap();
    let two = all.of("message.sent").await;
    let filter = EventFilter {
        start_time: one.timestamp,
        end_time: one.timestamp,
        ..EventFilter::default()
    };
    let mut events = site
        .events(SubscribeEventsRequest {
            filter: Some(filter),
            after_sequence: None,
        })
        .await
        .unwrap();
    assert_eq!(events.next().await, one);
    assert_eq!(events.end().await.unwrap(), None, "what came later is beyond its end");
    let filter = EventFilter {
        start_time: two.timestamp,
        ..EventFilter::default()
    };
    let mut events = site
        .events(SubscribeEventsRequest {
            filter: Some(filter),
            after_sequence: None,
        })
        .await
        .unwrap();
    assert_eq!(events.next().await, two);
    let soon = SystemTime::now() + std::time::Duration::from_millis(150);
    let filter = EventFilter {
        end_time: Some(soon.into()),
        ..EventFilter::default()
    };
    let mut live = site
        .events(SubscribeEventsRequest {
            filter: Some(filter),
            after_sequence: None,
        })
        .await
        .unwrap();
    assert_eq!(live.end().await.unwrap(), None);
    assert!(SystemTime::now() >= soon);
    let backwards = EventFilter {
        start_time: two.timestamp,
        end_time: Some(Default::default()),
        ..EventFilter::default()
    };
    let request = SubscribeEventsRequest {
        filter: Some(backwards),
        after_sequence: None,
    };
    refused(site.events(request).await.map(drop), Code::InvalidArgument);
}

#[tokio::test]
async fn a_message_happens_when_it_is_stored_whatever_its_sender_says() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut future = system("from the future");
    future.timestamp = Some(nexus_proto::Timestamp {
        seconds: 33_000_000_000,
        nanos: 0,
    });
    site.send(&session, future).await.unwrap();
    site.send(&session, system("now")).await.unwrap();
    let names = vec!["message.sent".to_owned()];
    let filter = EventFilter {
        names,
        end_time: Some(SystemTime::now().into()),
        ..EventFilter::default()
    };
    let mut events = site.replay(filter).await;
    assert!(events.end().await.unwrap().is_some() && events.end().await.unwrap().is_some());
    assert_eq!(events.end().await.unwrap(), None);
    let kept = site.get(&session).await.context.unwrap().messages[0].timestamp;
    assert_eq!(kept.unwrap().seconds, 33_000_000_000, "the message keeps its own");
}

#[tokio::test]
async fn a_cursor_beyond_the_head_or_of_another_log_is_refused() {
    let site = Site::new().await;
    let beyond = SubscribeEventsRequest {
        after_sequence: Some(1_000_000),
        ..SubscribeEventsRequest::default()
    };
    refused(site.events(beyond).await.map(drop), Code::OutOfRange);
    let mut request = Request::new(SubscribeEventsRequest {
        after_sequence: Some(0),
        ..Default::default()
    });
    request
        .metadata_mut()
        .insert("nexus-log-id", "another".parse().unwrap());
    refused(
        site.orchestrator().subscribe_events(request).await.map(drop),
        Code::OutOfRange,
    );
}

#[tokio::test]
async fn readers_that_come_and_go_while_others_write_miss_nothing() {
    // So little memory that every reader has to go to the disk again and again.
    let site = Site::with(&[("event_memory_bytes", "4KiB")]).await;
    let session = site.session().await;
    let mut chat = site.open().await;
    let frame = StreamMessageRequest {
        session_id: session.clone(),
        acks: true,
        ..StreamMessageRequest::default()
    };
    chat.put(frame).await;
    let writes = async {
        for n in 0..1500 {
            chat.say(system(&format!("{n}"))).await;
            chat.next().await;
        }
    };
    let reads = (0..4).map(|_| async {
        let names = vec!["message.sent".to_owned()];
        let (mut seen, mut after) = (0, 0);
        while seen < 1500 {
            let filter = EventFilter {
                names: names.clone(),
                ..EventFilter::default()
            };
            let request = SubscribeEventsRequest {
                filter: Some(filter),
                after_sequence: Some(after),
            };
            let mut events = site.events(request).await.unwrap();
            for _ in 0..100.min(1500 - seen) {
                let event = events.next().await;
                assert!(event.gap.is_none() && event.sequence > after);
                after = event.sequence;
                seen += 1;
                let n = u64::from_str_radix(&event.data["message_id"][..16], 16).unwrap();
                assert_eq!(n, seen, "in order, none left out");
            }
        }
    });
    tokio::join!(writes, futures_util::future::join_all(reads));
}

#[tokio::test]
async fn agents_come_and_go_in_the_log() {
    let site = Site::new().await;
    let mut events = site.events(SubscribeEventsRequest::default()).await.unwrap();
    let assistant = site.assistant().await;
    let id = assistant.id.clone();
    assert_eq!(events.of("agent.registered").await.data["agent_id"], id);
    drop(assistant);
    assert_eq!(events.of("agent.lost").await.data["agent_id"], id);
    let assistant = site.link(&id).await;
    assert_eq!(events.of("agent.recovered").await.data["agent_id"], id);
    drop(assistant);
    events.of("agent.lost").await;
}
