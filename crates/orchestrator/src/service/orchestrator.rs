//! `orchestrator.v1`: sessions, messages, events and status.

use std::pin::Pin;

use futures_core::Stream;
use nexus_daemon::{Caller, Health};
use nexus_proto::common::v1::{Health as Condition, Status as Running};
use nexus_proto::orchestrator::v1::orchestrator_service_server::OrchestratorService;
use nexus_proto::orchestrator::v1::*;
use tonic::{Request, Response, Status, Streaming};

use super::status::refuse;
use super::{VERSION, containers, messages, once, uptime};
use crate::domain::Error;
use crate::domain::event::timestamp;
use crate::engine::Engine;
use crate::engine::containers::Containers;

#[derive(Clone)]
pub struct Service {
    pub engine: Engine,
    pub containers: Containers,
    pub health: Health,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl OrchestratorService for Service {
    type StreamMessagesStream = Pin<Box<dyn Stream<Item = Result<StreamMessageResponse, Status>> + Send>>;
    type SubscribeEventsStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn create_session(&self, request: Request<CreateSessionRequest>) -> Answer<CreateSessionResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "CreateSession").map_err(refuse)?;
        let made = self.engine.create_session(once, &caller, request.into_inner()).await;
        made.map(Response::new).map_err(refuse)
    }

    /// Served by `raw`, on the same path; this one would copy each message to encode it.
    async fn get_session(&self, _: Request<GetSessionRequest>) -> Answer<GetSessionResponse> {
        Err(Status::internal("the session route is missing"))
    }

    async fn list_sessions(&self, request: Request<ListSessionsRequest>) -> Answer<ListSessionsResponse> {
        let caller = Caller::of(&request);
        let page = self.engine.sessions(&caller, request.into_inner()).await;
        let page = page.map_err(refuse)?;
        Ok(Response::new(ListSessionsResponse {
            sessions: page.sessions,
            total_count: i32::try_from(page.total).unwrap_or(i32::MAX),
            next_page_token: page.next,
        }))
    }

    async fn update_session(&self, request: Request<UpdateSessionRequest>) -> Answer<UpdateSessionResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "UpdateSession").map_err(refuse)?;
        let updated = self.engine.update_session(once, &caller, request.into_inner()).await;
        updated.map(Response::new).map_err(refuse)
    }

    async fn close_session(&self, request: Request<CloseSessionRequest>) -> Answer<CloseSessionResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "CloseSession").map_err(refuse)?;
        let request = request.into_inner();
        let closed = self.engine.close_session(once, &caller, request).await;
        closed.map(Response::new).map_err(refuse)
    }

    async fn delete_session(&self, request: Request<DeleteSessionRequest>) -> Answer<DeleteSessionResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "DeleteSession").map_err(refuse)?;
        let deleted = self.engine.delete_session(once, &caller, request.into_inner()).await;
        deleted.map(Response::new).map_err(refuse)
    }

    async fn send_message(&self, request: Request<SendMessageRequest>) -> Answer<SendMessageResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "SendMessage").map_err(refuse)?;
        let request = request.into_inner();
        if request.session_id.is_empty() {
            return Err(refuse(Error::Required("session_id")));
        }
        let message = request.message.ok_or_else(|| refuse(Error::Required("message")))?;
        let sent = self
            .engine
            .send(once, &request.session_id, &caller, message)
            .await
            .map_err(refuse)?;
        Ok(Response::new(SendMessageResponse {
            message_id: sent.id,
            session_id: request.session_id,
            timestamp: sent.timestamp,
        }))
    }

    async fn stream_messages(
        &self,
        request: Request<Streaming<StreamMessageRequest>>,
    ) -> Answer<Self::StreamMessagesStream> {
        let caller = Caller::of(&request);
        Ok(Response::new(Box::pin(messages::stream(
            self.engine.clone(),
            caller,
            request.into_inner(),
        ))))
    }

    /// Served by `raw`, on the same path; this one would encode each event once for each reader.
    async fn subscribe_events(&self, _: Request<SubscribeEventsRequest>) -> Answer<Self::SubscribeEventsStream> {
        Err(Status::internal("the event route is missing"))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        containers::create(&self.containers, request).await
    }

    async fn get_container(&self, request: Request<GetContainerRequest>) -> Answer<GetContainerResponse> {
        containers::get(&self.containers, request).await
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        containers::list(&self.containers, request)
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        containers::stop(&self.containers, request).await
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        containers::remove(&self.containers, request).await
    }

    async fn health_check(&self, _: Request<()>) -> Answer<HealthCheckResponse> {
        let degraded = self.health.degraded();
        let health = if degraded.is_empty() {
            Condition::Healthy
        } else {
            Condition::Degraded
        };
        let mut subsystems: Vec<String> = ["session_manager", "event_bus", "ipc_broker"].map(String::from).into();
        subsystems.extend(degraded.into_iter().map(|(part, why)| format!("{part}: {why}")));
        subsystems.extend(self.engine.last_wake().map(|last| format!("last wake: {last}")));
        Ok(Response::new(HealthCheckResponse {
            health: health.into(),
            version: VERSION.into(),
            subsystems,
        }))
    }

    async fn get_status(&self, _: Request<()>) -> Answer<StatusResponse> {
        let started = self.engine.started();
        let since = started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Response::new(StatusResponse {
            status: Running::Running.into(),
            active_sessions: i32::try_from(self.engine.active_sessions()).unwrap_or(i32::MAX),
            active_containers: i32::try_from(self.containers.active()).unwrap_or(i32::MAX),
            started_at: Some(timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))),
            uptime: Some(uptime(started)),
        }))
    }
}
