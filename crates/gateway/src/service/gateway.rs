//! `gateway.v1.GatewayService`.

use std::{
    future::ready,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use nexus_daemon::Caller;
use nexus_proto::words;
use nexus_proto::{
    common::v1::{Health, Status as WireStatus},
    gateway::v1::{
        CloseGatewaySessionRequest, CloseGatewaySessionResponse, CreateGatewaySessionRequest,
        CreateGatewaySessionResponse, GatewayEvent, GatewayHealthCheckResponse, GatewaySendMessageRequest,
        GatewaySendMessageResponse, GatewaySessionState, GatewayStatusResponse, GetGatewaySessionRequest,
        GetGatewaySessionResponse, ListGatewaySessionsRequest, ListGatewaySessionsResponse, StreamChatRequest,
        StreamChatResponse, StreamResponsesRequest, StreamResponsesResponse, SubscribeToEventsRequest,
        gateway_service_server::GatewayService,
    },
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use crate::{
    Error, domain,
    engine::{Counted, Handle},
};

const SUBSYSTEMS: [&str; 3] = ["session_manager", "event_log", "orchestrator"];

#[derive(Clone)]
pub struct Service {
    gateway: Handle,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub fn new(gateway: Handle) -> Self {
        Service { gateway }
    }
}

fn key<T>(request: &Request<T>) -> Result<Option<String>, Error> {
    let Some(value) = request.metadata().get(words::metadata::IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| Error::BadKey(256))?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn required(id: String) -> Result<String, Error> {
    if id.is_empty() {
        Err(domain::Error::Missing("session_id").into())
    } else {
        Ok(id)
    }
}

/// The count goes down the moment the answer is dropped, however it ends.
fn counted<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    counted: Counted,
) -> Response<Answers<T>> {
    Response::new(Box::pin(answers.inspect(move |_| {
        let _held = &counted;
    })))
}

#[tonic::async_trait]
impl GatewayService for Service {
    async fn create_gateway_session(
        &self,
        request: Request<CreateGatewaySessionRequest>,
    ) -> Result<Response<CreateGatewaySessionResponse>, Status> {
        let (caller, key) = (Caller::of(&request), key(&request)?);
        let CreateGatewaySessionRequest { metadata, config } = request.into_inner();
        let session = self
            .gateway
            .create(&caller, convert::new_session(metadata, config), key.as_deref())
            .await?;
        Ok(Response::new(CreateGatewaySessionResponse {
            session_id: session.id.clone(),
            session: Some(convert::session(session)),
        }))
    }

    async fn get_gateway_session(
        &self,
        request: Request<GetGatewaySessionRequest>,
    ) -> Result<Response<GetGatewaySessionResponse>, Status> {
        let caller = Caller::of(&request);
        let id = required(request.into_inner().session_id)?;
        let session = convert::session(self.gateway.get(&caller, &id)?);
        Ok(Response::new(GetGatewaySessionResponse { session: Some(session) }))
    }

    async fn list_gateway_sessions(
        &self,
        request: Request<ListGatewaySessionsRequest>,
    ) -> Result<Response<ListGatewaySessionsResponse>, Status> {
        let caller = Caller::of(&request);
        let filter = convert::session_filter(request.into_inner().filter).map_err(Error::from)?;
        let sessions: Vec<_> = self
            .gateway
            .list(&caller, &filter)
            .into_iter()
            .map(convert::session)
            .collect();
        let total_count = i32::try_from(sessions.len()).unwrap_or(i32::MAX);
        Ok(Response::new(ListGatewaySessionsResponse { sessions, total_count }))
    }

    async fn close_gateway_session(
        &self,
        request: Request<CloseGatewaySessionRequest>,
    ) -> Result<Response<CloseGatewaySessionResponse>, Status> {
        let (caller, key) = (Caller::of(&request), key(&request)?);
        let CloseGatewaySessionRequest { session_id, reason } = request.into_inner();
        let session_id = required(session_id)?;
        self.gateway
            .close(&caller, &session_id, &reason, key.as_deref())
            .await?;
        Ok(Response::new(CloseGatewaySessionResponse {
            session_id,
            state: GatewaySessionState::Closed.into(),
        }))
    }

    async fn gateway_send_message(
        &self,
        request: Request<GatewaySendMessageRequest>,
    ) -> Result<Response<GatewaySendMessageResponse>, Status> {
        let (caller, key) = (Caller::of(&request), key(&request)?);
        let GatewaySendMessageRequest { session_id, message } = request.into_inner();
        let session_id = required(session_id)?;
        let message = message.ok_or(Error::Domain(domain::Error::Missing("message")))?;
        let asked = convert::asked(message).map_err(Error::from)?;
        let sent = self.gateway.send(&caller, &session_id, asked, key.as_deref()).await?;
        Ok(Response::new(GatewaySendMessageResponse {
            message_id: sent.message_id,
            session_id: sent.session_id,
            timestamp: Some(convert::timestamp(sent.time)),
        }))
    }

    type StreamChatStream = Answers<StreamChatResponse>;

    async fn stream_chat(
        &self,
        request: Request<Streaming<StreamChatRequest>>,
    ) -> Result<Response<Self::StreamChatStream>, Status> {
        let caller = Caller::of(&request);
        // An error here is a client that is gone, or one whose bytes are no message: there is nothing to go on with, and
        // who is still there is told why.
        let unread = Arc::new(OnceLock::new());
        let seen = unread.clone();
        let frames = request.into_inner().map(move |frame| match frame {
            Ok(frame) => Some(convert::client_frame(frame)),
            Err(status) => {
                let _first = seen.set(status);
                None
            }
        });
        let chat = self.gateway.chat(caller, frames)?;
        let replies = ReceiverStream::new(chat.replies);
        let replies = replies.map(|reply| reply.map(convert::chat_reply).map_err(Status::from));
        let why = stream::once(async move { unread.get().cloned() }).filter_map(|why| ready(why.map(Err)));
        Ok(counted(replies.chain(why), chat.counted))
    }

    type StreamResponsesStream = Answers<StreamResponsesResponse>;

    async fn stream_responses(
        &self,
        request: Request<StreamResponsesRequest>,
    ) -> Result<Response<Self::StreamResponsesStream>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let metadata = request.options.as_ref().is_some_and(|options| options.include_metadata);
        let wanted = convert::wanted(request).map_err(Error::from)?;
        let chat = self.gateway.responses(&caller, wanted).await?;
        let replies = ReceiverStream::new(chat.replies);
        let replies = replies.map(move |reply| reply.map(|reply| convert::responses_reply(reply, metadata)));
        Ok(counted(replies.map(|reply| reply.map_err(Status::from)), chat.counted))
    }

    type SubscribeToEventsStream = Answers<GatewayEvent>;

    async fn subscribe_to_events(
        &self,
        request: Request<SubscribeToEventsRequest>,
    ) -> Result<Response<Self::SubscribeToEventsStream>, Status> {
        let caller = Caller::of(&request);
        let SubscribeToEventsRequest { session_id, filter } = request.into_inner();
        let filter = convert::event_filter(session_id, filter).map_err(Error::from)?;
        let subscription = self.gateway.subscribe(caller, filter).await?;
        let log_id = subscription.log_id;
        let events = ReceiverStream::new(subscription.events);
        let events = events.map(move |logged| match logged {
            Ok(logged) => Ok(convert::event(logged, &log_id)),
            Err(error) => Err(error.into()),
        });
        Ok(counted(events, subscription.counted))
    }

    async fn health_check(&self, _: Request<()>) -> Result<Response<GatewayHealthCheckResponse>, Status> {
        let health = match self.gateway.numbers().degraded.is_empty() {
            true => Health::Healthy,
            false => Health::Degraded,
        };
        Ok(Response::new(GatewayHealthCheckResponse {
            health: health.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            subsystems: SUBSYSTEMS.map(String::from).into(),
        }))
    }

    async fn get_status(&self, _: Request<()>) -> Result<Response<GatewayStatusResponse>, Status> {
        let numbers = self.gateway.numbers();
        let uptime = i64::try_from(numbers.uptime.as_nanos()).unwrap_or(i64::MAX);
        Ok(Response::new(GatewayStatusResponse {
            status: WireStatus::Running.into(),
            active_sessions: i32::try_from(numbers.sessions).unwrap_or(i32::MAX),
            active_streams: i32::try_from(numbers.streams).unwrap_or(i32::MAX),
            started_at: Some(convert::timestamp(numbers.started_at)),
            uptime: Some(convert::timestamp(uptime)),
        }))
    }
}
