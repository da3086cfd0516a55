//! `agent.v1`: registration, tasks, and the streams of agents.

use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use futures_util::stream;
use nexus_daemon::Caller;
use nexus_proto::agent::v1::agent_service_server::AgentService;
use nexus_proto::agent::v1::*;
use nexus_proto::common::v1::{ResourceLimits, Status as Running};
use nexus_proto::words;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, Streaming};

use super::status::refuse;
use super::{DecodeFailure, VERSION, once, uptime};
use crate::domain::Error;
use crate::domain::event::timestamp;
use crate::engine::{Engine, Link, Watcher};

#[derive(Clone, Debug)]
pub struct Service {
    pub engine: Engine,
}

type Answer<T> = Result<Response<T>, Status>;

fn required(value: &str, name: &'static str) -> Result<(), Status> {
    if value.is_empty() {
        Err(refuse(Error::Required(name)))
    } else {
        Ok(())
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type StreamTaskStream = Pin<Box<dyn Stream<Item = Result<StreamTaskResponse, Status>> + Send>>;
    type StreamAgentStream = Pin<Box<dyn Stream<Item = Result<StreamAgentResponse, Status>> + Send>>;

    async fn register(&self, request: Request<RegisterRequest>) -> Answer<RegisterResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "Register").map_err(refuse)?;
        self.engine
            .register(once, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn unregister(&self, request: Request<UnregisterRequest>) -> Answer<UnregisterResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "Unregister").map_err(refuse)?;
        self.engine
            .unregister(once, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answer<HeartbeatResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "Heartbeat").map_err(refuse)?;
        self.engine
            .heartbeat(once, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn execute_task(&self, request: Request<ExecuteTaskRequest>) -> Answer<ExecuteTaskResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "ExecuteTask").map_err(refuse)?;
        let task = self
            .engine
            .execute_task(once, &caller, request.into_inner())
            .await
            .map_err(refuse)?;
        Ok(Response::new(ExecuteTaskResponse {
            task_id: task.id.clone(),
            task: Some(task),
        }))
    }

    async fn stream_task(&self, request: Request<Streaming<StreamTaskRequest>>) -> Answer<Self::StreamTaskStream> {
        let caller = Caller::of(&request);
        let agent_id = request
            .metadata()
            .get(words::metadata::AGENT_ID)
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let watcher = self.engine.watch(caller);
        let decode_failure = DecodeFailure::default();
        let reader = tokio::spawn(read_task(
            self.engine.clone(),
            watcher.clone(),
            agent_id,
            request.into_inner(),
            decode_failure.clone(),
        ));
        let watching = Watching {
            engine: self.engine.clone(),
            watcher,
            reader,
            decode_failure,
        };
        Ok(Response::new(Box::pin(stream::try_unfold(
            watching,
            |watching| async move {
                match watching.watcher.next().await.map_err(refuse)? {
                    Some(frame) => Ok(Some((frame, watching))),
                    None => watching
                        .decode_failure
                        .get()
                        .map_or(Ok(None), |status| Err(status.clone())),
                }
            },
        ))))
    }

    async fn cancel_task(&self, request: Request<CancelTaskRequest>) -> Answer<CancelTaskResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "CancelTask").map_err(refuse)?;
        self.engine
            .cancel_task(once, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Answer<ListTasksResponse> {
        let caller = Caller::of(&request);
        let tasks = self.engine.tasks(&caller, request.into_inner()).await;
        tasks.map(Response::new).map_err(refuse)
    }

    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Answer<ListAgentsResponse> {
        let agents = self.engine.agents(&Caller::of(&request));
        Ok(Response::new(ListAgentsResponse { agents }))
    }

    async fn get_task_status(&self, request: Request<GetTaskStatusRequest>) -> Answer<GetTaskStatusResponse> {
        let caller = Caller::of(&request);
        let task = self
            .engine
            .task(&request.get_ref().task_id, &caller)
            .await
            .map_err(refuse)?;
        Ok(Response::new(GetTaskStatusResponse { task: Some(task) }))
    }

    async fn stream_agent(&self, request: Request<Streaming<StreamAgentRequest>>) -> Answer<Self::StreamAgentStream> {
        let caller = Caller::of(&request);
        Ok(Response::new(Box::pin(agent_stream(
            self.engine.clone(),
            caller,
            request.into_inner(),
        ))))
    }

    async fn send_message(&self, request: Request<AgentSendMessageRequest>) -> Answer<AgentSendMessageResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "AgentSendMessage").map_err(refuse)?;
        let request = request.into_inner();
        required(&request.agent_id, "agent_id")?;
        let message = request.message.ok_or_else(|| refuse(Error::Required("message")))?;
        self.engine
            .send_to_agent(once, &caller, &request.agent_id, message)
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn health_check(&self, _: Request<()>) -> Answer<AgentHealthCheckResponse> {
        Ok(Response::new(AgentHealthCheckResponse {
            status: Running::Running.into(),
            version: VERSION.into(),
            subsystems: vec!["agent_registry".into(), "task_manager".into()],
        }))
    }

    async fn get_status(&self, _: Request<()>) -> Answer<AgentStatusResponse> {
        let started = self.engine.started();
        let since = started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Response::new(AgentStatusResponse {
            status: Running::Running.into(),
            state: AgentState::Idle.into(),
            active_tasks: i32::try_from(self.engine.active_tasks()).unwrap_or(i32::MAX),
            started_at: Some(timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))),
            uptime: Some(uptime(started)),
            resources: None,
        }))
    }

    async fn get_capabilities(&self, _: Request<()>) -> Answer<CapabilitiesResponse> {
        let tasks = ["code_execution", "file_operation", "tool_execution"];
        Ok(Response::new(CapabilitiesResponse {
            capabilities: Some(AgentCapabilities {
                supported_tasks: tasks.map(String::from).into(),
                supported_tools: ["bash", "python", "file_reader"].map(String::from).into(),
                max_concurrent_tasks: 10,
                resource_limits: Some(ResourceLimits {
                    nano_cpus: 1_000_000_000,
                    memory_bytes: 1 << 30,
                    ..ResourceLimits::default()
                }),
                supports_streaming: true,
                supports_cancellation: true,
                supported_protocols: ["grpc", "uds"].map(String::from).into(),
            }),
        }))
    }
}

/// Dropping it is leaving.
struct Watching {
    engine: Engine,
    watcher: Arc<Watcher>,
    reader: JoinHandle<()>,
    decode_failure: DecodeFailure,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.reader.abort();
        self.engine.unwatch(&self.watcher);
    }
}

async fn read_task(
    engine: Engine,
    watcher: Arc<Watcher>,
    agent_id: Option<String>,
    mut inbound: Streaming<StreamTaskRequest>,
    decode_failure: DecodeFailure,
) {
    use stream_task_request::Payload;
    let mut named = String::new();
    let end = loop {
        let mut frame = match inbound.message().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break Ok(()),
            Err(status) => {
                let _first = decode_failure.set(status);
                break Ok(());
            }
        };
        let beat = matches!(frame.payload, Some(Payload::Heartbeat(())));
        if watcher.task().is_none() {
            // A heartbeat names the task as well as any frame; later ones may leave it out.
            if !frame.task_id.is_empty() {
                named = std::mem::take(&mut frame.task_id);
            }
            if named.is_empty() && !beat {
                break Err(Error::FirstMessage("task_id"));
            }
            match engine.watch_task(&watcher, &named, agent_id.as_deref()).await {
                Ok(()) => {}
                Err(_) if beat => {
                    watcher.heartbeat();
                    continue;
                }
                Err(error) => break Err(error),
            }
        }
        if let Some(payload) = frame.payload
            && let Err(error) = engine.task_said(&watcher, payload).await
        {
            break Err(error);
        }
    };
    match end {
        // A client that only watches may end its side; the task's end ends the stream.
        Ok(()) if decode_failure.get().is_none() && engine.is_open_task(watcher.task()) => {}
        end => watcher.end(end),
    }
}

/// An agent's stream: its first frame names it.
fn agent_stream(
    engine: Engine,
    caller: Caller,
    inbound: Streaming<StreamAgentRequest>,
) -> impl Stream<Item = Result<StreamAgentResponse, Status>> + Send {
    stream::try_unfold(
        Talk::Opening {
            engine,
            caller,
            inbound,
        },
        |talk| async move {
            match talk {
                Talk::Opening {
                    engine,
                    caller,
                    inbound,
                } => open(engine, caller, inbound).await,
                Talk::Open(talking) => talking.next().await,
            }
        },
    )
}

#[expect(clippy::large_enum_variant, reason = "one for each stream, and it is moved once")]
enum Talk {
    Opening {
        engine: Engine,
        caller: Caller,
        inbound: Streaming<StreamAgentRequest>,
    },
    Open(Talking),
}

struct Talking {
    engine: Engine,
    link: Arc<Link>,
    reader: JoinHandle<()>,
    decode_failure: DecodeFailure,
}

impl Talking {
    async fn next(self) -> Result<Option<(StreamAgentResponse, Talk)>, Status> {
        match self.link.next().await.map_err(refuse)? {
            Some(frame) => Ok(Some((frame, Talk::Open(self)))),
            None => self.decode_failure.get().map_or(Ok(None), |status| Err(status.clone())),
        }
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        self.reader.abort();
        let (engine, link) = (self.engine.clone(), self.link.clone());
        tokio::spawn(async move {
            if let Err(error) = engine.unlink(&link).await {
                tracing::warn!(%error, "failed to record the end of an agent's stream");
            }
        });
    }
}

async fn open(
    engine: Engine,
    caller: Caller,
    mut inbound: Streaming<StreamAgentRequest>,
) -> Result<Option<(StreamAgentResponse, Talk)>, Status> {
    use stream_agent_request::Payload;
    let Some(first) = inbound.message().await? else {
        return Ok(None);
    };
    let linked = match first.agent_id.as_str() {
        "" => Err(Error::FirstMessage("agent_id")),
        id => engine.link(id, &caller).await,
    };
    let beat = matches!(first.payload, Some(Payload::Heartbeat(())));
    let link = match linked {
        // Before an agent is named, or for one that is not there, a heartbeat is only a heartbeat.
        Err(Error::FirstMessage(_) | Error::AgentNotFound) if beat => {
            let beat = StreamAgentResponse {
                payload: Some(stream_agent_response::Payload::Heartbeat(())),
            };
            return Ok(Some((
                beat,
                Talk::Opening {
                    engine,
                    caller,
                    inbound,
                },
            )));
        }
        linked => linked.map_err(refuse)?,
    };
    let decode_failure = DecodeFailure::default();
    let reader = tokio::spawn(read_agent(
        engine.clone(),
        link.clone(),
        first,
        inbound,
        decode_failure.clone(),
    ));
    Talking {
        engine,
        link,
        reader,
        decode_failure,
    }
    .next()
    .await
}

async fn read_agent(
    engine: Engine,
    link: Arc<Link>,
    first: StreamAgentRequest,
    mut inbound: Streaming<StreamAgentRequest>,
    decode_failure: DecodeFailure,
) {
    use stream_agent_request::Payload;
    let mut next = Some(first);
    while let Some(frame) = next {
        let taken = match frame.payload {
            Some(Payload::Heartbeat(())) => engine.link_heartbeat(&link).await,
            Some(Payload::Message(message)) => engine.agent_said(&link, message).await,
            None => Ok(()),
        };
        if let Err(error) = taken {
            tracing::warn!(%error, agent = link.agent, "failed to take an agent's message");
        }
        next = inbound.message().await.unwrap_or_else(|status| {
            let _first = decode_failure.set(status);
            None
        });
    }
    link.finish();
}
