//! A server that does exactly what a test tells it: calls by path, over a real socket, gone at a word.

#![expect(dead_code, reason = "each test file uses the part it needs")]

use std::{convert::Infallible, path::Path, pin::Pin, sync::Arc};

use futures_core::Stream;
use http::{Request, Response};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    task::{JoinHandle, JoinSet},
};
use tonic::{Status, Streaming, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

pub type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
pub type Handler = Arc<dyn Fn(Request<Body>) -> Answer + Send + Sync>;
pub type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub struct Server {
    task: JoinHandle<()>,
}

impl Server {
    /// Replaces whatever has that name, as a restarted daemon does with a stale socket.
    pub fn start(path: &Path, handler: Handler) -> Server {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, handler.clone()));
            }
        });
        Server { task }
    }

    /// Like kill -9: every connection closes in the middle of whatever it was doing.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub async fn serve<S>(stream: S, handler: Handler)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = handler(request.map(Body::new));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

pub async fn unary<Q, A, F>(request: Request<Body>, answer: F) -> Response<Body>
where
    Q: Message + Default + Send + 'static,
    A: Message + Default + Send + 'static,
    F: AsyncOnce<tonic::Request<Q>, Result<A, Status>>,
{
    let mut answer = Some(answer);
    let service = tower::service_fn(move |request| {
        let answer = answer.take().expect("one request, one answer");
        let future = answer.call(request);
        async move { future.await.map(tonic::Response::new) }
    });
    Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}

pub async fn streaming<Q, A, F>(request: Request<Body>, answer: F) -> Response<Body>
where
    Q: Message + Default + Send + 'static,
    A: Message + Default + Send + 'static,
    F: FnOnce(tonic::Request<Q>) -> Result<tonic::Response<Items<A>>, Status> + Send + 'static,
{
    let mut answer = Some(answer);
    let service = tower::service_fn(move |request| {
        let result = answer.take().expect("one request, one answer")(request);
        async move { result }
    });
    Grpc::new(ProstCodec::<A, Q>::default())
        .server_streaming(service, request)
        .await
}

pub async fn bidi<Q, A, F>(request: Request<Body>, answer: F) -> Response<Body>
where
    Q: Message + Default + Send + 'static,
    A: Message + Default + Send + 'static,
    F: FnOnce(Streaming<Q>) -> Items<A> + Send + 'static,
{
    let mut answer = Some(answer);
    let service = tower::service_fn(move |request: tonic::Request<Streaming<Q>>| {
        let items = answer.take().expect("one request, one answer")(request.into_inner());
        async move { Ok(tonic::Response::new(items)) }
    });
    Grpc::new(ProstCodec::<A, Q>::default())
        .streaming(service, request)
        .await
}

/// A closure whose future is `Send`, which `AsyncFnOnce` cannot promise.
pub trait AsyncOnce<Q, R>: Send + 'static {
    fn call(self, request: Q) -> Pin<Box<dyn Future<Output = R> + Send>>;
}

impl<Q, R, F, Fut> AsyncOnce<Q, R> for F
where
    F: FnOnce(Q) -> Fut + Send + 'static,
    Fut: Future<Output = R> + Send + 'static,
{
    fn call(self, request: Q) -> Pin<Box<dyn Future<Output = R> + Send>> {
        Box::pin(self(request))
    }
}
