//! Methods that answer with bytes that are already encoded: an event is encoded once, not once for each reader.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use futures_util::stream::{self, Stream};
use nexus_daemon::{Caller, Role};
use nexus_proto::orchestrator::v1::SubscribeEventsRequest;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Request, Response, Status};

use super::status::refuse;
use crate::domain::filter::Wanted;
use crate::engine::Engine;

pub const SUBSCRIBE_EVENTS: &str = "/orchestrator.v1.OrchestratorService/SubscribeEvents";

/// Reads a message, writes bytes as they are.
#[derive(Debug)]
struct Encoded<T>(PhantomData<T>);

impl<T> Default for Encoded<T> {
    fn default() -> Self {
        Encoded(PhantomData)
    }
}

impl<T: Message + Default + 'static> Codec for Encoded<T> {
    type Encode = Bytes;
    type Decode = T;
    type Encoder = AsIs;
    type Decoder = Decoded<T>;

    fn encoder(&mut self) -> AsIs {
        AsIs
    }

    fn decoder(&mut self) -> Decoded<T> {
        Decoded(PhantomData)
    }
}

#[derive(Debug)]
struct AsIs;

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

#[derive(Debug)]
struct Decoded<T>(PhantomData<T>);

impl<T: Message + Default> Decoder for Decoded<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        T::decode(from).map(Some).map_err(|e| Status::invalid_argument(format!("failed to decode the request: {e}")))
    }
}

/// `SubscribeEvents`.
#[derive(Clone, Debug)]
pub struct SubscribeEvents {
    pub engine: Engine,
    pub max_message_bytes: usize,
}

type Events = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

impl ServerStreamingService<SubscribeEventsRequest> for SubscribeEvents {
    type Response = Bytes;
    type ResponseStream = Events;
    type Future = Answer<Response<Events>>;

    fn call(&mut self, request: Request<SubscribeEventsRequest>) -> Self::Future {
        Box::pin(subscribe(self.engine.clone(), request))
    }
}

/// Opens the reader; its cursor's log is named in the answer's headers.
async fn subscribe(engine: Engine, request: Request<SubscribeEventsRequest>) -> Result<Response<Events>, Status> {
    let caller = Caller::of(&request);
    let only = (caller.role == Role::User).then(|| caller.principal.clone());
    let log_id = request.metadata().get("nexus-log-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let request = request.into_inner();
    let wanted = Wanted::new(request.filter).map_err(refuse)?;
    let reader = engine.subscribe(wanted, request.after_sequence, log_id.as_deref(), only).await.map_err(refuse)?;
    let events = stream::try_unfold(reader, |mut reader| async move {
        let next = reader.next().await.map_err(refuse)?;
        Ok::<_, Status>(next.map(|event| (event, reader)))
    });
    let mut response = Response::new(Box::pin(events) as Events);
    if let Ok(id) = engine.log_id().parse() {
        response.metadata_mut().insert("nexus-log-id", id);
    }
    Ok(response)
}

impl tower::Service<http::Request<tonic::body::Body>> for SubscribeEvents {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let max = service.max_message_bytes;
            let mut grpc = Grpc::new(Encoded::<SubscribeEventsRequest>::default())
                .max_decoding_message_size(max)
                .max_encoding_message_size(max);
            Ok(grpc.server_streaming(service, request).await)
        })
    }
}
