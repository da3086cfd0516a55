//! What `orchestrator.v1` refuses.

use nexus_proto::orchestrator::v1::{self as orchestrator, *};
use nexus_tests::{Daemon, Site, ask};
use tonic::Code;

use crate::refused::{Asked, NOBODY};

#[tokio::test]
async fn a_session_that_is_not_there_or_asked_wrongly_is_refused() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let asked = Asked {
        connection: &connection,
        service: "orchestrator.v1.OrchestratorService",
    };
    let open = ask::create(&connection, "open").await;
    let closed = ask::create(&connection, "closed").await;
    let close = CloseSessionRequest {
        session_id: closed.clone(),
        reason: String::new(),
    };
    connection.orchestrator().close_session(close).await.unwrap();
    ask::send(&connection, &open, ask::message("taken", MessageRole::System, "one"))
        .await
        .unwrap();

    for id in [
        "",
        NOBODY,
        "not an id",
        "../..",
        "\u{0}",
        &"9".repeat(100_000),
        &open.to_uppercase(),
    ] {
        let code = if id.is_empty() {
            Code::InvalidArgument
        } else {
            Code::NotFound
        };
        let id = id.to_owned();
        asked
            .refused(
                "GetSession",
                GetSessionRequest {
                    session_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        asked
            .refused(
                "CloseSession",
                CloseSessionRequest {
                    session_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        asked
            .refused("DeleteSession", DeleteSessionRequest { session_id: id.clone() }, code)
            .await;
        asked
            .refused(
                "UpdateSession",
                UpdateSessionRequest {
                    session_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        let message = Some(ask::message("", MessageRole::System, "x"));
        asked
            .refused(
                "SendMessage",
                SendMessageRequest {
                    session_id: id,
                    message,
                },
                code,
            )
            .await;
    }
    let send = |message: Option<orchestrator::Message>| SendMessageRequest {
        session_id: open.clone(),
        message,
    };
    let mut odd = ask::message("", MessageRole::System, "x");
    odd.role = 99;
    let long = ask::message(&"i".repeat(5000), MessageRole::System, "x");
    for message in [None, Some(odd), Some(long)] {
        asked.refused("SendMessage", send(message), Code::InvalidArgument).await;
    }
    let mut model = ask::message("taken", MessageRole::System, "one");
    model
        .metadata
        .get_or_insert_default()
        .extra
        .insert("k".into(), "v".into());
    let others = [
        ask::message("taken", MessageRole::User, "one"),
        ask::message("taken", MessageRole::System, "two"),
        model,
    ];
    for other in others {
        asked
            .refused("SendMessage", send(Some(other)), Code::AlreadyExists)
            .await;
    }
    let late = ask::message("", MessageRole::System, "late");
    let late = SendMessageRequest {
        session_id: closed.clone(),
        message: Some(late),
    };
    asked.refused("SendMessage", late, Code::FailedPrecondition).await;
    let update = UpdateSessionRequest {
        session_id: closed,
        ..Default::default()
    };
    asked.refused("UpdateSession", update, Code::FailedPrecondition).await;

    for config in [
        SessionConfig {
            max_duration_ns: -1,
            ..Default::default()
        },
        SessionConfig {
            idle_timeout_ns: i64::MIN,
            ..Default::default()
        },
        SessionConfig {
            max_containers: -5,
            ..Default::default()
        },
    ] {
        let create = CreateSessionRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        asked.refused("CreateSession", create, Code::InvalidArgument).await;
        let context = SessionContext {
            config: Some(config),
            ..Default::default()
        };
        let update = UpdateSessionRequest {
            session_id: open.clone(),
            context: Some(context),
            ..Default::default()
        };
        asked.refused("UpdateSession", update, Code::InvalidArgument).await;
    }
    let get = GetSessionRequest {
        session_id: open.clone(),
        message_limit: -1,
        ..Default::default()
    };
    asked.refused("GetSession", get, Code::InvalidArgument).await;
    let page = ListSessionsRequest {
        page_token: "nonsense".into(),
        page_size: 5,
        ..Default::default()
    };
    asked.refused("ListSessions", page, Code::InvalidArgument).await;
    let page = ListSessionsRequest {
        page_size: -5,
        ..Default::default()
    };
    asked.refused("ListSessions", page, Code::InvalidArgument).await;
    let beyond = SubscribeEventsRequest {
        after_sequence: Some(u64::MAX),
        ..Default::default()
    };
    asked.refused("SubscribeEvents", beyond, Code::OutOfRange).await;
    for call in ["CreateContainer", "GetContainer", "StopContainer", "RemoveContainer"] {
        asked
            .refused(call, GetContainerRequest::default(), Code::InvalidArgument)
            .await;
    }
    let messages = ask::messages(&connection, &open).await;
    assert_eq!(messages.len(), 1, "nothing of it was stored: {messages:?}");
}
