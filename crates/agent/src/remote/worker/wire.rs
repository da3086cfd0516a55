//! Tasks: what the orchestrator says of one, and the stream on which a worker reports.

use nexus_client::{Error, Kind};
use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, ControlCommand, EventMessage, GetTaskStatusRequest, MessageType,
    StreamAgentRequest, StreamTaskRequest, StreamTaskResponse, Task, TaskComplete, TaskError, TaskInput, TaskOutput,
    TaskResult, TaskState, TaskStatusUpdate, agent_message, stream_agent_request, stream_task_request,
    stream_task_response,
};
use nexus_proto::words;
use tokio_stream::Stream;
use tonic::{Request, Streaming};

use crate::engine::worker::Notice;
use crate::remote::Orchestrator;
use crate::remote::message::new_id;

/// What a worker says of its task.
#[derive(Clone, Debug)]
pub enum Frame {
    /// It is worked on; with what is said of it.
    Running(String),
    /// A piece of output, and its place in all of it, from 1.
    Output {
        sequence: u64,
        bytes: Vec<u8>,
    },
    Complete(TaskResult),
    Failed {
        code: String,
        message: String,
    },
    Heartbeat,
}

impl Frame {
    pub fn encode(self, task_id: &str) -> StreamTaskRequest {
        use stream_task_request::Payload;
        let payload = match self {
            Frame::Running(message) => Payload::Status(TaskStatusUpdate {
                state: TaskState::Running.into(),
                message,
                ..TaskStatusUpdate::default()
            }),
            Frame::Output { sequence, bytes } => Payload::Output(TaskOutput {
                text: String::from_utf8_lossy(&bytes).into_owned(),
                data: bytes.into(),
                stream_type: "stdout".into(),
                sequence,
            }),
            Frame::Complete(result) => Payload::Complete(TaskComplete {
                task_id: task_id.to_owned(),
                completed_at: result.completed_at,
                result: Some(result),
            }),
            Frame::Failed { code, message } => Payload::ErrorMsg(TaskError {
                code,
                message,
                occurred_at: Some(std::time::SystemTime::now().into()),
                ..TaskError::default()
            }),
            Frame::Heartbeat => Payload::Heartbeat(()),
        };
        StreamTaskRequest {
            task_id: task_id.to_owned(),
            payload: Some(payload),
        }
    }
}

/// What a worker is told.
#[derive(Debug, PartialEq)]
pub enum News {
    /// On the stream of a worker: there is work. With the task where the orchestrator sends it along.
    Offered(String, Option<Box<Task>>),
    /// The task is not wanted any more.
    Cancel {
        task_id: String,
        force: bool,
    },
    /// The session is over: nothing of it is to run any more.
    EndSession(String),
    /// Input for the task that a stream is about.
    Input(Vec<u8>),
    /// The task that a stream is about is over.
    Over,
    Nothing,
}

impl News {
    /// From the stream of the agent.
    pub fn of_message(message: AgentMessage) -> News {
        let kind = message.r#type();
        let metadata = message.metadata.unwrap_or_default();
        match (kind, message.payload) {
            (
                MessageType::TaskRequest | MessageType::TaskUpdate,
                Some(agent_message::Payload::TaskMessage(mut told)),
            ) => match told.state() {
                TaskState::Cancelled => News::Cancel {
                    task_id: told.task_id,
                    force: false,
                },
                _ if !told.task_id.is_empty() => News::Offered(told.task_id, told.task.take().map(Box::new)),
                _ => News::Nothing,
            },
            (MessageType::Control, Some(agent_message::Payload::ControlMessage(control))) => {
                let given = |name: &str| control.parameters.get(name).filter(|value| !value.is_empty()).cloned();
                match control.command() {
                    ControlCommand::Cancel => match given("task_id").or(Some(metadata.correlation_id)) {
                        Some(task_id) if !task_id.is_empty() => News::Cancel {
                            task_id,
                            force: given("force").as_deref() == Some("true"),
                        },
                        _ => News::Nothing,
                    },
                    ControlCommand::Shutdown => match given("session_id").or(Some(metadata.session_id)) {
                        Some(session_id) if !session_id.is_empty() => News::EndSession(session_id),
                        _ => News::Nothing,
                    },
                    _ => News::Nothing,
                }
            }
            _ => News::Nothing,
        }
    }

    /// From the stream of a task.
    pub fn of_task(response: StreamTaskResponse, task_id: &str) -> News {
        use stream_task_response::Payload;
        let cancel = |force| News::Cancel {
            task_id: task_id.to_owned(),
            force,
        };
        match response.payload {
            Some(Payload::Cancel(asked)) => cancel(asked.force),
            // Only said to a worker whose task is to end.
            Some(Payload::Status(status)) => match status.state() {
                TaskState::Cancelled | TaskState::Timeout | TaskState::Failed => cancel(false),
                _ => News::Nothing,
            },
            Some(Payload::Input(TaskInput { data, .. })) => News::Input(data.to_vec()),
            Some(Payload::Complete(_) | Payload::Error(_)) => News::Over,
            Some(Payload::Output(_) | Payload::Progress(_) | Payload::Heartbeat(())) | None => News::Nothing,
        }
    }
}

impl Orchestrator {
    /// The stream of a task for the agent that works on it.
    pub async fn work_on(
        &self,
        agent_id: &str,
        frames: impl Stream<Item = StreamTaskRequest> + Send + 'static,
    ) -> Result<Streaming<StreamTaskResponse>, Error> {
        let mut request = Request::new(frames);
        let value = agent_id
            .parse()
            .map_err(|_| Error::new(Kind::Internal, "the agent's id cannot be sent"))?;
        request.metadata_mut().insert(words::metadata::AGENT_ID, value);
        Ok(self.connection().agent().stream_task(request).await?.into_inner())
    }

    pub async fn task(&self, task_id: &str) -> Result<Task, Error> {
        let request = GetTaskStatusRequest {
            task_id: task_id.to_owned(),
        };
        let answer = self.connection().agent().get_task_status(request).await?;
        let missing = || Error::new(Kind::Internal, "the orchestrator answered without the task");
        answer.into_inner().task.ok_or_else(missing)
    }
}

/// The event by which an orchestrator hears that a process ended that no call waits for.
const PROCESS_EXITED: &str = "process.exited";

/// The end of a process, as the orchestrator is told.
pub fn notice(told: Notice, agent_id: &str) -> StreamAgentRequest {
    let data = [
        ("session_id", told.session_id.clone()),
        ("process_id", told.process_id),
        ("call_id", told.call_id),
        ("command", told.command),
        ("exit_code", told.exit_code.to_string()),
    ];
    let event = EventMessage {
        event_type: PROCESS_EXITED.into(),
        source: agent_id.to_owned(),
        data: data.map(|(name, value)| (name.to_owned(), value)).into(),
    };
    StreamAgentRequest {
        agent_id: agent_id.to_owned(),
        payload: Some(stream_agent_request::Payload::Message(AgentMessage {
            id: new_id(),
            r#type: MessageType::Event.into(),
            timestamp: Some(std::time::SystemTime::now().into()),
            source_id: agent_id.to_owned(),
            target_id: "orchestrator".into(),
            metadata: Some(AgentMessageMetadata {
                session_id: told.session_id,
                ..AgentMessageMetadata::default()
            }),
            payload: Some(agent_message::Payload::EventMessage(event)),
        })),
    }
}

/// Whether nothing more is to be done for a task.
pub fn is_over(task: &Task) -> bool {
    matches!(
        task.state(),
        TaskState::Completed | TaskState::Failed | TaskState::Cancelled | TaskState::Timeout
    )
}
