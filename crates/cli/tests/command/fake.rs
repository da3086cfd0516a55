//! An orchestrator that follows a script, on a real socket; and the real command, run against it.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    pin::Pin,
    process::{Command, Output, Stdio},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_core::Stream;
use nexus_config::{Root, Setting};
use nexus_daemon::{Access, Boot, BootError, Built, Daemon, Running, Services};
use nexus_proto::orchestrator::v1::{
    orchestrator_service_server::{OrchestratorService, OrchestratorServiceServer},
    stream_message_request::Payload as Asked,
    stream_message_response::Payload,
    *,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

/// What the orchestrator does with one stream that brings a message.
#[derive(Clone)]
pub enum Act {
    /// A piece of the answer: message id, offset, text.
    Delta(&'static str, usize, &'static str),
    Answer(&'static str),
    Error(&'static str),
    /// Ends the stream as one that stops does.
    Break,
    /// Waits for a cancel, then gives this as what was produced.
    Cancelled(&'static str),
    /// News of a run, to those who watch the session.
    News(Box<RunEvent>),
    /// Waits until somebody has decided an approval.
    Decided,
    /// Waits until somebody has stopped the session.
    Stopped,
}

#[derive(Default)]
pub struct Script {
    pub streams: VecDeque<Vec<Act>>,
    /// First frames as they came.
    pub seen: Vec<StreamMessageRequest>,
    pub created: Vec<CreateSessionRequest>,
    /// It knows runs, approvals, tools and containers.
    pub whole: bool,
    pub agents: crate::fake_agents::Agents,
}

pub type Shared = Arc<Mutex<Script>>;

static SCRIPTS: LazyLock<Mutex<HashMap<std::path::PathBuf, Shared>>> = LazyLock::new(Mutex::default);

pub struct Fake {
    pub root: Root,
    pub script: Shared,
    pub running: Running,
    _dir: tempfile::TempDir,
}

pub async fn start(streams: impl IntoIterator<Item = Vec<Act>>) -> Fake {
    start_with(Script {
        streams: streams.into_iter().collect(),
        ..Script::default()
    })
    .await
}

pub async fn start_with(script: Script) -> Fake {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::at(dir.path());
    root.create().unwrap();
    let script = Arc::new(Mutex::new(script));
    SCRIPTS.lock().unwrap().insert(dir.path().to_path_buf(), script.clone());
    let running = nexus_daemon::start::<FakeDaemon>(root.clone(), &[]).await.unwrap();
    Fake {
        root,
        script,
        running,
        _dir: dir,
    }
}

impl Fake {
    pub fn nexus(&self, args: &[&str]) -> Command {
        let mut command = nexus(self.root.path(), self.running.socket());
        command.args(args);
        command
    }

    /// Runs it to its end while the orchestrator goes on.
    pub async fn run(&self, args: &[&str]) -> Output {
        let mut command = self.nexus(args);
        command.stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }
}

pub fn nexus(root: &Path, socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexus"));
    command
        .env_clear()
        .env("NEXUS_ROOT", root)
        .env("GRPC_SOCKET_PATH", socket)
        .env("PATH", "/usr/bin:/bin");
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

struct FakeDaemon;

#[derive(Clone, Debug, serde::Deserialize)]
struct Config {}

impl Daemon for FakeDaemon {
    const NAME: &'static str = "orchestrator";
    const ABOUT: &'static str = "follows a script";
    type Config = Config;

    fn settings() -> Vec<Setting> {
        Vec::new()
    }

    async fn build(boot: Boot<Config>) -> Result<Built<Config>, BootError> {
        let script = SCRIPTS.lock().unwrap()[boot.root.path()].clone();
        let whole = script.lock().unwrap().whole;
        let service = OrchestratorServiceServer::new(Service { script: script.clone() });
        let services = Services::new().add(Access::USERS, service);
        Ok(Built::new(match whole {
            true => crate::fake_agents::serve(services, &script, boot.root.path()),
            false => services,
        }))
    }
}

struct Service {
    script: Shared,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn event(data: &[(&str, &str)]) -> Payload {
    let data = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Payload::Event(Event {
        data,
        ..Event::default()
    })
}

fn answer(message: &Message, content: &str, extra: &[(&str, &str)]) -> Payload {
    let mut extra: HashMap<String, String> = extra.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    extra.insert("in_reply_to".into(), message.id.clone());
    Payload::Message(Message {
        id: "a".into(),
        role: MessageRole::Assistant.into(),
        content: content.into(),
        metadata: Some(MessageMetadata {
            extra,
            ..MessageMetadata::default()
        }),
        sequence: PLACE.fetch_add(1, Ordering::Relaxed),
        ..Message::default()
    })
}

/// Of the next answer in its session: rising, as it has to be.
static PLACE: AtomicU64 = AtomicU64::new(2);

async fn play(
    script: Shared,
    acts: Vec<Act>,
    message: Message,
    mut frames: Streaming<StreamMessageRequest>,
    out: mpsc::Sender<Result<StreamMessageResponse, Status>>,
) {
    let _gone = out
        .send(Ok(StreamMessageResponse {
            payload: Some(event(&[("ack", &message.id)])),
        }))
        .await;
    let mut calls = false;
    for act in acts {
        let payload = match act {
            Act::Delta(id, index, delta) => {
                event(&[("message_id", id), ("index", &index.to_string()), ("delta", delta)])
            }
            // As a run that called tools says it.
            Act::Answer(text) if calls => answer(&message, text, &[("tool_calls", "exec")]),
            Act::Answer(text) => answer(&message, text, &[]),
            Act::Error(text) => event(&[("error", text), ("message_id", &message.id)]),
            Act::Break => {
                let _gone = out.send(Err(Status::unavailable("shutting down"))).await;
                return;
            }
            Act::Cancelled(text) => {
                while let Some(Ok(frame)) = frames.next().await {
                    if matches!(frame.payload, Some(Asked::Cancel(_))) {
                        break;
                    }
                }
                answer(&message, text, &[("cancelled", "true")])
            }
            Act::News(event) => {
                calls = true;
                crate::fake_agents::tell(&script, *event, &message.id).await;
                continue;
            }
            Act::Decided => {
                crate::fake_agents::until(&script, |agents| !agents.decided.is_empty()).await;
                continue;
            }
            Act::Stopped => {
                crate::fake_agents::until(&script, |agents| !agents.stopped.is_empty()).await;
                continue;
            }
        };
        let _gone = out.send(Ok(StreamMessageResponse { payload: Some(payload) })).await;
    }
    while let Some(Ok(_)) = frames.next().await {}
}

#[tonic::async_trait]
impl OrchestratorService for Service {
    async fn create_session(
        &self,
        request: Request<CreateSessionRequest>,
    ) -> Result<Response<CreateSessionResponse>, Status> {
        self.script.lock().unwrap().created.push(request.into_inner());
        Ok(Response::new(CreateSessionResponse {
            session_id: "5e55".repeat(8),
            session: None,
        }))
    }

    type StreamMessagesStream = Answers<StreamMessageResponse>;

    async fn stream_messages(
        &self,
        request: Request<Streaming<StreamMessageRequest>>,
    ) -> Result<Response<Self::StreamMessagesStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.unwrap_or_default();
        let Some(Asked::Message(message)) = first.payload.clone() else {
            return Err(Status::invalid_argument("the first frame has no message"));
        };
        let acts = {
            let mut script = self.script.lock().unwrap();
            script.seen.push(first);
            // One that knows everything has an answer to everything.
            let otherwise = if script.whole {
                vec![Act::Answer("ok")]
            } else {
                Vec::new()
            };
            script.streams.pop_front().unwrap_or(otherwise)
        };
        let (out, inbox) = mpsc::channel(16);
        tokio::spawn(play(self.script.clone(), acts, message, frames, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(inbox))))
    }

    async fn get_session(&self, request: Request<GetSessionRequest>) -> Result<Response<GetSessionResponse>, Status> {
        let id = request.into_inner().session_id;
        if !self.script.lock().unwrap().whole {
            return Err(Status::not_found("session not found: x"));
        }
        Ok(Response::new(GetSessionResponse {
            session: Some(Session {
                id,
                state: SessionState::Active.into(),
                ..Session::default()
            }),
        }))
    }

    /// Three sessions, one on each page.
    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let page: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let session = Session {
            id: format!("{page}a").repeat(16),
            state: SessionState::Closed.into(),
            metadata: Some(SessionMetadata {
                name: format!("talk {page}\x1b[31m"),
                ..SessionMetadata::default()
            }),
            updated_at: Some(nexus_proto::Timestamp {
                seconds: 1_000,
                nanos: 0,
            }),
            ..Session::default()
        };
        let next_page_token = if page < 2 {
            (page + 1).to_string()
        } else {
            String::new()
        };
        Ok(Response::new(ListSessionsResponse {
            sessions: vec![session],
            total_count: 3,
            next_page_token,
        }))
    }

    type SubscribeEventsStream = Answers<Event>;

    async fn subscribe_events(
        &self,
        request: Request<SubscribeEventsRequest>,
    ) -> Result<Response<Self::SubscribeEventsStream>, Status> {
        let asked = request.into_inner();
        let after = asked.after_sequence.unwrap_or(u64::MAX);
        let ends = asked.filter.is_some_and(|filter| filter.end_time.is_some());
        let gap = Event {
            gap: Some(EventGap { first: 1, last: 2 }),
            ..Event::default()
        };
        let event = Event {
            sequence: 3,
            name: "session.created".into(),
            ..Event::default()
        };
        let old = [(2, gap), (3, event)]
            .into_iter()
            .filter(move |(sequence, _)| *sequence > after)
            .map(|(_, event)| Ok(event));
        let old = tokio_stream::iter(old);
        Ok(Response::new(if ends {
            Box::pin(old)
        } else {
            Box::pin(old.chain(tokio_stream::pending()))
        }))
    }

    async fn health_check(&self, _: Request<()>) -> Result<Response<HealthCheckResponse>, Status> {
        let health = nexus_proto::common::v1::Health::Degraded.into();
        Ok(Response::new(HealthCheckResponse {
            health,
            version: "9.8.7".into(),
            subsystems: Vec::new(),
        }))
    }

    async fn get_status(&self, _: Request<()>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse::default()))
    }

    async fn update_session(
        &self,
        _: Request<UpdateSessionRequest>,
    ) -> Result<Response<UpdateSessionResponse>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn close_session(&self, _: Request<CloseSessionRequest>) -> Result<Response<CloseSessionResponse>, Status> {
        Ok(Response::new(CloseSessionResponse::default()))
    }

    async fn delete_session(
        &self,
        _: Request<DeleteSessionRequest>,
    ) -> Result<Response<DeleteSessionResponse>, Status> {
        panic!("nothing may be deleted here");
    }

    async fn send_message(&self, _: Request<SendMessageRequest>) -> Result<Response<SendMessageResponse>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        if !self.script.lock().unwrap().whole {
            return Err(Status::unimplemented("not in the script"));
        }
        let request = request.into_inner();
        let labels = request.config.unwrap_or_default().labels;
        if labels.keys().any(|name| name.starts_with("nexus.")) {
            return Err(Status::invalid_argument("a name that only the orchestrator gives"));
        }
        Ok(Response::new(CreateContainerResponse {
            container_id: request.session_id,
            container: None,
        }))
    }

    async fn get_container(&self, _: Request<GetContainerRequest>) -> Result<Response<GetContainerResponse>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn list_containers(
        &self,
        _: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn stop_container(
        &self,
        _: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn remove_container(
        &self,
        _: Request<RemoveContainerRequest>,
    ) -> Result<Response<RemoveContainerResponse>, Status> {
        self.script.lock().unwrap().agents.removed += 1;
        Ok(Response::new(RemoveContainerResponse::default()))
    }
}
