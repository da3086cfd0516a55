//! StreamMessages: joining, resuming, heartbeats, ends, and readers that do not read.

use nexus_proto::orchestrator::v1::{CloseSessionRequest, MessageRole, StreamMessageRequest, stream_message_request};
use tonic::Code;

use super::site::{Shown, Site, refused, system, user};

fn resume(session: &str, after: u64) -> StreamMessageRequest {
    StreamMessageRequest {
        session_id: session.into(),
        after_sequence: Some(after),
        ..StreamMessageRequest::default()
    }
}

#[tokio::test]
async fn a_heartbeat_comes_back_before_anything_else_and_to_its_sender_only() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut early = site.open().await;
    assert!(early.beat().await.is_empty());
    let beat = Some(stream_message_request::Payload::Heartbeat(()));
    let unknown = StreamMessageRequest {
        session_id: "nothing".into(),
        payload: beat.clone(),
        ..StreamMessageRequest::default()
    };
    early.put(unknown).await;
    assert_eq!(early.next().await, Shown::Beat, "only a heartbeat");
    let mut other = site.chat(&session).await;
    let joins = StreamMessageRequest {
        session_id: session.clone(),
        payload: beat,
        ..StreamMessageRequest::default()
    };
    early.put(joins).await;
    assert_eq!(early.next().await, Shown::Beat);
    other.say(user("hi")).await;
    assert_eq!(early.next().await, Shown::User("hi".into()), "the heartbeat joined");
    other.error().await;
    assert!(other.beat().await.is_empty(), "nobody else's heartbeats are seen");
}

#[tokio::test]
async fn a_stream_resumes_after_a_message_and_goes_on_live() {
    let mut site = Site::new().await;
    let session = site.session().await;
    for n in 1..=200 {
        site.send(&session, system(&format!("{n}"))).await.unwrap();
    }
    for _ in 0..2 {
        let mut chat = site.open().await;
        chat.put(resume(&session, 50)).await;
        for n in 51..=200 {
            assert_eq!(chat.next().await, Shown::Message(MessageRole::System, format!("{n}")));
        }
        site.restart().await;
    }
    let mut chat = site.open().await;
    chat.put(resume(&session, 200)).await;
    chat.beat().await;
    site.send(&session, system("live")).await.unwrap();
    assert_eq!(chat.next().await, Shown::Message(MessageRole::System, "live".into()));
    let mut beyond = site.open().await;
    beyond.put(resume(&session, 202)).await;
    refused(beyond.end().await, Code::OutOfRange);
}

#[tokio::test]
async fn a_client_that_sends_and_does_not_read_never_gets_its_own_words() {
    let site = Site::new().await;
    let session = site.session().await;
    let (mut sends, mut reads) = (site.chat(&session).await, site.chat(&session).await);
    // Far more than is kept in memory: the rest comes from disk when it is looked for.
    for n in 0..300 {
        sends.say(system(&format!("{n}"))).await;
    }
    for n in 0..300 {
        assert_eq!(reads.next().await, Shown::Message(MessageRole::System, format!("{n}")));
    }
    assert!(sends.beat().await.is_empty());
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut stuck = site.chat(&session).await;
    let mut reads = site.chat(&session).await;
    let text = "x".repeat(64 << 10);
    for _ in 0..100 {
        site.send(&session, system(&text)).await.unwrap();
        assert_eq!(reads.next().await, Shown::Message(MessageRole::System, text.clone()));
    }
    for _ in 0..100 {
        assert_eq!(
            stuck.next().await,
            Shown::Message(MessageRole::System, text.clone()),
            "nothing is lost to it"
        );
    }
}

#[tokio::test]
async fn a_half_closed_stream_gets_what_it_is_owed_then_ok() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    let mut chat = site.chat(&session).await;
    chat.say(user("one")).await;
    chat.say(user("two")).await;
    chat.half_close();
    for text in ["one", "two"] {
        let (request, asked) = assistant.asked().await;
        assert_eq!(asked, text);
        assistant.answer(&request, text).await;
        assert_eq!(chat.answer().await, text);
    }
    assert_eq!(chat.end().await.unwrap(), None);
    let mut silent = site.open().await;
    silent.half_close();
    assert_eq!(silent.end().await.unwrap(), None);
}

#[tokio::test]
async fn what_is_wrong_with_a_stream_ends_it_with_a_reason() {
    let site = Site::new().await;
    let mut nameless = site.open().await;
    nameless.say(user("hi")).await;
    assert_eq!(
        refused(nameless.end().await, Code::InvalidArgument),
        "first message must contain session_id"
    );
    let mut unknown = site.open().await;
    unknown
        .put(StreamMessageRequest {
            session_id: "nothing".into(),
            ..StreamMessageRequest::default()
        })
        .await;
    assert_eq!(
        refused(unknown.end().await, Code::NotFound),
        "session not found: nothing"
    );
    let session = site.session().await;
    let close = CloseSessionRequest {
        session_id: session.clone(),
        reason: String::new(),
    };
    site.orchestrator().close_session(close).await.unwrap();
    let mut closed = site.open().await;
    closed
        .put(StreamMessageRequest {
            session_id: session.clone(),
            ..StreamMessageRequest::default()
        })
        .await;
    let message = refused(closed.end().await, Code::FailedPrecondition);
    assert_eq!(message, format!("session is not active: {session} (state: closed)"));
}

#[tokio::test]
async fn a_message_that_cannot_be_taken_is_told_in_the_stream() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut chat = site.chat(&session).await;
    let mut strange = user("hi");
    strange.role = 77;
    chat.say(strange).await;
    assert!(chat.error().await.starts_with("INVALID_ARGUMENT"));
    let mut long = user("hi");
    long.id = "x".repeat(300);
    chat.say(long).await;
    assert!(chat.error().await.starts_with("INVALID_ARGUMENT"));
    assert!(site.said(&session).await.is_empty());
}

#[tokio::test]
async fn the_server_stops_with_streams_open() {
    let mut site = Site::new().await;
    let session = site.session().await;
    let mut chat = site.chat(&session).await;
    let mut assistant = site.assistant().await;
    chat.say(user("hi")).await;
    assistant.asked().await;
    site.stop().await;
    refused(chat.end().await, Code::Unavailable);
}
