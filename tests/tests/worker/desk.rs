//! One session, an orchestrator and a worker, and the calls of a test.

use std::{collections::HashMap, fs, path::PathBuf, time::Duration};

use nexus_client::Connection;
use nexus_proto::agent::v1::{
    CancelTaskRequest, ExecuteTaskRequest, StreamTaskRequest, StreamTaskResponse, TaskConfig, TaskError, TaskResult,
    TaskType, stream_task_request, stream_task_response::Payload,
};
use nexus_tests::{Daemon, PATIENCE, Site, ask};
use serde_json::Value;
use tokio::time::timeout;
use tonic::Streaming;

pub struct Desk {
    pub site: Site,
    pub connection: Connection,
    pub session: String,
}

/// How a task ended.
pub type Ended = Result<TaskResult, TaskError>;

impl Desk {
    pub async fn new() -> Desk {
        Desk::at(Site::new()).await
    }

    pub async fn at(site: Site) -> Desk {
        // An orchestrator that pushes nothing names tasks in the answer to a heartbeat.
        let mut site = site.env("NEXUS_AGENT__HEARTBEAT_INTERVAL", "100ms");
        site.up(&[Daemon::Orchestrator, Daemon::Worker]).await;
        let connection = site.connect();
        let session = ask::create(&connection, "work").await;
        Desk {
            site,
            connection,
            session,
        }
    }

    /// The session's own directory.
    pub fn workspace(&self) -> PathBuf {
        self.site.root().state().join("workspaces").join(&self.session)
    }

    /// A file that somebody else put there: as the session's owner.
    pub fn put(&self, path: &str, content: &[u8]) {
        use std::os::unix::fs::MetadataExt;
        let place = self.workspace().join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, content).unwrap();
        let owner = fs::metadata(self.workspace()).unwrap();
        for part in place.ancestors().take_while(|part| *part != self.workspace()) {
            std::os::unix::fs::chown(part, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
    }

    pub async fn give(&self, config: TaskConfig, kind: TaskType) -> String {
        let request = ExecuteTaskRequest {
            session_id: self.session.clone(),
            config: Some(config),
            r#type: kind.into(),
            ..ExecuteTaskRequest::default()
        };
        let given = self.connection.agent().execute_task(request).await;
        given.expect("a task can be given").into_inner().task_id
    }

    /// A task for a call of a tool.
    pub async fn begin(&self, tool: &str, arguments: Value) -> String {
        let config = TaskConfig {
            command: tool.into(),
            input_data: arguments.to_string().into(),
            ..TaskConfig::default()
        };
        self.give(config, TaskType::ToolExecution).await
    }

    /// A task of the older protocol.
    pub async fn older(&self, command: &str, parameters: &[(&str, &str)]) -> Ended {
        let parameters = parameters.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let config = TaskConfig {
            command: command.into(),
            parameters: parameters.collect::<HashMap<_, _>>(),
            ..TaskConfig::default()
        };
        let task = self.give(config, TaskType::FileOperation).await;
        self.ended(&task).await.0
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Ended {
        let task = self.begin(tool, arguments).await;
        self.ended(&task).await.0
    }

    /// What the model is told.
    pub async fn told(&self, tool: &str, arguments: Value) -> String {
        match self.call(tool, arguments.clone()).await {
            Ok(result) => result.output_text,
            Err(error) => panic!("{tool} {arguments}: {}: {}", error.code, error.message),
        }
    }

    /// The code of the failure, and what the model is told.
    pub async fn refused(&self, tool: &str, arguments: Value) -> (String, String) {
        match self.call(tool, arguments.clone()).await {
            Ok(result) => panic!("{tool} {arguments}: {}", result.output_text),
            Err(error) => (error.code, error.message),
        }
    }

    /// The end of a task, and what of its output was seen before.
    pub async fn ended(&self, task: &str) -> (Ended, Vec<u8>) {
        let mut stream = self.watch(task).await;
        let mut seen = Vec::new();
        let mut next = 1;
        loop {
            let frame = timeout(2 * PATIENCE, stream.message()).await;
            let frame = frame.unwrap_or_else(|_| panic!("the task {task} does not end"));
            let Some(StreamTaskResponse { payload }) = frame.expect("the stream goes on") else {
                panic!("the stream of {task} ended without a result");
            };
            match payload {
                Some(Payload::Output(output)) => {
                    assert!(output.sequence >= next, "pieces come in order");
                    next = output.sequence + output.data.len() as u64;
                    seen.extend_from_slice(&output.data);
                }
                Some(Payload::Complete(complete)) => return (Ok(complete.result.expect("it has a result")), seen),
                Some(Payload::Error(error)) => return (Err(error), seen),
                _ => {}
            }
        }
    }

    pub async fn watch(&self, task: &str) -> Streaming<StreamTaskResponse> {
        let hello = StreamTaskRequest {
            task_id: task.into(),
            payload: Some(stream_task_request::Payload::Heartbeat(())),
        };
        let (frames, outbound) = tokio::sync::mpsc::channel(1);
        frames.send(hello).await.unwrap();
        let outbound = tokio_stream::wrappers::ReceiverStream::new(outbound);
        // The own side stays open as long as the stream is read.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(120)).await;
            drop(frames);
        });
        let stream = self.connection.agent().stream_task(outbound).await;
        stream.expect("a task can be watched").into_inner()
    }

    pub async fn cancel(&self, task: &str) {
        let request = CancelTaskRequest {
            task_id: task.into(),
            reason: "a test".into(),
            force: false,
        };
        let cancelled = self.connection.agent().cancel_task(request).await;
        assert!(cancelled.expect("it can be cancelled").into_inner().cancelled);
    }
}

/// How many processes of this host have this word in their arguments.
pub fn alive(word: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let named = entries.filter(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.windows(word.len()).any(|part| part == word.as_bytes())
    });
    named.count()
}

/// Waits until this holds, and says how long that took.
pub async fn until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < within, "not after {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}
