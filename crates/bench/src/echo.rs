//! The yardstick: a tonic server as anyone would write it, on a current_thread runtime, that answers every unary call
//! with the same bytes and sends every message of a stream back.

use std::{convert::Infallible, path::Path, pin::Pin, task::Poll};

use anyhow::{Context, Result};
use bytes::Bytes;
use prost::Message;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService, StreamingService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;

pub const UNARY: &str = "/bench.Echo/Unary";
pub const STREAM: &str = "/bench.Echo/Stream";

/// The only message: field 1 takes what the request has there, and the answer is filled up in it.
#[derive(Clone, PartialEq, Message)]
pub struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

impl Blob {
    /// A message of exactly `size` bytes on the wire or, where no length of `data` gives that, the next that is less.
    pub fn of_size(size: usize) -> Self {
        let of = |length: usize| Blob {
            data: vec![b'x'; length].into(),
        };
        let fits = (0..=size).rev().map(of).find(|blob| blob.encoded_len() <= size);
        fits.unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
struct Echo {
    answer: Blob,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

impl UnaryService<Blob> for Echo {
    type Response = Blob;
    type Future = Answer<Blob>;

    fn call(&mut self, _: Request<Blob>) -> Self::Future {
        let answer = self.answer.clone();
        Box::pin(async move { Ok(Response::new(answer)) })
    }
}

impl StreamingService<Blob> for Echo {
    type Response = Blob;
    type ResponseStream = Streaming<Blob>;
    type Future = Answer<Streaming<Blob>>;

    fn call(&mut self, request: Request<Streaming<Blob>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Blob, Blob>::default());
            Ok(if request.uri().path() == STREAM {
                grpc.streaming(echo, request).await
            } else {
                grpc.unary(echo, request).await
            })
        })
    }
}

/// Serves until it is killed.
pub fn serve(socket: &Path, answer_bytes: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(socket).with_context(|| format!("failed to bind {}", socket.display()))?;
        let answer = Blob::of_size(answer_bytes);
        let serving = Server::builder().add_service(Echo { answer });
        serving
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .context("the echo server failed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_has_the_size_that_is_asked_for() {
        for size in [0, 3, 40, 127, 131, 1_000, 20_000] {
            assert_eq!(Blob::of_size(size).encoded_len(), size);
        }
        // One more byte of data here takes one more byte of length too.
        assert_eq!(Blob::of_size(130).encoded_len(), 129);
    }
}
