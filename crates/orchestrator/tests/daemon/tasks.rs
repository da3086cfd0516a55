//! Tasks: those who give them, those who do them, those who watch.

use nexus_proto::agent::v1::stream_task_request::Payload as Say;
use nexus_proto::agent::v1::stream_task_response::Payload as Hear;
use nexus_proto::agent::v1::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::site::{Site, refused, soon};

struct Stream {
    id: String,
    frames: Option<mpsc::Sender<StreamTaskRequest>>,
    inbound: Streaming<StreamTaskResponse>,
}

impl Stream {
    /// Opens a StreamTask, and waits until it is tied to its task.
    async fn open(site: &Site, task: &str, agent: Option<&str>) -> Stream {
        let (frames, outbound) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(outbound));
        if let Some(agent) = agent {
            request.metadata_mut().insert("agent-id", agent.parse().unwrap());
        }
        let inbound = site.agent().stream_task(request).await.unwrap().into_inner();
        let mut stream = Stream {
            id: task.into(),
            frames: Some(frames),
            inbound,
        };
        stream.say(Say::Heartbeat(())).await;
        while !matches!(stream.next().await, Hear::Heartbeat(())) {}
        stream.id = String::new(); // later frames of a worker name no task
        stream
    }

    async fn say(&self, payload: Say) {
        let frame = StreamTaskRequest {
            task_id: self.id.clone(),
            payload: Some(payload),
        };
        self.frames.as_ref().unwrap().send(frame).await.unwrap();
    }

    async fn end(&mut self) -> Result<Option<Hear>, Status> {
        Ok(soon(self.inbound.message()).await?.map(|frame| frame.payload.unwrap()))
    }

    async fn next(&mut self) -> Hear {
        self.end().await.unwrap().expect("the stream goes on")
    }

    /// Skips to the news of this state.
    async fn until(&mut self, state: TaskState) {
        loop {
            if let Hear::Status(update) = self.next().await
                && update.state() == state
            {
                return;
            }
        }
    }

    async fn status(&self, state: TaskState) {
        self.say(Say::Status(TaskStatusUpdate {
            state: state.into(),
            ..TaskStatusUpdate::default()
        }))
        .await;
    }
}

async fn give(site: &Site, agent: &str, config: TaskConfig) -> Task {
    let request = ExecuteTaskRequest {
        agent_id: agent.into(),
        session_id: "s".into(),
        r#type: TaskType::CodeExecution.into(),
        config: Some(config),
        ..ExecuteTaskRequest::default()
    };
    site.agent()
        .execute_task(request)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap()
}

async fn look(site: &Site, task: &str) -> Task {
    let request = GetTaskStatusRequest { task_id: task.into() };
    site.agent()
        .get_task_status(request)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap()
}

async fn beat(site: &Site, agent: &str, active: &[&str]) -> Vec<String> {
    let active_tasks = active.iter().map(|task| (*task).to_owned()).collect();
    let request = HeartbeatRequest {
        agent_id: agent.into(),
        active_tasks,
        ..HeartbeatRequest::default()
    };
    site.agent()
        .heartbeat(request)
        .await
        .unwrap()
        .into_inner()
        .pending_tasks
}

#[tokio::test]
async fn a_worker_does_a_task_and_a_watcher_sees_it() {
    let site = Site::new().await;
    let agent = site.register("worker").await;
    let task = give(
        &site,
        &agent,
        TaskConfig {
            command: "ls".into(),
            ..TaskConfig::default()
        },
    )
    .await;
    assert_eq!(
        (task.state(), task.name.as_str(), &task.agent_id),
        (TaskState::Pending, "ls", &agent)
    );
    assert_eq!(beat(&site, &agent, &[]).await, std::slice::from_ref(&task.id));
    let mut watcher = Stream::open(&site, &task.id, None).await;
    let mut worker = Stream::open(&site, &task.id, None).await;
    worker.status(TaskState::Running).await;
    watcher.until(TaskState::Running).await;
    watcher
        .say(Say::Input(TaskInput {
            data: b"y".to_vec().into(),
            ..TaskInput::default()
        }))
        .await;
    assert!(matches!(worker.next().await, Hear::Input(input) if &input.data[..] == b"y"));
    worker
        .say(Say::Progress(TaskProgress {
            percent: 0.5,
            ..TaskProgress::default()
        }))
        .await;
    worker
        .say(Say::Output(TaskOutput {
            text: "file".into(),
            ..TaskOutput::default()
        }))
        .await;
    assert!(matches!(watcher.next().await, Hear::Progress(progress) if progress.percent == 0.5));
    assert!(matches!(watcher.next().await, Hear::Output(output) if output.text == "file"));
    assert_eq!(look(&site, &task.id).await.progress, 0.5);
    let result = TaskResult {
        exit_code: 3,
        ..TaskResult::default()
    };
    worker
        .say(Say::Complete(TaskComplete {
            result: Some(result),
            ..TaskComplete::default()
        }))
        .await;
    watcher.until(TaskState::Completed).await;
    assert!(matches!(watcher.next().await, Hear::Complete(done) if done.result.as_ref().unwrap().exit_code == 3));
    assert_eq!(watcher.end().await.unwrap(), None);
    let over = look(&site, &task.id).await;
    assert_eq!(
        (over.state(), over.result.unwrap().exit_code),
        (TaskState::Completed, 3)
    );
    let mut late = Stream::open_over(&site, &task.id).await;
    late.until(TaskState::Completed).await;
    assert!(matches!(late.next().await, Hear::Complete(_)));
    assert_eq!(late.end().await.unwrap(), None);
}

impl Stream {
    /// Opens a StreamTask for a task that is over.
    async fn open_over(site: &Site, task: &str) -> Stream {
        let (frames, outbound) = mpsc::channel(64);
        let inbound = site
            .agent()
            .stream_task(ReceiverStream::new(outbound))
            .await
            .unwrap()
            .into_inner();
        let stream = Stream {
            id: task.into(),
            frames: Some(frames),
            inbound,
        };
        stream.say(Say::Heartbeat(())).await;
        stream
    }
}

#[tokio::test]
async fn a_cancel_reaches_the_worker_in_both_forms() {
    let site = Site::new().await;
    let agent = site.register("worker").await;
    let mut linked = site.link(&agent).await;
    let task = give(&site, &agent, TaskConfig::default()).await;
    let mut worker = Stream::open(&site, &task.id, Some(&agent)).await;
    assert_eq!(
        look(&site, &task.id).await.state(),
        TaskState::Running,
        "its first frame took it"
    );
    let cancel = CancelTaskRequest {
        task_id: task.id.clone(),
        reason: "enough".into(),
        force: true,
    };
    let cancelled = site.agent().cancel_task(cancel.clone()).await.unwrap().into_inner();
    assert_eq!((cancelled.state(), cancelled.cancelled), (TaskState::Cancelled, true));
    loop {
        match worker.next().await {
            Hear::Cancel(cancel) => {
                assert_eq!((cancel.reason.as_str(), cancel.force), ("enough", true));
                break;
            }
            Hear::Status(update) => assert_eq!(update.state(), TaskState::Running),
            Hear::Heartbeat(()) => {}
            other => panic!("{other:?}"),
        }
    }
    worker.until(TaskState::Cancelled).await;
    let control = linked.next().await;
    assert_eq!(control.metadata.unwrap().correlation_id, task.id);
    let again = site.agent().cancel_task(cancel).await.unwrap().into_inner();
    assert_eq!((again.state(), again.cancelled), (TaskState::Cancelled, false));
}

#[tokio::test]
async fn who_watches_cannot_speak_for_the_worker() {
    let site = Site::new().await;
    let (agent, other) = (site.register("worker").await, site.register("other").await);
    let task = give(&site, &agent, TaskConfig::default()).await;
    let mut watcher = Stream::open(&site, &task.id, None).await;
    watcher.say(Say::Input(TaskInput::default())).await;
    watcher.status(TaskState::Completed).await;
    refused(watcher.end().await, Code::FailedPrecondition);
    let mut stranger = Stream::open(&site, &task.id, Some(&other)).await;
    stranger.status(TaskState::Completed).await;
    refused(stranger.end().await, Code::FailedPrecondition);
    assert_eq!(look(&site, &task.id).await.state(), TaskState::Pending);
}

#[tokio::test]
async fn only_the_diagrams_arrows_are_taken() {
    let site = Site::new().await;
    let agent = site.register("worker").await;
    let task = give(&site, &agent, TaskConfig::default()).await;
    let mut worker = Stream::open(&site, &task.id, Some(&agent)).await;
    worker.status(TaskState::Queued).await;
    let end = loop {
        match worker.end().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    let message = refused(end, Code::FailedPrecondition);
    assert!(message.contains("RUNNING") && message.contains("QUEUED"), "{message}");
}

#[tokio::test]
async fn a_late_task_times_out_and_everyone_is_told() {
    let site = Site::new().await;
    let agent = site.register("worker").await;
    let task = give(
        &site,
        &agent,
        TaskConfig {
            timeout_ns: 50_000_000,
            ..TaskConfig::default()
        },
    )
    .await;
    let mut worker = Stream::open(&site, &task.id, Some(&agent)).await;
    worker.until(TaskState::Timeout).await;
    assert!(matches!(worker.next().await, Hear::Error(error) if error.code == "TIMEOUT"));
    assert_eq!(worker.end().await.unwrap(), None);
    assert_eq!(look(&site, &task.id).await.state(), TaskState::Timeout);
}

#[tokio::test]
async fn a_task_outlives_a_restart_and_its_worker_goes_on() {
    let mut site = Site::new().await;
    let agent = site.register("worker").await;
    let config = TaskConfig {
        command: "sleep".into(),
        ..TaskConfig::default()
    };
    let (runs, waits) = (
        give(&site, &agent, config.clone()).await,
        give(&site, &agent, config).await,
    );
    assert_eq!(beat(&site, &agent, &[&runs.id]).await, std::slice::from_ref(&waits.id));
    site.restart().await;
    assert_eq!(look(&site, &runs.id).await.state(), TaskState::Running);
    assert_eq!(beat(&site, &agent, &[&runs.id]).await, std::slice::from_ref(&waits.id));
    let worker = Stream::open(&site, &runs.id, Some(&agent)).await;
    let mut watcher = Stream::open(&site, &runs.id, None).await;
    worker.say(Say::Complete(TaskComplete::default())).await;
    watcher.until(TaskState::Completed).await;
    site.restart().await;
    assert_eq!(look(&site, &runs.id).await.state(), TaskState::Completed);
}

#[tokio::test]
async fn a_listing_honours_every_filter() {
    let site = Site::new().await;
    let agent = site.register("worker").await;
    let first = give(&site, &agent, TaskConfig::default()).await;
    let request = ExecuteTaskRequest {
        agent_id: agent.clone(),
        session_id: "other".into(),
        r#type: TaskType::FileOperation.into(),
        priority: TaskPriority::High.into(),
        config: Some(TaskConfig::default()),
    };
    let second = site
        .agent()
        .execute_task(request)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    beat(&site, &agent, &[&second.id]).await;
    let list = |filter: TaskFilter| {
        let (mut client, agent_id) = (site.agent(), agent.clone());
        async move {
            let request = ListTasksRequest {
                agent_id,
                filter: Some(filter),
                ..ListTasksRequest::default()
            };
            let listed = client.list_tasks(request).await.unwrap().into_inner();
            assert_eq!(listed.total_count as usize, listed.tasks.len());
            listed.tasks.into_iter().map(|task| task.id).collect::<Vec<_>>()
        }
    };
    let only = [second.id.clone()];
    assert_eq!(list(TaskFilter::default()).await, [first.id.clone(), second.id.clone()]);
    assert_eq!(
        list(TaskFilter {
            state: TaskState::Running.into(),
            ..TaskFilter::default()
        })
        .await,
        only
    );
    assert_eq!(
        list(TaskFilter {
            r#type: TaskType::FileOperation.into(),
            ..TaskFilter::default()
        })
        .await,
        only
    );
    assert_eq!(
        list(TaskFilter {
            priority: TaskPriority::High.into(),
            ..TaskFilter::default()
        })
        .await,
        only
    );
    assert_eq!(
        list(TaskFilter {
            session_id: "other".into(),
            ..TaskFilter::default()
        })
        .await,
        only
    );
    assert_eq!(
        list(TaskFilter {
            created_after: first.created_at,
            ..TaskFilter::default()
        })
        .await,
        only
    );
    assert_eq!(
        list(TaskFilter {
            created_before: second.created_at,
            ..TaskFilter::default()
        })
        .await,
        [first.id]
    );
    let unknown = ListTasksRequest {
        agent_id: "nobody".into(),
        ..ListTasksRequest::default()
    };
    assert!(
        site.agent()
            .list_tasks(unknown)
            .await
            .unwrap()
            .into_inner()
            .tasks
            .is_empty()
    );
}

#[tokio::test]
async fn a_stream_task_begins_and_ends_as_it_should() {
    let site = Site::new().await;
    let open = |frames: Vec<StreamTaskRequest>| {
        let mut client = site.agent();
        async move {
            client
                .stream_task(tokio_stream::iter(frames))
                .await
                .unwrap()
                .into_inner()
        }
    };
    let beat = StreamTaskRequest {
        payload: Some(Say::Heartbeat(())),
        ..StreamTaskRequest::default()
    };
    let mut early = open(vec![beat]).await;
    assert!(matches!(
        soon(early.message()).await.unwrap().unwrap().payload,
        Some(Hear::Heartbeat(()))
    ));
    assert_eq!(
        soon(early.message()).await.unwrap(),
        None,
        "half-closed before anything: OK"
    );
    let nameless = StreamTaskRequest {
        payload: Some(Say::Input(TaskInput::default())),
        ..StreamTaskRequest::default()
    };
    let mut stream = open(vec![nameless]).await;
    assert_eq!(
        refused(soon(stream.message()).await, Code::InvalidArgument),
        "first message must contain task_id"
    );
    let unknown = StreamTaskRequest {
        task_id: "nothing".into(),
        payload: None,
    };
    let mut stream = open(vec![unknown]).await;
    assert_eq!(refused(soon(stream.message()).await, Code::NotFound), "task not found");
}

#[tokio::test]
async fn a_watcher_that_closes_its_side_sees_the_end() {
    let site = Site::new().await;
    let agent = site.register("worker").await;
    let task = give(&site, &agent, TaskConfig::default()).await;
    let mut watcher = Stream::open(&site, &task.id, None).await;
    watcher.frames = None;
    let cancel = CancelTaskRequest {
        task_id: task.id.clone(),
        ..CancelTaskRequest::default()
    };
    site.agent().cancel_task(cancel).await.unwrap();
    watcher.until(TaskState::Cancelled).await;
    assert!(matches!(watcher.next().await, Hear::Complete(_)));
    assert_eq!(watcher.end().await.unwrap(), None);
}
