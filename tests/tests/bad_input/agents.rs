//! What `agent.v1` refuses.

use nexus_proto::agent::v1::*;
use nexus_tests::{Daemon, Site};
use tonic::Code;

use crate::refused::{Asked, NOBODY};

#[tokio::test]
async fn an_agent_or_task_that_is_not_there_or_asked_wrongly_is_refused() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let asked = Asked {
        connection: &connection,
        service: "agent.v1.AgentService",
    };
    asked
        .refused("Register", RegisterRequest::default(), Code::InvalidArgument)
        .await;
    let register = RegisterRequest {
        name: "a".into(),
        ..Default::default()
    };
    let known = connection
        .agent()
        .register(register)
        .await
        .unwrap()
        .into_inner()
        .agent_id;
    for id in ["", NOBODY, "not an id", &"9".repeat(100_000)] {
        let code = if id.is_empty() {
            Code::InvalidArgument
        } else {
            Code::NotFound
        };
        let id = id.to_owned();
        asked
            .refused(
                "Unregister",
                UnregisterRequest {
                    agent_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        asked
            .refused(
                "Heartbeat",
                HeartbeatRequest {
                    agent_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        asked
            .refused("GetTaskStatus", GetTaskStatusRequest { task_id: id.clone() }, code)
            .await;
        asked
            .refused(
                "CancelTask",
                CancelTaskRequest {
                    task_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        let message = Some(AgentMessage::default());
        asked
            .refused(
                "SendMessage",
                AgentSendMessageRequest {
                    agent_id: id.clone(),
                    message,
                },
                code,
            )
            .await;
        asked
            .refused(
                "StreamTask",
                StreamTaskRequest {
                    task_id: id.clone(),
                    payload: None,
                },
                code,
            )
            .await;
        asked
            .refused(
                "StreamAgent",
                StreamAgentRequest {
                    agent_id: id.clone(),
                    payload: None,
                },
                code,
            )
            .await;
        if !id.is_empty() {
            let config = Some(TaskConfig::default());
            let task = ExecuteTaskRequest {
                agent_id: id,
                session_id: "s".into(),
                config,
                ..Default::default()
            };
            asked.refused("ExecuteTask", task, code).await;
        }
    }
    let send = AgentSendMessageRequest {
        agent_id: known.clone(),
        message: None,
    };
    asked.refused("SendMessage", send, Code::InvalidArgument).await;
    asked
        .refused("ListTasks", ListTasksRequest::default(), Code::InvalidArgument)
        .await;
    let task = |change: fn(&mut ExecuteTaskRequest)| {
        let config = Some(TaskConfig {
            command: "true".into(),
            ..Default::default()
        });
        let mut task = ExecuteTaskRequest {
            agent_id: known.clone(),
            session_id: "s".into(),
            config,
            ..Default::default()
        };
        change(&mut task);
        task
    };
    let changes: [fn(&mut ExecuteTaskRequest); 6] = [
        |task| task.session_id.clear(),
        |task| task.config = None,
        |task| task.r#type = 77,
        |task| task.priority = -1,
        |task| task.config.as_mut().unwrap().timeout_ns = -1,
        |task| task.config.as_mut().unwrap().max_retries = -1,
    ];
    for change in changes {
        asked.refused("ExecuteTask", task(change), Code::InvalidArgument).await;
    }
    // A task that is over stays over.
    let made = connection
        .agent()
        .execute_task(task(|_| {}))
        .await
        .unwrap()
        .into_inner()
        .task_id;
    let cancel = CancelTaskRequest {
        task_id: made.clone(),
        ..Default::default()
    };
    let first = connection
        .agent()
        .cancel_task(cancel.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(first.cancelled);
    let again = connection.agent().cancel_task(cancel).await.unwrap().into_inner();
    assert_eq!((again.cancelled, again.state()), (false, TaskState::Cancelled));
    let tasks = connection
        .agent()
        .list_tasks(ListTasksRequest {
            agent_id: known,
            ..ListTasksRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(tasks.into_inner().tasks.len(), 1);
}
