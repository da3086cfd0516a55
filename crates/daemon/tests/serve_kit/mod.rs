//! A daemon with one small service over a real socket in a directory of its own, and a client for it.

#![expect(dead_code, reason = "each test file uses a part of it")]

#[path = "../../../../tests/src/skipped.rs"]
mod skipped_tests;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    pin::Pin,
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use futures_util::{StreamExt, future::BoxFuture, stream};
use nexus_daemon::{
    Access, Caller, Health, Role, Services, Stop,
    listener::{self, ListenOptions},
    serve::{self, Limit, ServeOptions},
};
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};
use tokio::{sync::Semaphore, task::JoinHandle};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::Grpc as Client,
    server::{Grpc, NamedService},
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

pub use skipped_tests::skipped;

/// A uid that is not the daemon's, and that has no role unless a test gives it one.
pub const OTHER: u32 = 65534;
/// Where a program that runs as another uid finds the socket.
const SOCKET: &str = "SERVE_TEST_SOCKET";

/// In a test that [`Daemon::as_other`] runs: the daemon's socket.
pub fn socket_of_child() -> PathBuf {
    std::env::var_os(SOCKET).expect("it is run by another test").into()
}

pub const LIMIT: usize = 64 * 1024;
/// Nothing here takes that long unless it hangs.
pub const SOON: Duration = Duration::from_secs(20);

/// What tests do to handlers and see of them.
#[derive(Clone)]
pub struct Gate {
    pub open: Arc<Semaphore>,
    pub inside: Arc<Semaphore>,
    pub dropped: Arc<Semaphore>,
    pub calls: Arc<AtomicUsize>,
}

impl Default for Gate {
    fn default() -> Self {
        let none = || Arc::new(Semaphore::new(0));
        Gate {
            open: none(),
            inside: none(),
            dropped: none(),
            calls: Arc::default(),
        }
    }
}

impl Gate {
    pub async fn wait(what: &Semaphore) {
        tokio::time::timeout(SOON, what.acquire())
            .await
            .expect("in time")
            .unwrap()
            .forget();
    }
}

struct Dropped(Arc<Semaphore>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

#[derive(Clone, Default)]
pub struct Echo {
    pub gate: Gate,
}

impl NamedService for Echo {
    const NAME: &'static str = "test.v1.Echo";
}

type Items = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

impl Echo {
    async fn say(gate: Gate, request: Request<String>) -> Result<Response<String>, Status> {
        gate.calls.fetch_add(1, Ordering::SeqCst);
        let caller = Caller::of(&request);
        let metadata = request.metadata().clone();
        let text = request.into_inner();
        match text.as_str() {
            "panic" => panic!("said to panic"),
            "hang" => {
                let _dropped = Dropped(gate.dropped.clone());
                gate.inside.add_permits(1);
                std::future::pending::<()>().await;
            }
            "hold" => {
                gate.inside.add_permits(1);
                gate.open.acquire().await.unwrap().forget();
            }
            "who" => {
                return Ok(Response::new(format!(
                    "{} {} {:?}",
                    caller.role, caller.principal, caller.uid
                )));
            }
            "stamps" => return Ok(Response::new(format!("{}", metadata.contains_key("nexus-peer-uid")))),
            "large" => return Ok(Response::new("x".repeat(LIMIT + 1))),
            _ => {}
        }
        Ok(Response::new(text))
    }

    async fn flow(gate: Gate, request: Request<String>) -> Result<Response<Items>, Status> {
        let text = request.into_inner();
        let first = stream::iter([Ok("first".to_string())]);
        gate.inside.add_permits(1);
        let dropped = Dropped(gate.dropped.clone());
        let items: Items = match text.as_str() {
            "panic" => Box::pin(first.chain(stream::once(async {
                // Lets the first item leave before.
                tokio::task::yield_now().await;
                panic!("said to panic in a stream")
            }))),
            "open" => Box::pin(first.chain(stream::poll_fn(move |_| {
                let _held = &dropped;
                Poll::Pending
            }))),
            "flood" => Box::pin(stream::repeat_with(|| Ok("x".repeat(1024)))),
            _ => Box::pin(first),
        };
        Ok(Response::new(items))
    }

    async fn chat(request: Request<Streaming<String>>) -> Result<Response<Items>, Status> {
        Ok(Response::new(Box::pin(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let gate = self.gate.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<String, String>::default())
                .max_decoding_message_size(LIMIT)
                .max_encoding_message_size(LIMIT);
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_string();
            Ok(match method.as_str() {
                "Flow" => {
                    grpc.server_streaming(service_fn(move |r| Echo::flow(gate.clone(), r)), request)
                        .await
                }
                "Chat" => grpc.streaming(service_fn(Echo::chat), request).await,
                _ => {
                    grpc.unary(service_fn(move |r| Echo::say(gate.clone(), r)), request)
                        .await
                }
            })
        })
    }
}

/// The same service under another name, for admins only.
#[derive(Clone, Default)]
pub struct Closed(pub Echo);

impl NamedService for Closed {
    const NAME: &'static str = "test.v1.Closed";
}

impl Service<http::Request<Body>> for Closed {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

pub fn descriptors() -> &'static [u8] {
    static SET: OnceLock<Vec<u8>> = OnceLock::new();
    SET.get_or_init(|| {
        let method = |name: &str, client, server| MethodDescriptorProto {
            name: Some(name.into()),
            input_type: Some(".google.protobuf.StringValue".into()),
            output_type: Some(".google.protobuf.StringValue".into()),
            client_streaming: Some(client),
            server_streaming: Some(server),
            ..Default::default()
        };
        let service = |name: &str| ServiceDescriptorProto {
            name: Some(name.into()),
            method: vec![
                method("Say", false, false),
                method("Flow", false, true),
                method("Chat", true, true),
            ],
            ..Default::default()
        };
        let file = FileDescriptorProto {
            name: Some("test.proto".into()),
            package: Some("test.v1".into()),
            service: vec![service("Echo"), service("Closed")],
            ..Default::default()
        };
        FileDescriptorSet { file: vec![file] }.encode_to_vec()
    })
}

pub fn listen(socket: &Path) -> ListenOptions {
    ListenOptions {
        socket: socket.into(),
        mode: 0o600,
        group: None,
        tcp: None,
        tls: None,
        allow_anonymous_loopback: false,
    }
}

pub fn options(dir: &Path) -> ServeOptions {
    ServeOptions {
        max_message_bytes: LIMIT,
        unfinished_bytes: Limit {
            all: 1 << 20,
            each: 1 << 19,
        },
        message_timeout: Duration::from_secs(60),
        max_connections: 64,
        max_connections_per_caller: 32,
        max_streams_per_connection: 1000,
        max_in_flight: 64,
        max_in_flight_per_caller: 32,
        open_streams: Limit { all: 500, each: 50 },
        default_deadline: None,
        stop_budget: Duration::from_secs(10),
        roles: BTreeMap::new(),
        require_token: false,
        own_token: None,
        token_file: dir.join("tokens.toml"),
        own_uid: nix::unistd::geteuid().as_raw(),
    }
}

pub fn services(gate: &Gate) -> Services {
    let echo = Echo { gate: gate.clone() };
    Services::new()
        .describe(descriptors())
        .add(Access::ALL, echo.clone())
        .add(Access::ADMIN, Closed(echo))
        .alias()
}

pub struct Daemon {
    pub dir: tempfile::TempDir,
    pub socket: PathBuf,
    pub tcp: Option<std::net::SocketAddr>,
    pub health: Health,
    pub stop: Stop,
    pub gate: Gate,
    pub task: JoinHandle<()>,
}

type Edit<T> = Box<dyn FnOnce(&mut T)>;

#[derive(Default)]
pub struct Setup {
    pub listen: Option<Edit<ListenOptions>>,
    pub serve: Option<Edit<ServeOptions>>,
    pub services: Option<Box<dyn FnOnce(Services) -> Services>>,
}

impl Setup {
    pub fn listen(mut self, edit: impl FnOnce(&mut ListenOptions) + 'static) -> Self {
        self.listen = Some(Box::new(edit));
        self
    }

    pub fn serve(mut self, edit: impl FnOnce(&mut ServeOptions) + 'static) -> Self {
        self.serve = Some(Box::new(edit));
        self
    }

    pub fn services(mut self, edit: impl FnOnce(Services) -> Services + 'static) -> Self {
        self.services = Some(Box::new(edit));
        self
    }

    pub async fn start(self) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        // Other uids may look for the socket; whether they reach it is the socket's own mode.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let socket = dir.path().join("s.sock");
        let mut listen = listen(&socket);
        self.listen.into_iter().for_each(|edit| edit(&mut listen));
        let mut serve_options = options(dir.path());
        self.serve.into_iter().for_each(|edit| edit(&mut serve_options));
        let gate = Gate::default();
        let mut services = services(&gate);
        if let Some(edit) = self.services {
            services = edit(services);
        }
        let (health, stop) = (Health::new(), Stop::new());
        let listeners = listener::bind(&listen).await.unwrap();
        let tcp = listeners.tcp();
        let (serving, stopping) = (health.clone(), stop.clone());
        let task = tokio::spawn(async move {
            serve::serve(listeners, services, serve_options, serving, stopping)
                .await
                .unwrap();
        });
        health.ready();
        Daemon {
            dir,
            socket,
            tcp,
            health,
            stop,
            gate,
            task,
        }
    }
}

impl Daemon {
    pub async fn start() -> Daemon {
        Setup::default().start().await
    }

    pub async fn connect(&self) -> Channel {
        connect(&self.socket).await
    }

    /// This program as another uid, to run one of its ignored tests against this daemon. `None`, after saying so for
    /// `test`, where we cannot become somebody else.
    pub fn as_other(&self, test: &str, ignored: &str) -> Option<Command> {
        if !nix::unistd::geteuid().is_root() {
            skipped(test, "root, to call as another uid");
            return None;
        }
        // A copy that the other uid can reach, wherever the build directory is.
        let copy = self.dir.path().join("child");
        // By another process: a child that another test starts meanwhile would inherit the open copy, and a file that is
        // open for writing cannot be executed.
        let copied = Command::new("cp")
            .arg(std::env::current_exe().unwrap())
            .arg(&copy)
            .status();
        assert!(copied.unwrap().success());
        let mut child = Command::new(copy);
        child
            .args(["--exact", ignored, "--ignored", "--nocapture"])
            .env(SOCKET, &self.socket)
            .current_dir("/")
            .uid(OTHER)
            .gid(OTHER);
        Some(child)
    }

    /// Stops, and fails if that takes longer than the budget allows.
    pub async fn stopped(self) {
        self.stop.trigger();
        tokio::time::timeout(SOON, self.task)
            .await
            .expect("stopped in time")
            .unwrap();
    }
}

pub async fn connect(socket: &Path) -> Channel {
    Endpoint::try_from(format!("unix://{}", socket.display()))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

pub async fn say(channel: &Channel, text: &str) -> Result<String, Status> {
    call(channel, "/test.v1.Echo/Say", Request::new(text.into())).await
}

pub async fn call(channel: &Channel, path: &'static str, request: Request<String>) -> Result<String, Status> {
    let mut client = Client::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(format!("not ready: {error}")))?;
    let answer = client.unary(request, path.parse().unwrap(), ProstCodec::<String, String>::default());
    let answer = tokio::time::timeout(SOON, answer).await.expect("answered in time")?;
    Ok(answer.into_inner())
}

pub async fn flow(channel: &Channel, request: Request<String>) -> Result<Streaming<String>, Status> {
    let mut client = Client::new(channel.clone());
    client.ready().await.unwrap();
    let path = "/test.v1.Echo/Flow".parse().unwrap();
    let answer = client.server_streaming(request, path, ProstCodec::<String, String>::default());
    Ok(tokio::time::timeout(SOON, answer)
        .await
        .expect("answered in time")?
        .into_inner())
}

/// The next item of a stream, or how it ended.
pub async fn next(items: &mut Streaming<String>) -> Result<Option<String>, Status> {
    tokio::time::timeout(SOON, items.message())
        .await
        .expect("an item or an end in time")
}

pub fn role(uid: u32, role: Role) -> BTreeMap<String, Role> {
    BTreeMap::from([(format!("uid:{uid}"), role)])
}
