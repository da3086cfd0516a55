//! Frames in the wrong order, and messages that are too large.

use nexus_proto::orchestrator::v1::{self as orchestrator, MessageRole, StreamMessageRequest, stream_message_request};
use nexus_tests::{Daemon, Frame, Site, Talk, ask, raw};
use prost::Message;
use tonic::Code;

use crate::refused::NOBODY;

fn first(session: &str, payload: Option<stream_message_request::Payload>) -> StreamMessageRequest {
    StreamMessageRequest {
        session_id: session.into(),
        payload,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_stream_in_the_wrong_order_is_told_so() {
    use stream_message_request::Payload;
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "order").await;
    let words = || Payload::Message(ask::message("", MessageRole::User, "too early"));
    let talk = async |frames: Vec<StreamMessageRequest>| {
        let bytes = frames.iter().map(|frame| raw::framed(&frame.encode_to_vec())).collect();
        let path = "/orchestrator.v1.OrchestratorService/StreamMessages";
        raw::call(
            &connection,
            path,
            raw::Call {
                bytes,
                ..Default::default()
            },
        )
        .await
    };
    // Half-closed at once, with nothing said.
    assert_eq!(talk(vec![]).await.code(), Code::Ok);
    assert_eq!(talk(vec![first(&session, None)]).await.code(), Code::Ok);
    // A heartbeat needs no session, and one that does not exist is only a heartbeat.
    for id in ["", NOBODY] {
        let answer = talk(vec![first(id, Some(Payload::Heartbeat(())))]).await;
        assert_eq!((answer.code(), answer.messages.len()), (Code::Ok, 1), "{id}");
    }
    assert_eq!(talk(vec![first("", Some(words()))]).await.code(), Code::InvalidArgument);
    assert_eq!(talk(vec![first("", None)]).await.code(), Code::InvalidArgument);
    assert_eq!(
        talk(vec![first("", Some(Payload::Cancel(Default::default())))])
            .await
            .code(),
        Code::InvalidArgument
    );
    assert_eq!(talk(vec![first(NOBODY, Some(words()))]).await.code(), Code::NotFound);
    // A message in the middle that cannot be read ends the stream; what came before it is stored.
    let said = first(
        &session,
        Some(Payload::Message(ask::message("kept", MessageRole::System, "kept"))),
    );
    let bytes = vec![raw::framed(&said.encode_to_vec()), raw::framed(&[0xff; 40])];
    let path = "/orchestrator.v1.OrchestratorService/StreamMessages";
    let call = raw::Call {
        bytes,
        stays_open: true,
        ..Default::default()
    };
    let answer = raw::call(&connection, path, call).await;
    assert_eq!(answer.code(), Code::InvalidArgument, "{:?}", answer.status);
    let messages = ask::messages(&connection, &session).await;
    assert_eq!(
        messages.iter().map(|message| &*message.id).collect::<Vec<_>>(),
        ["kept"]
    );

    // What is wrong with one message is told in band, and the stream goes on for the next.
    let mut talk = Talk::open(&connection, &session, None, true).await.unwrap();
    let mut odd = ask::message("odd", MessageRole::System, "x");
    odd.role = 99;
    talk.message(odd).await;
    match talk.next().await.unwrap() {
        Some(Frame::Failed { message_id, error }) => {
            assert_eq!(message_id, "odd");
            assert!(error.starts_with("INVALID_ARGUMENT"), "{error}");
        }
        other => panic!("a refusal was due, not {other:?}"),
    }
    // Nothing runs that could be cancelled.
    talk.cancel("nothing").await;
    talk.cancel("").await;
    talk.message(ask::message("good", MessageRole::System, "y")).await;
    assert_eq!(
        talk.next().await.unwrap(),
        Some(Frame::Ack {
            message_id: "good".into(),
            sequence: 2
        })
    );
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_one_below_it_is_kept() {
    const LIMIT: usize = 100 << 20;
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "large").await;
    let path = "/orchestrator.v1.OrchestratorService/SendMessage";
    let request = |bytes: usize| {
        let message = Some(ask::message("", MessageRole::System, &"z".repeat(bytes)));
        let request = orchestrator::SendMessageRequest {
            session_id: session.clone(),
            message,
        };
        raw::Call::message(&request.encode_to_vec())
    };
    let answer = raw::call(&connection, path, request(LIMIT + 1)).await;
    assert_eq!(answer.code(), Code::ResourceExhausted, "{:?}", answer.status);
    // A large one that fits, there and back.
    let answer = raw::call(&connection, path, request(40 << 20)).await;
    assert_eq!(answer.code(), Code::Ok, "{:?}", answer.status);
    let messages = ask::messages(&connection, &session).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].content.len(), 40 << 20);
    // An answer that outgrows the limit names what to ask for instead.
    for _ in 0..2 {
        assert_eq!(raw::call(&connection, path, request(40 << 20)).await.code(), Code::Ok);
    }
    let status = ask::refused(ask::find(&connection, &session).await, Code::ResourceExhausted);
    assert!(status.message().contains("message_limit"), "{status:?}");
    let get = orchestrator::GetSessionRequest {
        session_id: session,
        message_limit: 1,
        messages_before: 0,
    };
    let newest = connection
        .orchestrator()
        .get_session(get)
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap();
    assert_eq!(newest.context.unwrap().messages[0].sequence, 3);
}
