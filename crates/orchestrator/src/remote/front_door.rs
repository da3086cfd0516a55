//! Proxies `gateway.v1` and `llm.v1` to the daemon that registered for them: bodies unread, the caller named.
//!
//! Architecture invariant: nothing here knows a message. What a daemon answers, trailers included, is what the caller
//! gets; only a daemon that cannot be reached is answered for.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::uri::{Authority, Scheme, Uri};
use http::{HeaderMap, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nexus_daemon::{Caller, OwnToken};
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::engine::Engine;

/// How long a daemon on this machine may take to accept a connection.
const DIAL: Duration = Duration::from_secs(2);
/// A daemon that was here so lately is taken to be on its way back.
const RESTARTING: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct FrontDoor {
    engine: Engine,
    /// What the daemons of this installation are shown, and nobody else.
    own_token: Option<OwnToken>,
    clients: Arc<Mutex<HashMap<PathBuf, Client<Socket, Body>>>>,
    /// When each service last had a daemon behind the door.
    served: Arc<Mutex<HashMap<String, Instant>>>,
}

impl std::fmt::Debug for FrontDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontDoor").finish_non_exhaustive()
    }
}

impl FrontDoor {
    pub fn new(engine: Engine, own_token: Option<OwnToken>) -> Self {
        FrontDoor {
            engine,
            own_token,
            clients: Arc::default(),
            served: Arc::default(),
        }
    }

    /// Calls from here on go out on new connections; those under way keep theirs.
    pub fn renew(&self) {
        self.clients.lock().clear();
    }

    /// One pool of connections for each socket; those of daemons that are gone are dropped.
    fn client(&self, socket: &Path) -> Client<Socket, Body> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(socket) {
            return client.clone();
        }
        let known = self.engine.daemons();
        clients.retain(|old, _| known.values().any(|sockets| sockets.contains(old)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .http2_only(true)
            .http2_initial_stream_window_size(1 << 20)
            .http2_initial_connection_window_size(2 << 20)
            .build(Socket {
                path: socket.into(),
                uid: self.engine.server_uid(socket),
            });
        clients.insert(socket.into(), client.clone());
        client
    }
}

impl tower::Service<Request<Body>> for FrontDoor {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let door = self.clone();
        Box::pin(async move {
            let service = request
                .uri()
                .path()
                .trim_start_matches('/')
                .split('/')
                .next()
                .unwrap_or_default()
                .to_owned();
            let Some(socket) = door.engine.serving(&service) else {
                return Ok(door.absent(&service));
            };
            door.note(&service);
            let client = door.client(&socket);
            match client.request(door.outbound(request, &socket)).await {
                Ok(response) => Ok(response.map(Body::new)),
                Err(error) => {
                    tracing::info!(service, socket = %socket.display(), %error, "failed to pass a call on");
                    Ok(match refusal(&error) {
                        Some(status) => status.clone().into_http(),
                        None if error.is_connect() => door.absent(&service),
                        None => broken(&service),
                    })
                }
            }
        })
    }
}

impl FrontDoor {
    /// The same request for the daemon behind the door, saying who called. The caller's own token is gone: the guard took it.
    fn outbound(&self, mut request: Request<Body>, socket: &Path) -> Request<Body> {
        let caller = Caller::of_http(&request);
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(Authority::from_static("localhost"));
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        let headers: &mut HeaderMap = request.headers_mut();
        caller.stamp(headers);
        if let Some(own) = self
            .own_token
            .as_ref()
            .filter(|_| self.engine.server_uid(socket).is_none())
        {
            headers.insert(AUTHORIZATION, own.header());
        }
        request
    }

    fn note(&self, service: &str) {
        let mut served = self.served.lock();
        match served.get_mut(service) {
            Some(at) => *at = Instant::now(),
            None => drop(served.insert(service.to_owned(), Instant::now())),
        }
    }

    fn absent(&self, service: &str) -> Response<Body> {
        let name = service.split('.').next().unwrap_or(service);
        let last = self.served.lock().get(service).map(Instant::elapsed);
        let message = match last.filter(|last| *last < RESTARTING) {
            Some(last) => format!(
                "the {name} daemon of {service} was here {} s ago and is being restarted; try again in a moment",
                last.as_secs()
            ),
            None => format!("no {name} daemon is registered for {service}; start it with: nexus up"),
        };
        nexus_daemon::status(Code::Unavailable, message, "NO_DAEMON").into_http()
    }
}

/// The status with which the guard refused the body of a call on its way through, if that is why it failed.
fn refusal<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Status> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

fn broken(service: &str) -> Response<Body> {
    let status: Status = nexus_daemon::status(
        Code::Unavailable,
        format!("the daemon of {service} went away; try again"),
        "DAEMON_LOST",
    );
    status.into_http()
}

/// Dials one socket, whatever the address says, and talks only to the process of whoever registered it.
#[derive(Clone, Debug)]
struct Socket {
    path: PathBuf,
    /// Another user's daemon; `None` for one of our own user, or root's.
    uid: Option<u32>,
}

impl Socket {
    fn trusts(&self, uid: u32) -> bool {
        match self.uid {
            Some(named) => uid == named,
            None => uid == nix::unistd::geteuid().as_raw() || uid == 0,
        }
    }
}

impl tower::Service<Uri> for Socket {
    type Response = Dialed;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Dialed, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.clone();
        Box::pin(async move {
            let dialed = tokio::time::timeout(DIAL, UnixStream::connect(&socket.path)).await;
            let stream = dialed.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            let uid = stream.peer_cred()?.uid();
            if !socket.trusts(uid) {
                let why = format!("{} belongs to uid {uid}", socket.path.display());
                return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, why));
            }
            Ok(Dialed(TokioIo::new(stream)))
        })
    }
}

/// A connection to a daemon, in the shape that the client's pool wants.
#[derive(Debug)]
pub struct Dialed(TokioIo<UnixStream>);

impl hyper_util::client::legacy::connect::Connection for Dialed {
    fn connected(&self) -> hyper_util::client::legacy::connect::Connected {
        hyper_util::client::legacy::connect::Connected::new()
    }
}

impl hyper::rt::Read for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Dialed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
