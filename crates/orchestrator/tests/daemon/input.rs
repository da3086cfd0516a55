//! Bad input on every call: a clear status, and the server goes on.

use nexus_proto::agent::v1::*;
use nexus_proto::orchestrator::v1::*;
use tonic::Code;

use super::site::{Site, refused, user};

#[tokio::test]
async fn what_is_missing_is_named() {
    let site = Site::new().await;
    let (mut sessions, mut agents) = (site.orchestrator(), site.agent());
    let invalid = Code::InvalidArgument;
    assert_eq!(
        refused(sessions.get_session(GetSessionRequest::default()).await, invalid),
        "session_id is required"
    );
    assert_eq!(
        refused(sessions.update_session(UpdateSessionRequest::default()).await, invalid),
        "session_id is required"
    );
    assert_eq!(
        refused(sessions.close_session(CloseSessionRequest::default()).await, invalid),
        "session_id is required"
    );
    assert_eq!(
        refused(sessions.delete_session(DeleteSessionRequest::default()).await, invalid),
        "session_id is required"
    );
    assert_eq!(
        refused(sessions.send_message(SendMessageRequest::default()).await, invalid),
        "session_id is required"
    );
    let request = SendMessageRequest {
        session_id: site.session().await,
        message: None,
    };
    assert_eq!(
        refused(sessions.send_message(request).await, invalid),
        "message is required"
    );
    assert_eq!(
        refused(agents.register(RegisterRequest::default()).await, invalid),
        "name is required"
    );
    assert_eq!(
        refused(agents.unregister(UnregisterRequest::default()).await, invalid),
        "agent_id is required"
    );
    assert_eq!(
        refused(agents.heartbeat(HeartbeatRequest::default()).await, invalid),
        "agent_id is required"
    );
    assert_eq!(
        refused(agents.list_tasks(ListTasksRequest::default()).await, invalid),
        "agent_id is required"
    );
    assert_eq!(
        refused(agents.execute_task(ExecuteTaskRequest::default()).await, invalid),
        "session_id is required"
    );
    let request = ExecuteTaskRequest {
        session_id: "s".into(),
        ..ExecuteTaskRequest::default()
    };
    assert_eq!(
        refused(agents.execute_task(request).await, invalid),
        "config is required"
    );
    assert_eq!(
        refused(agents.cancel_task(CancelTaskRequest::default()).await, invalid),
        "task_id is required"
    );
    assert_eq!(
        refused(agents.get_task_status(GetTaskStatusRequest::default()).await, invalid),
        "task_id is required"
    );
    assert_eq!(
        refused(agents.send_message(AgentSendMessageRequest::default()).await, invalid),
        "agent_id is required"
    );
    let request = AgentSendMessageRequest {
        agent_id: site.register("a").await,
        message: None,
    };
    assert_eq!(
        refused(agents.send_message(request).await, invalid),
        "message is required"
    );
}

#[tokio::test]
async fn what_is_unknown_is_not_found() {
    let site = Site::new().await;
    let (mut sessions, mut agents) = (site.orchestrator(), site.agent());
    for id in [
        "nothing",
        "../../etc/passwd",
        "00000000000000010000000000000002",
        "\u{1F980}",
    ] {
        let session_id = id.to_owned();
        let get = GetSessionRequest {
            session_id: session_id.clone(),
            ..GetSessionRequest::default()
        };
        assert_eq!(
            refused(sessions.get_session(get).await, Code::NotFound),
            format!("session not found: {id}")
        );
        refused(site.send(id, user("hi")).await, Code::NotFound);
        refused(
            sessions
                .close_session(CloseSessionRequest {
                    session_id,
                    ..Default::default()
                })
                .await,
            Code::NotFound,
        );
        let task = GetTaskStatusRequest { task_id: id.into() };
        assert_eq!(
            refused(agents.get_task_status(task).await, Code::NotFound),
            "task not found"
        );
        let cancel = CancelTaskRequest {
            task_id: id.into(),
            ..CancelTaskRequest::default()
        };
        refused(agents.cancel_task(cancel).await, Code::NotFound);
        let beat = HeartbeatRequest {
            agent_id: id.into(),
            ..HeartbeatRequest::default()
        };
        assert_eq!(refused(agents.heartbeat(beat).await, Code::NotFound), "agent not found");
        let task = ExecuteTaskRequest {
            agent_id: id.into(),
            session_id: "s".into(),
            config: Some(TaskConfig::default()),
            ..ExecuteTaskRequest::default()
        };
        refused(agents.execute_task(task).await, Code::NotFound);
    }
}

#[tokio::test]
async fn numbers_out_of_their_range_are_refused() {
    let site = Site::new().await;
    let mut sessions = site.orchestrator();
    let invalid = Code::InvalidArgument;
    for config in [
        SessionConfig {
            idle_timeout_ns: -1,
            ..SessionConfig::default()
        },
        SessionConfig {
            max_duration_ns: i64::MIN,
            ..SessionConfig::default()
        },
        SessionConfig {
            max_containers: -1,
            ..SessionConfig::default()
        },
    ] {
        let request = CreateSessionRequest {
            config: Some(config),
            ..CreateSessionRequest::default()
        };
        refused(sessions.create_session(request).await, invalid);
    }
    let longest = SessionConfig {
        idle_timeout_ns: i64::MAX,
        max_duration_ns: i64::MAX,
        ..SessionConfig::default()
    };
    let request = CreateSessionRequest {
        config: Some(longest),
        ..CreateSessionRequest::default()
    };
    sessions.create_session(request).await.unwrap();
    let request = ListSessionsRequest {
        page_size: -1,
        ..ListSessionsRequest::default()
    };
    refused(sessions.list_sessions(request).await, invalid);
    let request = ListSessionsRequest {
        page_token: "zzz".into(),
        ..ListSessionsRequest::default()
    };
    refused(sessions.list_sessions(request).await, invalid);
    let request = GetSessionRequest {
        session_id: site.session().await,
        message_limit: -1,
        ..Default::default()
    };
    refused(sessions.get_session(request.clone()).await, invalid);
    let request = GetSessionRequest {
        message_limit: i32::MAX,
        messages_before: u64::MAX,
        ..request
    };
    sessions.get_session(request).await.unwrap();
    let task = |config| ExecuteTaskRequest {
        session_id: "s".into(),
        config: Some(config),
        ..Default::default()
    };
    let config = TaskConfig {
        timeout_ns: -1,
        ..TaskConfig::default()
    };
    refused(site.agent().execute_task(task(config)).await, invalid);
    let request = ExecuteTaskRequest {
        r#type: 99,
        ..task(TaskConfig::default())
    };
    refused(site.agent().execute_task(request).await, invalid);
}

#[tokio::test]
async fn a_container_needs_a_session_a_config_and_leave() {
    let site = Site::new().await;
    let mut sessions = site.orchestrator();
    let ask = |session_id: &str, config| CreateContainerRequest {
        session_id: session_id.into(),
        config,
    };
    refused(sessions.create_container(ask("", None)).await, Code::InvalidArgument);
    refused(sessions.create_container(ask("none", None)).await, Code::NotFound);
    let session = site.session().await;
    refused(
        sessions.create_container(ask(&session, None)).await,
        Code::InvalidArgument,
    );
    let outside = ContainerConfig {
        network_mode: "host".into(),
        ..ContainerConfig::default()
    };
    refused(
        sessions.create_container(ask(&session, Some(outside))).await,
        Code::PermissionDenied,
    );
    let none = GetContainerRequest {
        container_id: "none".into(),
    };
    refused(sessions.get_container(none).await, Code::NotFound);
    let listed = sessions
        .list_containers(ListContainersRequest::default())
        .await
        .unwrap();
    assert!(listed.into_inner().containers.is_empty());
}

#[tokio::test]
async fn a_message_may_carry_anything_a_string_can() {
    let site = Site::new().await;
    let session = site.session().await;
    for text in [
        "\0",
        "\u{FEFF}",
        "a\r\nb",
        "'; DROP TABLE log; --",
        &"é".repeat(100_000),
    ] {
        site.send(&session, user(text)).await.unwrap();
        let said = site.said(&session).await;
        assert_eq!(said.last().unwrap().1, text);
    }
}
