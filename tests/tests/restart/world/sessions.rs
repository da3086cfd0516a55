//! Sessions with all they can hold.

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{
    CloseSessionRequest, CreateSessionRequest, ListSessionsRequest, Message, MessageMetadata, MessageRole, Session,
    SessionConfig, SessionContext, SessionMetadata, SessionPolicy, SessionState, UpdateSessionRequest, UserPreferences,
};
use nexus_tests::{Talk, ask};
use tonic::Code;

const HOUR: i64 = 3600 * 1_000_000_000;

pub async fn make(connection: &Connection) -> Vec<String> {
    let full = full(connection).await;
    let closed = ask::create(connection, "closed").await;
    ask::send(
        connection,
        &closed,
        ask::message("last", MessageRole::System, "the last word"),
    )
    .await
    .unwrap();
    let request = CloseSessionRequest {
        session_id: closed.clone(),
        reason: "done".into(),
    };
    connection.orchestrator().close_session(request).await.unwrap();
    let bare = connection
        .orchestrator()
        .create_session(CreateSessionRequest::default())
        .await;
    vec![full, closed, bare.unwrap().into_inner().session_id]
}

async fn full(connection: &Connection) -> String {
    let metadata = SessionMetadata {
        name: "full".into(),
        description: "with everything".into(),
        labels: [
            ("client".to_owned(), "tui".to_owned()),
            ("team".to_owned(), "red".to_owned()),
        ]
        .into(),
        owner_id: "../../etc/passwd".into(),
        tags: vec!["a".into(), "b".into()],
    };
    let config = SessionConfig {
        max_containers: 3,
        max_duration_ns: 5 * HOUR,
        idle_timeout_ns: 2 * HOUR,
        allowed_images: vec!["debian:stable".into()],
        policy: Some(SessionPolicy {
            allow_network: true,
            ..SessionPolicy::default()
        }),
        ..SessionConfig::default()
    };
    let request = CreateSessionRequest {
        metadata: Some(metadata.clone()),
        config: Some(config),
    };
    let id = connection
        .orchestrator()
        .create_session(request)
        .await
        .unwrap()
        .into_inner()
        .session_id;
    let roles = [
        MessageRole::System,
        MessageRole::Tool,
        MessageRole::User,
        MessageRole::Assistant,
    ];
    for number in 0..150 {
        let mut message = ask::message("", roles[number % 4], &format!("number {number} \u{1f980}"));
        if number % 3 == 0 {
            message.id = format!("own-{number}");
        }
        message.metadata = Some(MessageMetadata {
            tool_name: "calculator".into(),
            tool_call_id: format!("call-{number}"),
            extra: [("n".to_owned(), number.to_string())].into(),
            ..MessageMetadata::default()
        });
        ask::send(connection, &id, message).await.unwrap();
    }
    let context = SessionContext {
        current_task_id: "task-9".into(),
        task_history: vec!["task-7".into(), "task-8".into()],
        preferences: Some(UserPreferences {
            timezone: "Europe/Berlin".into(),
            language: "de".into(),
            theme: "dark".into(),
            notifications: true,
        }),
        ..SessionContext::default()
    };
    let metadata = SessionMetadata {
        name: "full, renamed".into(),
        ..metadata
    };
    let request = UpdateSessionRequest {
        session_id: id.clone(),
        metadata: Some(metadata),
        context: Some(context),
    };
    connection.orchestrator().update_session(request).await.unwrap();
    id
}

pub async fn look(connection: &Connection, ids: &[String]) -> Vec<Session> {
    let mut found = Vec::new();
    for id in ids {
        found.push(ask::session(connection, id).await);
    }
    assert_eq!(found[0].context.as_ref().unwrap().messages.len(), 150);
    found
}

pub async fn listed(connection: &Connection) -> Vec<String> {
    let answer = connection
        .orchestrator()
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap();
    answer
        .into_inner()
        .sessions
        .into_iter()
        .map(|session| session.id)
        .collect()
}

/// The open one takes messages at its next place, the closed one takes none.
pub async fn go_on(connection: &Connection, ids: &[String]) {
    let [full, closed, bare] = ids else {
        panic!("three were made")
    };
    for id in [full, bare] {
        let before: Vec<Message> = ask::messages(connection, id).await;
        ask::send(connection, id, ask::message("next", MessageRole::System, "goes on"))
            .await
            .unwrap();
        let after = ask::messages(connection, id).await;
        ask::in_order(&after);
        assert_eq!(after.len(), before.len() + 1);
    }
    let again = ask::message("own-3", MessageRole::Assistant, "other words");
    ask::refused(ask::send(connection, full, again).await, Code::AlreadyExists);

    let session = ask::session(connection, closed).await;
    assert_eq!(session.state(), SessionState::Closed);
    assert!(session.closed_at.is_some());
    let more = ask::message("", MessageRole::System, "one more");
    ask::refused(ask::send(connection, closed, more).await, Code::FailedPrecondition);
    let mut talk = Talk::open(connection, closed, None, false).await.unwrap();
    ask::refused(talk.end().await, Code::FailedPrecondition);
}
