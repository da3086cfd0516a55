//! What foreign workers and clients meet on the socket.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::HashMap;
use std::time::Duration;

use nexus_client::{Address, Connection, Options};
use nexus_config::Root;
use nexus_daemon::Running;
use nexus_orchestrator::Orchestrator;
use nexus_proto::agent::v1::stream_task_request::Payload as Said;
use nexus_proto::agent::v1::stream_task_response::Payload as Told;
use nexus_proto::agent::v1::*;
use nexus_proto::orchestrator::v1::*;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};

struct Site {
    running: Running,
    to: Connection,
    _dir: TempDir,
}

async fn site(overrides: &[(&str, &str)]) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::at(dir.path());
    let overrides = [
        &[("orchestrator.durability", "process"), ("orchestrator.low_disk", "0")],
        overrides,
    ]
    .concat();
    let running = nexus_daemon::start::<Orchestrator>(root, &overrides).await.unwrap();
    let to = Connection::lazy(&Address::Unix(running.socket().to_owned()), &Options::default());
    Site { running, to, _dir: dir }
}

impl Site {
    async fn worker(&self) -> String {
        let request = RegisterRequest {
            name: "worker".into(),
            r#type: AgentType::Worker.into(),
            ..RegisterRequest::default()
        };
        self.to.agent().register(request).await.unwrap().into_inner().agent_id
    }

    async fn session(&self) -> String {
        let made = self
            .to
            .orchestrator()
            .create_session(CreateSessionRequest::default())
            .await;
        made.unwrap().into_inner().session_id
    }

    async fn task(&self, agent: &str) -> String {
        let session_id = self.session().await;
        let config = Some(TaskConfig {
            command: "ls".into(),
            ..TaskConfig::default()
        });
        let request = ExecuteTaskRequest {
            agent_id: agent.into(),
            session_id,
            config,
            ..ExecuteTaskRequest::default()
        };
        self.to
            .agent()
            .execute_task(request)
            .await
            .unwrap()
            .into_inner()
            .task_id
    }

    async fn open(&self, agent: Option<&str>) -> Talk {
        let (say, said) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(said));
        if let Some(agent) = agent {
            request.metadata_mut().insert("agent-id", agent.parse().unwrap());
        }
        Talk {
            say,
            hear: self.to.agent().stream_task(request).await.unwrap().into_inner(),
        }
    }

    async fn send(&self, session: &str, bytes: usize) -> Result<(), Code> {
        let message = Message {
            role: MessageRole::System.into(),
            content: "x".repeat(bytes),
            ..Message::default()
        };
        let request = SendMessageRequest {
            session_id: session.into(),
            message: Some(message),
        };
        self.to
            .orchestrator()
            .send_message(request)
            .await
            .map(drop)
            .map_err(|status| status.code())
    }
}

struct Talk {
    say: mpsc::Sender<StreamTaskRequest>,
    hear: Streaming<StreamTaskResponse>,
}

impl Talk {
    async fn say(&self, task: &str, payload: Said) {
        self.say
            .send(StreamTaskRequest {
                task_id: task.into(),
                payload: Some(payload),
            })
            .await
            .unwrap();
    }

    async fn hear(&mut self) -> Result<Told, Code> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.hear.message())
            .await
            .expect("somebody speaks");
        next.map(|frame| frame.unwrap().payload.unwrap())
            .map_err(|status| status.code())
    }
}

fn running(message: &str) -> Said {
    let state = TaskState::Running.into();
    Said::Status(TaskStatusUpdate {
        state,
        message: message.into(),
        ..TaskStatusUpdate::default()
    })
}

fn input(data: &str) -> TaskInput {
    TaskInput {
        data: data.to_owned().into(),
        ..TaskInput::default()
    }
}

#[tokio::test]
async fn input_waits_for_the_worker_and_its_first_words_reach_those_who_watch() {
    let site = site(&[]).await;
    let agent = site.worker().await;
    let task = site.task(&agent).await;
    let beat = HeartbeatRequest {
        agent_id: agent,
        active_tasks: vec![task.clone()],
        ..HeartbeatRequest::default()
    };
    site.to.agent().heartbeat(beat).await.unwrap();
    let mut watcher = site.open(None).await;
    watcher.say(&task, Said::Input(input("one"))).await;
    watcher.say("", Said::Input(input("two"))).await;
    watcher.say("", Said::Heartbeat(())).await;
    assert_eq!(
        watcher.hear().await,
        Ok(Told::Heartbeat(())),
        "what came before it was taken"
    );

    let mut worker = site.open(None).await;
    worker.say(&task, Said::Heartbeat(())).await;
    assert_eq!(worker.hear().await, Ok(Told::Heartbeat(())));
    worker.say("", running("reading")).await;
    assert_eq!(worker.hear().await, Ok(Told::Input(input("one"))));
    assert_eq!(worker.hear().await, Ok(Told::Input(input("two"))));
    let Ok(Told::Status(status)) = watcher.hear().await else {
        panic!("not a status")
    };
    assert_eq!((status.state(), &*status.message), (TaskState::Running, "reading"));
    site.running.stop().await;
}

#[tokio::test]
async fn input_that_nobody_takes_is_bounded() {
    let site = site(&[]).await;
    let task = site.task(&site.worker().await).await;
    let mut watcher = site.open(None).await;
    watcher.say(&task, Said::Input(input(&"x".repeat(2 << 20)))).await;
    assert_eq!(watcher.hear().await, Err(Code::ResourceExhausted));
    site.running.stop().await;
}

#[tokio::test]
async fn a_worker_hears_its_heartbeat_first_and_not_its_own_start() {
    let site = site(&[]).await;
    let agent = site.worker().await;
    let task = site.task(&agent).await;
    let mut worker = site.open(Some(&agent)).await;
    worker.say(&task, Said::Heartbeat(())).await;
    assert_eq!(worker.hear().await, Ok(Told::Heartbeat(())));
    let cancel = CancelTaskRequest {
        task_id: task,
        reason: "enough".into(),
        force: false,
    };
    site.to.agent().cancel_task(cancel).await.unwrap();
    assert!(matches!(worker.hear().await, Ok(Told::Cancel(cancel)) if cancel.reason == "enough"));
    assert!(matches!(worker.hear().await, Ok(Told::Status(status)) if status.state() == TaskState::Cancelled));
    site.running.stop().await;
}

#[tokio::test]
async fn a_heartbeat_names_the_task_for_the_frames_after_it() {
    let site = site(&[]).await;
    let mut worker = site.open(None).await;
    worker.say("no-such-task", Said::Heartbeat(())).await;
    assert_eq!(worker.hear().await, Ok(Told::Heartbeat(())));
    worker.say("", running("")).await;
    assert_eq!(worker.hear().await, Err(Code::NotFound));
    site.running.stop().await;
}

#[tokio::test]
async fn a_socket_behind_the_front_door_is_an_absolute_path() {
    let site = site(&[]).await;
    let labels = HashMap::from([("nexus.socket".to_owned(), "run/llm.sock".to_owned())]);
    let metadata = Some(AgentMetadata {
        labels,
        ..AgentMetadata::default()
    });
    let request = RegisterRequest {
        name: "llm".into(),
        metadata,
        ..RegisterRequest::default()
    };
    let refused = site.to.agent().register(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("nexus.socket"), "{}", refused.message());
    site.running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_passed_on_is_not_taken_and_large_answers_name_what_makes_them_smaller() {
    let site = site(&[("common.max_message_bytes", "64KiB")]).await;
    let session = site.session().await;
    assert_eq!(
        site.send(&session, (64 << 10) - 200).await,
        Err(Code::ResourceExhausted)
    );
    for _ in 0..3 {
        site.send(&session, 30 << 10).await.unwrap();
    }
    let get = GetSessionRequest {
        session_id: session.clone(),
        ..GetSessionRequest::default()
    };
    let refused = site.to.orchestrator().get_session(get).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("message_limit"), "{}", refused.message());
    // A listing always answers: the oldest messages are left out of it.
    let mut client = site.to.orchestrator();
    let listed = client.list_sessions(ListSessionsRequest::default());
    let listed = listed.await.unwrap().into_inner().sessions.remove(0).context.unwrap();
    assert_eq!((listed.messages.len(), listed.messages_omitted), (2, 1));

    let metadata = Some(SessionMetadata {
        name: "new".into(),
        ..SessionMetadata::default()
    });
    let update = UpdateSessionRequest {
        session_id: session,
        metadata,
        context: None,
    };
    let updated = site
        .to
        .orchestrator()
        .update_session(update)
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap();
    assert_eq!(
        updated.metadata.unwrap().name,
        "new",
        "the change is made, and said to be"
    );
    assert_eq!(updated.context.unwrap().messages_omitted, 3);
    site.running.stop().await;
}
