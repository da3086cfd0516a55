//! The calls that most tests make, failing the test where they fail.

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{
    CreateSessionRequest, DeleteSessionRequest, GetSessionRequest, Message, MessageRole, SendMessageRequest, Session,
    SessionMetadata,
};
use tonic::{Code, Status};

pub fn message(id: &str, role: MessageRole, content: &str) -> Message {
    Message {
        id: id.into(),
        role: role.into(),
        content: content.into(),
        ..Message::default()
    }
}

pub async fn create(connection: &Connection, name: &str) -> String {
    let metadata = SessionMetadata {
        name: name.into(),
        ..SessionMetadata::default()
    };
    let request = CreateSessionRequest {
        metadata: Some(metadata),
        config: None,
    };
    let answer = connection.orchestrator().create_session(request).await;
    answer.expect("a session can be made").into_inner().session_id
}

pub async fn session(connection: &Connection, id: &str) -> Session {
    find(connection, id).await.expect("the session is there")
}

pub async fn find(connection: &Connection, id: &str) -> Result<Session, Status> {
    let request = GetSessionRequest {
        session_id: id.into(),
        ..GetSessionRequest::default()
    };
    let answer = connection.orchestrator().get_session(request).await?;
    Ok(answer.into_inner().session.expect("an answer has its session"))
}

pub async fn messages(connection: &Connection, id: &str) -> Vec<Message> {
    session(connection, id).await.context.unwrap_or_default().messages
}

pub async fn delete(connection: &Connection, id: &str) {
    let request = DeleteSessionRequest { session_id: id.into() };
    connection
        .orchestrator()
        .delete_session(request)
        .await
        .expect("a session can be deleted");
}

/// Stores a message by the unary call; the answer is its id.
pub async fn send(connection: &Connection, session: &str, message: Message) -> Result<String, Status> {
    let request = SendMessageRequest {
        session_id: session.into(),
        message: Some(message),
    };
    let answer = connection.orchestrator().send_message(request).await?;
    Ok(answer.into_inner().message_id)
}

/// Says which code a call has to be refused with.
#[track_caller]
pub fn refused<T>(answer: Result<T, Status>, code: Code) -> Status {
    match answer {
        Ok(_) => panic!("it was taken, and should have been refused with {code:?}"),
        Err(status) => {
            assert_eq!(status.code(), code, "{status:?}");
            status
        }
    }
}

/// Every message has the place it says, from 1, without a hole; no id comes twice.
#[track_caller]
pub fn in_order(messages: &[Message]) {
    let mut ids = std::collections::BTreeSet::new();
    for (place, message) in (1..).zip(messages) {
        assert_eq!(message.sequence, place, "the order of the session at {message:?}");
        assert!(ids.insert(&message.id), "{} is there twice", message.id);
    }
}
