//! `agent.v1` of one agent: how it is, what it can do, and an end to one of its turns. The registry of agents and
//! tasks is the orchestrator's.

use std::{
    pin::Pin,
    time::{SystemTime, UNIX_EPOCH},
};

use nexus_daemon::status;
use nexus_proto::{
    agent::v1::{
        AgentHealthCheckResponse, AgentSendMessageRequest, AgentSendMessageResponse, AgentState, AgentStatusResponse,
        CancelTaskRequest, CancelTaskResponse, CapabilitiesResponse, ExecuteTaskRequest, ExecuteTaskResponse,
        GetTaskStatusRequest, GetTaskStatusResponse, HeartbeatRequest, HeartbeatResponse, ListAgentsRequest,
        ListAgentsResponse, ListTasksRequest, ListTasksResponse, RegisterRequest, RegisterResponse, StreamAgentRequest,
        StreamAgentResponse, StreamTaskRequest, StreamTaskResponse, TaskState, UnregisterRequest, UnregisterResponse,
        agent_service_server::AgentService,
    },
    common::v1::Status as State,
};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    domain::assistant::turn_queue::TurnId,
    engine::{Board, assistant},
    remote::{Profile, worker},
};

/// What this agent does.
pub enum Work {
    Assistant(assistant::Handle),
    Worker(worker::Handle),
}

impl Work {
    /// False if there is no such turn or task (any more).
    async fn cancel(&self, id: &str, force: bool) -> bool {
        match self {
            Work::Assistant(turns) => turns.cancel(TurnId(id.to_owned())).await,
            Work::Worker(tasks) => tasks.cancel(id, force),
        }
    }
}

pub struct Service {
    engine: Work,
    board: Board,
    profile: Profile,
}

impl Service {
    pub fn new(engine: Work, board: Board, profile: Profile) -> Self {
        Service { engine, board, profile }
    }
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Service {
    type StreamTaskStream = Items<StreamTaskResponse>;
    type StreamAgentStream = Items<StreamAgentResponse>;

    async fn health_check(&self, _: Request<()>) -> Result<Response<AgentHealthCheckResponse>, Status> {
        Ok(Response::new(AgentHealthCheckResponse {
            status: self.state().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            subsystems: vec![
                "orchestrator_stream".into(),
                match self.engine {
                    Work::Assistant(_) => "turns".into(),
                    Work::Worker(_) => "tasks".into(),
                },
            ],
        }))
    }

    async fn get_status(&self, _: Request<()>) -> Result<Response<AgentStatusResponse>, Status> {
        let figures = self.board.figures();
        let state = match (&figures.agent_id, figures.connected, figures.active) {
            (None, ..) | (_, false, _) => AgentState::Registering,
            (_, true, 0) => AgentState::Idle,
            (_, true, _) => AgentState::Busy,
        };
        let up = SystemTime::now().duration_since(figures.started_at).unwrap_or_default();
        Ok(Response::new(AgentStatusResponse {
            status: self.state().into(),
            state: state.into(),
            active_tasks: i32::try_from(figures.active + figures.waiting).unwrap_or(i32::MAX),
            started_at: Some(figures.started_at.into()),
            uptime: Some((UNIX_EPOCH + up).into()),
            ..AgentStatusResponse::default()
        }))
    }

    async fn get_capabilities(&self, _: Request<()>) -> Result<Response<CapabilitiesResponse>, Status> {
        Ok(Response::new(CapabilitiesResponse {
            capabilities: Some(self.profile.capabilities()),
        }))
    }

    /// A turn's name here is the correlation id it came with.
    async fn cancel_task(&self, request: Request<CancelTaskRequest>) -> Result<Response<CancelTaskResponse>, Status> {
        let CancelTaskRequest { task_id, force, .. } = request.into_inner();
        if task_id.is_empty() {
            return Err(status(Code::InvalidArgument, "task_id is required", "task_id_missing"));
        }
        if !self.engine.cancel(&task_id, force).await {
            return Err(status(Code::NotFound, "task not found", "task_not_found"));
        }
        Ok(Response::new(CancelTaskResponse {
            task_id,
            state: TaskState::Cancelled.into(),
            cancelled: true,
        }))
    }

    async fn register(&self, _: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        Err(elsewhere("Register"))
    }

    async fn unregister(&self, _: Request<UnregisterRequest>) -> Result<Response<UnregisterResponse>, Status> {
        Err(elsewhere("Unregister"))
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        Err(elsewhere("Heartbeat"))
    }

    async fn execute_task(&self, _: Request<ExecuteTaskRequest>) -> Result<Response<ExecuteTaskResponse>, Status> {
        Err(elsewhere("ExecuteTask"))
    }

    async fn stream_task(
        &self,
        _: Request<Streaming<StreamTaskRequest>>,
    ) -> Result<Response<Self::StreamTaskStream>, Status> {
        Err(elsewhere("StreamTask"))
    }

    async fn list_tasks(&self, _: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        Err(elsewhere("ListTasks"))
    }

    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        Err(elsewhere("ListAgents"))
    }

    async fn get_task_status(
        &self,
        _: Request<GetTaskStatusRequest>,
    ) -> Result<Response<GetTaskStatusResponse>, Status> {
        Err(elsewhere("GetTaskStatus"))
    }

    async fn stream_agent(
        &self,
        _: Request<Streaming<StreamAgentRequest>>,
    ) -> Result<Response<Self::StreamAgentStream>, Status> {
        Err(elsewhere("StreamAgent"))
    }

    async fn send_message(
        &self,
        _: Request<AgentSendMessageRequest>,
    ) -> Result<Response<AgentSendMessageResponse>, Status> {
        Err(elsewhere("SendMessage"))
    }
}

impl Service {
    fn state(&self) -> State {
        if self.board.degraded().is_empty() && self.board.figures().connected {
            State::Running
        } else {
            State::Starting
        }
    }
}

fn elsewhere(method: &str) -> Status {
    let message = format!("an agent keeps no registry: call {method} on the orchestrator");
    status(Code::Unimplemented, message, "orchestrator_only")
}
