//! Real daemons inside this process, on sockets in a directory of their own, and calls to them.
//!
//! libFuzzer's panic hook ends the process, so that a panic in a handler, which a daemon survives, is a finding here.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use h2::client::SendRequest;
use http::HeaderMap;
use nexus_daemon::Running;
use nexus_gateway::Gateway;
use nexus_llm::Llm;
use nexus_orchestrator::Orchestrator;
use nexus_proto::llm::v1 as llm;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    runtime::Runtime,
    sync::Mutex,
};

use crate::call::Call;

/// How long an answer is listened to: streams stay open as long as their client likes.
const LISTEN: Duration = Duration::from_millis(50);
/// After so many calls the daemons start over, so that what they store stays small.
const CALLS: u32 = 20_000;
/// A backend that is not there: no input may start a container on the host that fuzzes.
const NO_CONTAINERS: [(&str, &str); 2] = [
    ("container_backend", "docker"),
    ("container_host", "unix:///nonexistent/docker.sock"),
];

/// The orchestrator, with a gateway behind its front door.
pub struct FrontDoor {
    runtime: Runtime,
    world: Option<World>,
    calls: u32,
}

struct World {
    socket: PathBuf,
    connection: Option<SendRequest<bytes::Bytes>>,
    running: (Running, Running),
    _directory: tempfile::TempDir,
}

impl Default for FrontDoor {
    fn default() -> Self {
        FrontDoor {
            runtime: runtime(),
            world: None,
            calls: 0,
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

impl FrontDoor {
    /// Sends one call and listens to its answer for a moment.
    pub fn call(&mut self, call: Call) {
        self.calls += 1;
        let worn = self.calls.is_multiple_of(CALLS);
        self.runtime.block_on(async {
            if worn && let Some(world) = self.world.take() {
                drop(world.connection);
                world.running.1.stop().await;
                world.running.0.stop().await;
            }
            let world = match &mut self.world {
                Some(world) => world,
                none => none.insert(World::start().await),
            };
            // A connection that an input broke is no fault: the next input gets another one.
            if world.exchange(call).await.is_none() {
                world.connection = None;
            }
        });
    }
}

impl World {
    async fn start() -> World {
        let directory = crate::directory();
        let root = nexus_config::Root::at(directory.path());
        root.create().expect("the directories of a root");
        let mut settings = vec![
            ("durability", "process"),
            ("max_sessions", "100"),
            ("max_agents", "100"),
        ];
        settings.extend(NO_CONTAINERS);
        let orchestrator = nexus_daemon::start::<Orchestrator>(root.clone(), &settings).await;
        let orchestrator = orchestrator.unwrap_or_else(|error| panic!("the orchestrator does not start: {error}"));
        let gateway = nexus_daemon::start::<Gateway>(root, &[]).await;
        let gateway = gateway.unwrap_or_else(|error| panic!("the gateway does not start: {error}"));
        World {
            socket: orchestrator.socket().to_path_buf(),
            connection: None,
            running: (orchestrator, gateway),
            _directory: directory,
        }
    }

    async fn exchange(&mut self, call: Call) -> Option<()> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.socket).await?,
        };
        let mut ready = connection.ready().await.ok()?;
        let (answer, mut body) = ready.send_request(call.request, false).ok()?;
        self.connection = Some(ready);
        // What the daemon does not read fails here, which is its right.
        let _refused = body.send_data(call.body, true);
        let listen = async {
            let mut answer = answer.await.ok()?.into_body();
            while let Some(Ok(piece)) = answer.data().await {
                answer.flow_control().release_capacity(piece.len()).ok()?;
            }
            answer.trailers().await.ok()
        };
        match tokio::time::timeout(LISTEN, listen).await {
            Ok(ended) => ended.map(|_| ()),
            Err(_open) => Some(()),
        }
    }
}

async fn connect(socket: &Path) -> Option<SendRequest<bytes::Bytes>> {
    let stream = UnixStream::connect(socket).await.expect("the daemon listens");
    let (requests, connection) = h2::client::handshake(stream).await.ok()?;
    tokio::spawn(connection);
    Some(requests)
}

/// The model daemon, and a provider that answers every request with the bytes it was given.
pub struct Models {
    runtime: Runtime,
    answer: Arc<Mutex<Answer>>,
    socket: PathBuf,
    connection: Option<SendRequest<bytes::Bytes>>,
    _running: Running,
    _directory: tempfile::TempDir,
}

#[derive(Default)]
struct Answer {
    media_type: &'static str,
    body: Vec<u8>,
}

impl Default for Models {
    fn default() -> Self {
        let runtime = runtime();
        let answer = Arc::new(Mutex::new(Answer::default()));
        let directory = crate::directory();
        let running = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("its address").port();
            tokio::spawn(provide(listener, answer.clone()));
            let root = nexus_config::Root::at(directory.path());
            root.create().expect("the directories of a root");
            let keys = root.key_file();
            std::fs::write(&keys, "anthropic = \"sk-fuzz\"\n").expect("a key file");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&keys, private).expect("our own file");
            let (plain, version) = (
                format!("http://127.0.0.1:{port}"),
                format!("http://127.0.0.1:{port}/v1"),
            );
            let settings = [
                ("anthropic_base_url", plain.as_str()),
                ("ollama_base_url", version.as_str()),
                ("max_retries", "0"),
                ("breaker_failures", "0"),
            ];
            let running = nexus_daemon::start::<Llm>(root, &settings).await;
            running.unwrap_or_else(|error| panic!("the model daemon does not start: {error}"))
        });
        Models {
            runtime,
            answer,
            socket: running.socket().to_path_buf(),
            connection: None,
            _running: running,
            _directory: directory,
        }
    }
}

impl Models {
    /// Asks a model once; the provider answers with `body`.
    pub fn ask(&mut self, model: &str, media_type: &'static str, body: &[u8]) {
        let message = llm::StreamLlmRequest {
            payload: Some(llm::stream_llm_request::Payload::Request(llm::LlmRequest {
                request_id: "fuzz".into(),
                model: model.into(),
                messages: vec![llm::LlmMessage {
                    role: "user".into(),
                    content: "hello".into(),
                    ..llm::LlmMessage::default()
                }],
                ..llm::LlmRequest::default()
            })),
        };
        let mut data = b"/llm.v1.LLMService/StreamLLM\n\n".to_vec();
        message.encode(&mut data).expect("a vector grows");
        let call = Call::read(&data).expect("a call of our own");
        self.runtime.block_on(async {
            *self.answer.lock().await = Answer {
                media_type,
                body: body.to_vec(),
            };
            let connection = match self.connection.take() {
                Some(connection) => connection,
                None => connect(&self.socket).await.expect("the daemon speaks HTTP/2"),
            };
            let mut ready = connection.ready().await.expect("the connection lives");
            let (answer, mut sending) = ready.send_request(call.request, false).expect("it is sent");
            sending.send_data(call.body, true).expect("it is sent");
            self.connection = Some(ready);
            let ended = tokio::time::timeout(Duration::from_secs(5), whole(answer)).await;
            assert!(ended.is_ok(), "an answer that has ended, and its turn has not");
        });
    }
}

async fn whole(answer: h2::client::ResponseFuture) -> Option<HeaderMap> {
    let mut answer = answer.await.ok()?.into_body();
    while let Some(Ok(piece)) = answer.data().await {
        answer.flow_control().release_capacity(piece.len()).ok()?;
    }
    answer.trailers().await.ok()?
}

async fn provide(listener: TcpListener, answer: Arc<Mutex<Answer>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, answer.clone()));
    }
}

/// One request for each connection; the end of the connection is the end of the answer.
async fn serve(mut stream: TcpStream, answer: Arc<Mutex<Answer>>) {
    let mut asked = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => asked.extend_from_slice(&buffer[..length]),
        }
        if is_whole(&asked) {
            break;
        }
    }
    let head = {
        let answer = answer.lock().await;
        let mut head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {}\r\nconnection: close\r\n\r\n",
            answer.media_type
        )
        .into_bytes();
        head.extend_from_slice(&answer.body);
        head
    };
    // Who has heard enough hangs up.
    let _gone = stream.write_all(&head).await;
    let _closed = stream.shutdown().await;
}

fn is_whole(asked: &[u8]) -> bool {
    let Some(end) = asked.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&asked[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    asked.len() >= end + 4 + length.unwrap_or(0)
}
