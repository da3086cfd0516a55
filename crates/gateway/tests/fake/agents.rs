use std::pin::Pin;

use futures_core::Stream;
use nexus_proto::agent::v1::{agent_service_server::AgentService, *};
use tonic::{Request, Response, Status, Streaming};

use super::Fake;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn absent<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this fake"))
}

#[tonic::async_trait]
impl AgentService for Fake {
    type StreamTaskStream = Answers<StreamTaskResponse>;
    type StreamAgentStream = Answers<StreamAgentResponse>;

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        self.memory().registered.push(request.into_inner());
        self.changed.notify_waiters();
        let answer = RegisterResponse {
            agent_id: "gateway-1".into(),
            registration_token: "token".into(),
            ..RegisterResponse::default()
        };
        Ok(Response::new(answer))
    }

    async fn unregister(&self, _: Request<UnregisterRequest>) -> Result<Response<UnregisterResponse>, Status> {
        Ok(Response::new(UnregisterResponse::default()))
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        Ok(Response::new(HeartbeatResponse::default()))
    }

    async fn execute_task(&self, _: Request<ExecuteTaskRequest>) -> Result<Response<ExecuteTaskResponse>, Status> {
        absent()
    }

    async fn stream_task(
        &self,
        _: Request<Streaming<StreamTaskRequest>>,
    ) -> Result<Response<Self::StreamTaskStream>, Status> {
        absent()
    }

    async fn cancel_task(&self, _: Request<CancelTaskRequest>) -> Result<Response<CancelTaskResponse>, Status> {
        absent()
    }

    async fn list_tasks(&self, _: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        absent()
    }

    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        absent()
    }

    async fn get_task_status(
        &self,
        _: Request<GetTaskStatusRequest>,
    ) -> Result<Response<GetTaskStatusResponse>, Status> {
        absent()
    }

    async fn stream_agent(
        &self,
        _: Request<Streaming<StreamAgentRequest>>,
    ) -> Result<Response<Self::StreamAgentStream>, Status> {
        absent()
    }

    async fn send_message(
        &self,
        _: Request<AgentSendMessageRequest>,
    ) -> Result<Response<AgentSendMessageResponse>, Status> {
        absent()
    }

    async fn health_check(&self, _: Request<()>) -> Result<Response<AgentHealthCheckResponse>, Status> {
        absent()
    }

    async fn get_status(&self, _: Request<()>) -> Result<Response<AgentStatusResponse>, Status> {
        absent()
    }

    async fn get_capabilities(&self, _: Request<()>) -> Result<Response<CapabilitiesResponse>, Status> {
        absent()
    }
}
