//! The same message id is the same message, whenever and however often it is sent.

use nexus_proto::orchestrator::v1::MessageRole;
use tonic::Code;

use super::site::{Chat, Shown, Site, refused, system, user, with_id};

#[tokio::test]
async fn a_repeat_is_stored_once_and_gets_its_answer_again() {
    let mut site = Site::new().await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    let mut chat = site.chat(&session).await;
    chat.say(with_id("m-1", user("hi"))).await;
    let (request, _) = assistant.asked().await;
    chat.say(with_id("m-1", user("hi"))).await;
    assistant.answer(&request, "hello").await;
    assert_eq!(chat.answer().await, "hello");
    chat.say(with_id("m-1", user("hi"))).await;
    assert_eq!(chat.answer().await, "hello");
    let mut other = site.chat(&session).await;
    other.say(with_id("m-1", user("hi"))).await;
    assert_eq!(other.answer().await, "hello");
    site.restart().await;
    let mut later = site.chat(&session).await;
    later.say(with_id("m-1", user("hi"))).await;
    assert_eq!(later.answer().await, "hello");
    let again = site.send(&session, with_id("m-1", user("hi"))).await.unwrap();
    assert_eq!(again.message_id, "m-1");
    assert_eq!(site.said(&session).await.len(), 2);
}

#[tokio::test]
async fn another_message_under_the_same_id_is_refused() {
    let site = Site::new().await;
    let session = site.session().await;
    site.send(&session, with_id("x", system("one"))).await.unwrap();
    refused(
        site.send(&session, with_id("x", system("two"))).await,
        Code::AlreadyExists,
    );
    refused(
        site.send(&session, with_id("x", user("one"))).await,
        Code::AlreadyExists,
    );
    let mut chat = site.chat(&session).await;
    chat.say(with_id("x", system("two"))).await;
    assert!(chat.error().await.starts_with("ALREADY_EXISTS"));
    assert_eq!(site.said(&session).await.len(), 1);
    let other = site.session().await;
    site.send(&other, with_id("x", system("two"))).await.unwrap();
}

#[tokio::test]
async fn an_id_of_ours_is_known_again_too() {
    let site = Site::new().await;
    let session = site.session().await;
    let sent = site.send(&session, system("one")).await.unwrap();
    let again = site
        .send(&session, with_id(&sent.message_id, system("one")))
        .await
        .unwrap();
    assert_eq!(again, sent);
    refused(
        site.send(&session, with_id(&sent.message_id, system("two"))).await,
        Code::AlreadyExists,
    );
    assert_eq!(site.said(&session).await.len(), 1);
}

#[tokio::test]
async fn many_at_once_through_many_streams_are_stored_once_each() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut chats: Vec<Chat> = Vec::new();
    for _ in 0..4 {
        chats.push(site.chat(&session).await);
    }
    for n in 0..50 {
        for chat in &chats {
            chat.say(with_id(&format!("id-{n}"), system(&format!("{n}")))).await;
        }
    }
    for chat in &mut chats {
        chat.beat().await;
    }
    let calls = (0..50).map(|n| site.send(&session, with_id(&format!("id-{n}"), system(&format!("{n}")))));
    for sent in futures_util::future::join_all(calls).await {
        sent.unwrap();
    }
    let mut said: Vec<usize> = site
        .said(&session)
        .await
        .into_iter()
        .map(|(_, text)| text.parse().unwrap())
        .collect();
    said.sort_unstable();
    assert_eq!(said, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_repeat_after_a_failure_is_routed_again_and_answered_once() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut chat = site.chat(&session).await;
    chat.say(with_id("m", user("hi"))).await;
    chat.error().await;
    let mut assistant = site.assistant().await;
    let (mut one, mut two) = (site.chat(&session).await, site.chat(&session).await);
    one.say(with_id("m", user("hi"))).await;
    two.say(with_id("m", user("hi"))).await;
    site.send(&session, with_id("m", user("hi"))).await.unwrap();
    let (request, text) = assistant.asked().await;
    assert_eq!(text, "hi");
    assistant.answer(&request, "hello").await;
    assert_eq!(
        (one.answer().await, two.answer().await),
        ("hello".into(), "hello".into())
    );
    let said = site.said(&session).await;
    assert_eq!(
        said,
        [
            (MessageRole::User, "hi".into()),
            (MessageRole::Assistant, "hello".into())
        ]
    );
}

#[tokio::test]
async fn repeats_that_meet_the_answer_never_ask_twice() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    for round in 0..20 {
        let message = with_id(&format!("m-{round}"), user("hi"));
        site.send(&session, message.clone()).await.unwrap();
        let (request, _) = assistant.asked().await;
        // The answer is on its way to the disk while the repeats come in.
        assistant.answer(&request, "hello").await;
        let repeats = (0..8).map(|_| site.send(&session, message.clone()));
        for sent in futures_util::future::join_all(repeats).await {
            sent.unwrap();
        }
    }
    // Were one asked twice, it would be asked before this.
    site.send(&session, user("last")).await.unwrap();
    assert_eq!(assistant.asked().await.1, "last");
    assert_eq!(site.said(&session).await.len(), 41);
}

#[tokio::test]
async fn a_repeat_is_acknowledged_with_its_place() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut chat = site.open().await;
    let frame = nexus_proto::orchestrator::v1::StreamMessageRequest {
        session_id: session.clone(),
        acks: true,
        ..Default::default()
    };
    chat.put(frame).await;
    chat.say(with_id("a", system("one"))).await;
    chat.say(with_id("b", system("two"))).await;
    chat.say(with_id("a", system("one"))).await;
    for (id, sequence) in [("a", 1), ("b", 2), ("a", 1)] {
        assert_eq!(chat.next().await, Shown::Ack(id.into(), sequence));
    }
}
