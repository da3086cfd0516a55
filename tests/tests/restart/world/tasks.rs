//! Tasks: waiting, running and over.

use nexus_client::Connection;
use nexus_proto::agent::v1::{
    ExecuteTaskRequest, GetTaskStatusRequest, HeartbeatRequest, ListTasksRequest, RegisterRequest, StreamTaskRequest,
    Task, TaskComplete, TaskConfig, TaskPriority, TaskResult, TaskState, TaskStatusUpdate, TaskType,
    stream_task_request::Payload,
};
use nexus_tests::PATIENCE;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

pub struct Made {
    worker: String,
    /// Waiting, running, over.
    ids: [String; 3],
}

async fn execute(connection: &Connection, worker: &str, command: &str) -> String {
    let config = TaskConfig {
        command: command.into(),
        arguments: vec!["--fast".into()],
        environment: [("A".to_owned(), "b".to_owned())].into(),
        input_data: vec![0, 1, 2, 255].into(),
        timeout_ns: 3600 * 1_000_000_000,
        ..TaskConfig::default()
    };
    let request = ExecuteTaskRequest {
        agent_id: worker.into(),
        session_id: "some-session".into(),
        config: Some(config),
        r#type: TaskType::CodeExecution.into(),
        priority: TaskPriority::High.into(),
    };
    connection
        .agent()
        .execute_task(request)
        .await
        .unwrap()
        .into_inner()
        .task_id
}

/// Says these things about a task as its worker, until the server has heard them.
async fn work(connection: &Connection, task: &str, said: Vec<Payload>, until: TaskState) {
    let (say, frames) = mpsc::channel(8);
    for payload in said {
        let frame = StreamTaskRequest {
            task_id: task.into(),
            payload: Some(payload),
        };
        say.try_send(frame).unwrap();
    }
    let mut stream = connection
        .agent()
        .stream_task(ReceiverStream::new(frames))
        .await
        .unwrap()
        .into_inner();
    timeout(PATIENCE, async {
        while status(connection, task).await.state() != until {
            // Each answer of the server may have brought it there.
            let beat = StreamTaskRequest {
                task_id: task.into(),
                payload: Some(Payload::Heartbeat(())),
            };
            if say.send(beat).await.is_err() || stream.next().await.is_none() {
                tokio::task::yield_now().await;
            }
        }
    })
    .await
    .expect("the server takes what a worker says");
}

async fn status(connection: &Connection, task: &str) -> Task {
    let request = GetTaskStatusRequest { task_id: task.into() };
    let answer = connection.agent().get_task_status(request).await;
    answer.unwrap().into_inner().task.unwrap()
}

fn running() -> Payload {
    Payload::Status(TaskStatusUpdate {
        state: TaskState::Running.into(),
        ..TaskStatusUpdate::default()
    })
}

fn complete(task: &str) -> Payload {
    let result = TaskResult {
        exit_code: 0,
        output_text: "done".into(),
        ..TaskResult::default()
    };
    Payload::Complete(TaskComplete {
        task_id: task.into(),
        result: Some(result),
        completed_at: None,
    })
}

pub async fn make(connection: &Connection) -> Made {
    // Not one of the agents that are looked at elsewhere: registered after them, and gone from no list.
    let request = RegisterRequest {
        name: "task-worker".into(),
        ..RegisterRequest::default()
    };
    let worker = connection
        .agent()
        .register(request)
        .await
        .unwrap()
        .into_inner()
        .agent_id;
    let waiting = execute(connection, &worker, "waiting").await;
    let active = execute(connection, &worker, "active").await;
    work(connection, &active, vec![running()], TaskState::Running).await;
    let over = execute(connection, &worker, "over").await;
    work(
        connection,
        &over,
        vec![running(), complete(&over)],
        TaskState::Completed,
    )
    .await;
    Made {
        worker,
        ids: [waiting, active, over],
    }
}

pub async fn look(connection: &Connection, made: &Made) -> Vec<Task> {
    let request = ListTasksRequest {
        agent_id: made.worker.clone(),
        ..ListTasksRequest::default()
    };
    let tasks = connection.agent().list_tasks(request).await.unwrap().into_inner().tasks;
    assert_eq!(tasks.len(), 3);
    tasks
}

pub async fn go_on(connection: &Connection, made: &Made) {
    let [waiting, active, over] = &made.ids;
    let done = status(connection, over).await;
    assert_eq!(done.result.as_ref().map(|result| &*result.output_text), Some("done"));
    // Its worker says that it still runs the one; the other is offered.
    let request = HeartbeatRequest {
        agent_id: made.worker.clone(),
        active_tasks: vec![active.clone()],
        ..HeartbeatRequest::default()
    };
    let offered = connection
        .agent()
        .heartbeat(request)
        .await
        .unwrap()
        .into_inner()
        .pending_tasks;
    assert_eq!(offered, std::slice::from_ref(waiting));
    work(connection, active, vec![complete(active)], TaskState::Completed).await;
    work(
        connection,
        waiting,
        vec![running(), complete(waiting)],
        TaskState::Completed,
    )
    .await;
}
