//! `SubscribeEvents`, answered with bytes that are ready to be sent: events are encoded once, not once for each reader,
//! and a reader of everything gets those of one commit in one piece.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use nexus_daemon::{Caller, Role};
use nexus_proto::orchestrator::v1::SubscribeEventsRequest;
use tonic::body::Body;
use tonic::codec::{Codec as _, Streaming};
use tonic::{Code, Status};

use super::status::refuse;
use crate::domain::filter::Wanted;
use crate::engine::Engine;

pub const SUBSCRIBE_EVENTS: &str = "/orchestrator.v1.OrchestratorService/SubscribeEvents";
const LOG_ID: &str = "nexus-log-id";

/// `SubscribeEvents`.
#[derive(Clone, Debug)]
pub struct SubscribeEvents {
    pub engine: Engine,
    pub max_message_bytes: usize,
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
        let only = (caller.role == Role::User).then(|| caller.principal.clone());
        let log_id = request
            .headers()
            .get(LOG_ID)
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let request = self.message(request).await?;
        let wanted = Wanted::new(request.filter).map_err(refuse)?;
        let reader = self
            .engine
            .subscribe(wanted, request.after_sequence, log_id.as_deref(), only);
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
