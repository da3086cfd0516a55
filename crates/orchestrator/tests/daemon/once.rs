//! Calls that carry an idempotency key.

use nexus_proto::agent::v1::*;
use nexus_proto::orchestrator::v1::*;
use tonic::{Code, Request};

use super::site::{Site, refused, system};

fn keyed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

fn named(name: &str) -> CreateSessionRequest {
    // Maps of several entries have no order of their own: equal requests look different on their way.
    let labels = ('a'..'j').map(|c| (c.to_string(), c.to_string())).collect();
    let metadata = SessionMetadata {
        name: name.into(),
        labels,
        ..SessionMetadata::default()
    };
    CreateSessionRequest {
        metadata: Some(metadata),
        ..CreateSessionRequest::default()
    }
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_also_after_a_restart() {
    let mut site = Site::new().await;
    let mut client = site.orchestrator();
    let first = client
        .create_session(keyed("k", named("a")))
        .await
        .unwrap()
        .into_inner();
    let again = client
        .create_session(keyed("k", named("a")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, first);
    let message = refused(
        client.create_session(keyed("k", named("b"))).await,
        Code::InvalidArgument,
    );
    assert!(message.contains('k'), "{message}");
    site.restart().await;
    let later = site
        .orchestrator()
        .create_session(keyed("k", named("a")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(later, first);
    assert_eq!(
        site.orchestrator()
            .list_sessions(ListSessionsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .total_count,
        1
    );
}

#[tokio::test]
async fn many_at_once_happen_once() {
    let site = Site::new().await;
    let calls = (0..20).map(|_| {
        let mut client = site.orchestrator();
        async move {
            client
                .create_session(keyed("k", named("a")))
                .await
                .unwrap()
                .into_inner()
                .session_id
        }
    });
    let ids = futures_util::future::join_all(calls).await;
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[tokio::test]
async fn a_call_that_was_given_up_and_made_again_happens_once() {
    let site = Site::new().await;
    for n in 0..30 {
        let (key, request) = (format!("k-{n}"), named("a"));
        let mut client = site.orchestrator();
        let mut hasty = keyed(&key, request.clone());
        hasty.set_timeout(std::time::Duration::from_micros(200 * n));
        let _given_up = client.create_session(hasty).await;
        client.create_session(keyed(&key, request)).await.unwrap();
    }
    let listed = site
        .orchestrator()
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.total_count, 30);
}

#[tokio::test]
async fn every_call_on_a_session_may_be_repeated() {
    let site = Site::new().await;
    let id = site.session().await;
    let mut client = site.orchestrator();
    let send = SendMessageRequest {
        session_id: id.clone(),
        message: Some(system("one")),
    };
    let sent = client
        .send_message(keyed("s", send.clone()))
        .await
        .unwrap()
        .into_inner();
    let mut chosen = send.clone();
    chosen.message.as_mut().unwrap().id = "mine".into();
    client.send_message(keyed("c", chosen.clone())).await.unwrap();
    refused(
        client.send_message(keyed("c", send.clone())).await,
        Code::InvalidArgument,
    );
    let update = UpdateSessionRequest {
        session_id: id.clone(),
        metadata: Some(SessionMetadata {
            name: "x".into(),
            ..SessionMetadata::default()
        }),
        ..UpdateSessionRequest::default()
    };
    client.update_session(keyed("u", update.clone())).await.unwrap();
    let close = CloseSessionRequest {
        session_id: id.clone(),
        reason: String::new(),
    };
    client.close_session(keyed("x", close.clone())).await.unwrap();

    assert_eq!(client.send_message(keyed("s", send)).await.unwrap().into_inner(), sent);
    client.send_message(keyed("c", chosen)).await.unwrap();
    let updated = client.update_session(keyed("u", update)).await.unwrap().into_inner();
    assert_eq!(updated.session.unwrap().metadata.unwrap().name, "x");
    client.close_session(keyed("x", close)).await.unwrap();
    assert_eq!(site.said(&id).await.len(), 2);

    let delete = DeleteSessionRequest { session_id: id };
    for _ in 0..2 {
        client.delete_session(keyed("d", delete.clone())).await.unwrap();
    }
    refused(client.delete_session(delete).await, Code::NotFound);
}

#[tokio::test]
async fn every_call_of_an_agent_may_be_repeated() {
    let site = Site::new().await;
    let mut client = site.agent();
    let register = RegisterRequest {
        name: "worker".into(),
        ..RegisterRequest::default()
    };
    let first = client
        .register(keyed("r", register.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        client.register(keyed("r", register)).await.unwrap().into_inner(),
        first,
        "the token too"
    );
    let agent_id = first.agent_id;
    let execute = ExecuteTaskRequest {
        agent_id: agent_id.clone(),
        session_id: "s".into(),
        config: Some(TaskConfig::default()),
        ..ExecuteTaskRequest::default()
    };
    let task = client
        .execute_task(keyed("e", execute.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        client.execute_task(keyed("e", execute)).await.unwrap().into_inner(),
        task
    );
    let cancel = CancelTaskRequest {
        task_id: task.task_id,
        ..CancelTaskRequest::default()
    };
    for _ in 0..2 {
        assert!(
            client
                .cancel_task(keyed("c", cancel.clone()))
                .await
                .unwrap()
                .into_inner()
                .cancelled
        );
    }
    let message = Some(AgentMessage::default());
    let mail = AgentSendMessageRequest {
        agent_id: agent_id.clone(),
        message,
    };
    let sent = client
        .send_message(keyed("m", mail.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(client.send_message(keyed("m", mail)).await.unwrap().into_inner(), sent);
    let beat = HeartbeatRequest {
        agent_id: agent_id.clone(),
        ..HeartbeatRequest::default()
    };
    for _ in 0..2 {
        client.heartbeat(keyed("h", beat.clone())).await.unwrap();
    }
    let gone = UnregisterRequest {
        agent_id,
        ..UnregisterRequest::default()
    };
    for _ in 0..2 {
        assert!(
            client
                .unregister(keyed("g", gone.clone()))
                .await
                .unwrap()
                .into_inner()
                .success
        );
    }
}

/// A key makes repeats the same, and nothing true that never was.
#[tokio::test]
async fn a_container_that_never_was_is_not_found_under_a_key_either() {
    let site = Site::new().await;
    let container_id = format!("{:016x}{:016x}", 1_u64 << 50, 7);
    let remove = RemoveContainerRequest {
        container_id: container_id.clone(),
        force: true,
    };
    let stop = StopContainerRequest {
        container_id,
        ..StopContainerRequest::default()
    };
    for _ in 0..2 {
        let removed = site.orchestrator().remove_container(keyed("k", remove.clone())).await;
        refused(removed, Code::NotFound);
        let stopped = site.orchestrator().stop_container(keyed("k", stop.clone())).await;
        refused(stopped, Code::NotFound);
    }
}
