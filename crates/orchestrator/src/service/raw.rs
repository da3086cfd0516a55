//! Calls that are answered with bytes that are ready to be sent. `SubscribeEvents`: events are encoded once, not once for
//! each reader, and a reader of everything gets those of one commit in one piece. `GetSession`: messages are encoded
//! where they are held, without a copy of them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use futures_util::stream::{self, Stream};
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::{GetSessionRequest, SubscribeEventsRequest};
use nexus_proto::words;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder, Streaming};
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Request, Response, Status};

use super::status::refuse;
use crate::domain::Error;
use crate::domain::filter::Wanted;
use crate::engine::{self, Engine};

pub const GET_SESSION: &str = "/orchestrator.v1.OrchestratorService/GetSession";
pub const SUBSCRIBE_EVENTS: &str = "/orchestrator.v1.OrchestratorService/SubscribeEvents";
const LOG_ID: &str = words::metadata::LOG_ID;

/// `SubscribeEvents`.
#[derive(Clone, Debug)]
pub struct SubscribeEvents {
    pub engine: Engine,
    pub max_message_bytes: usize,
}

/// `GetSession`.
#[derive(Clone, Debug)]
pub struct GetSession {
    pub engine: Engine,
    pub max_message_bytes: usize,
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl tower::Service<http::Request<Body>> for GetSession {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let max = Some(service.max_message_bytes);
            let mut grpc = Grpc::new(Ready).apply_max_message_size_config(max, max);
            Ok(grpc.unary(service, request).await)
        })
    }
}

impl UnaryService<GetSessionRequest> for GetSession {
    type Response = Bytes;
    type Future = Answer<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<GetSessionRequest>) -> Self::Future {
        let engine = self.engine.clone();
        Box::pin(async move {
            let caller = Caller::of(&request);
            let request = request.into_inner();
            let limit = usize::try_from(request.message_limit);
            let limit = limit.map_err(|_| refuse(Error::Invalid("message_limit must not be negative".into())))?;
            let wanted = engine::Wanted {
                newest: if limit == 0 { usize::MAX } else { limit },
                before: request.messages_before,
            };
            let found = engine.session_found(&request.session_id, &caller, wanted).await;
            found.map(Response::new).map_err(refuse)
        })
    }
}

/// Reads messages as always, and writes what is encoded already.
#[derive(Clone, Copy, Debug)]
struct Ready;

impl Codec for Ready {
    type Encode = Bytes;
    type Decode = GetSessionRequest;
    type Encoder = Ready;
    type Decoder = <nexus_proto::Codec<(), GetSessionRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Ready {
        Ready
    }

    fn decoder(&mut self) -> Self::Decoder {
        nexus_proto::Codec::<(), GetSessionRequest>::default().decoder()
    }
}

impl Encoder for Ready {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.reserve(item.len());
        into.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        nexus_proto::Codec::<(), GetSessionRequest>::default()
            .encoder()
            .buffer_settings()
    }
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl tower::Service<http::Request<Body>> for SubscribeEvents {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.subscribe(request).await.unwrap_or_else(Status::into_http)) })
    }
}

impl SubscribeEvents {
    /// Opens the reader; its cursor's log is named in the answer's headers.
    async fn subscribe(self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let caller = Caller::of_http(&request);
        let log_id = request
            .headers()
            .get(LOG_ID)
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let request = self.message(request).await?;
        let wanted = Wanted::new(request.filter).map_err(refuse)?;
        let reader = self
            .engine
            .subscribe(wanted, request.after_sequence, log_id.as_deref(), &caller);
        let reader = reader.await.map_err(refuse)?;
        let pieces = stream::try_unfold(reader, |mut reader| async move {
            let next = reader.next().await.map_err(refuse)?;
            Ok::<_, Status>(next.map(|piece| (piece, reader)))
        });
        let mut answer = http::Response::new(Body::new(Events {
            pieces: Some(Box::pin(pieces)),
        }));
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Ok(id) = self.engine.log_id().parse() {
            headers.insert(LOG_ID, id);
        }
        Ok(answer)
    }

    /// The one message of the request.
    async fn message(&self, request: http::Request<Body>) -> Result<SubscribeEventsRequest, Status> {
        let plain = |name: &HeaderValue| name.as_bytes() == b"identity";
        if !request.headers().get("grpc-encoding").is_none_or(plain) {
            return Err(Status::unimplemented("compressed requests are not read here"));
        }
        let decoder = nexus_proto::Codec::<(), SubscribeEventsRequest>::default().decoder();
        let mut messages = Streaming::new_request(decoder, request.into_body(), None, Some(self.max_message_bytes));
        let missing = || nexus_daemon::status(Code::InvalidArgument, "the request has no message", "NO_MESSAGE");
        messages.message().await?.ok_or_else(missing)
    }
}

/// The answer: pieces, then how it ended.
struct Events {
    pieces: Option<Pieces>,
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(pieces) = &mut self.pieces else {
            return Poll::Ready(None);
        };
        let end = match ready!(pieces.as_mut().poll_next(cx)) {
            Some(Ok(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.pieces = None;
        let mut trailers = HeaderMap::with_capacity(3);
        Poll::Ready(Some(end.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}
