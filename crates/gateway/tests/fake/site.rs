//! A gateway over a temporary root, beside a fake orchestrator.

use std::time::Duration;

use nexus_client::{Address, Connection, Options};
use nexus_config::Root;
use nexus_daemon::{BootError, Running};
use nexus_gateway::Gateway;
use nexus_proto::gateway::v1::{
    gateway_service_client::GatewayServiceClient, stream_chat_request, stream_chat_response, stream_responses_response,
    *,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::{Fake, Process};

pub struct Site {
    pub root: Root,
    pub fake: Fake,
    pub orchestrator: Option<Process>,
    pub gateway: Option<Running>,
    settings: Vec<(&'static str, &'static str)>,
    _dir: tempfile::TempDir,
}

pub type Client = GatewayServiceClient<nexus_client::Channel>;

impl Site {
    pub async fn new() -> Site {
        Site::with(&[]).await
    }

    pub async fn with(settings: &[(&'static str, &'static str)]) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        root.create().unwrap();
        let fake = Fake::new(&root.socket("orchestrator"));
        let mut settings = settings.to_vec();
        // A restarted neighbour is found again quickly.
        settings.push(("common.reconnect_interval", "50ms"));
        let orchestrator = Some(fake.start());
        let mut site = Site {
            root,
            fake,
            orchestrator,
            gateway: None,
            settings,
            _dir: dir,
        };
        site.start_gateway().await;
        site
    }

    pub async fn start_gateway(&mut self) {
        let end = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            match nexus_daemon::start::<Gateway>(self.root.clone(), &self.settings).await {
                // The writer of the one before lets go of the file a moment after it said so.
                Err(BootError::Taken(_)) if std::time::Instant::now() < end => tokio::task::yield_now().await,
                started => {
                    self.gateway = Some(started.unwrap());
                    return;
                }
            }
        }
    }

    pub async fn restart_gateway(&mut self) {
        self.gateway.take().unwrap().stop().await;
        self.start_gateway().await;
    }

    pub fn kill_orchestrator(&mut self) {
        self.orchestrator.take().unwrap().kill();
    }

    pub fn start_orchestrator(&mut self) {
        self.orchestrator = Some(self.fake.start());
    }

    pub fn client(&self) -> Client {
        let socket = self.gateway.as_ref().unwrap().socket().to_owned();
        Connection::lazy(&Address::Unix(socket), &Options::default()).gateway()
    }

    /// A session, and the orchestrator's behind it.
    pub async fn session(&self, config: Option<GatewaySessionConfig>) -> (String, String) {
        let request = CreateGatewaySessionRequest { metadata: None, config };
        let session = self
            .client()
            .create_gateway_session(request)
            .await
            .unwrap()
            .into_inner()
            .session
            .unwrap();
        (session.id, session.orchestrator_session_id)
    }

    pub async fn chat(&self) -> Talk {
        let (frames, sent) = mpsc::channel(64);
        let heard = self
            .client()
            .stream_chat(ReceiverStream::new(sent))
            .await
            .unwrap()
            .into_inner();
        Talk {
            frames: Some(frames),
            heard,
        }
    }
}

/// The request as another user's, passed on by the front door.
pub fn as_user<T>(message: T, uid: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("nexus-peer-uid", uid.parse().unwrap());
    request
        .metadata_mut()
        .insert("nexus-peer-role", "user".parse().unwrap());
    request
}

pub fn with_key<T>(message: T, key: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

pub fn user(id: &str, content: &str) -> GatewayMessage {
    GatewayMessage {
        id: id.into(),
        role: GatewayMessageRole::User.into(),
        content: content.into(),
        ..GatewayMessage::default()
    }
}

pub fn cuts(chunk_size: i64, enable_delta: bool) -> Option<GatewaySessionConfig> {
    let stream_config = Some(StreamConfig {
        chunk_size,
        chunk_delay_ns: 0,
        enable_delta,
    });
    Some(GatewaySessionConfig {
        stream_config,
        ..GatewaySessionConfig::default()
    })
}

/// One StreamChat.
pub struct Talk {
    pub frames: Option<mpsc::Sender<StreamChatRequest>>,
    pub heard: Streaming<StreamChatResponse>,
}

impl Talk {
    pub async fn send(&self, session: &str, payload: Option<stream_chat_request::Payload>) {
        let frame = StreamChatRequest {
            session_id: session.into(),
            payload,
        };
        self.frames.as_ref().unwrap().send(frame).await.unwrap();
    }

    pub async fn say(&self, session: &str, message: GatewayMessage) {
        self.send(session, Some(stream_chat_request::Payload::Message(message)))
            .await;
    }

    pub async fn heartbeat(&self, session: &str) {
        self.send(session, Some(stream_chat_request::Payload::Heartbeat(())))
            .await;
    }

    pub async fn cancel(&self, force: bool) {
        let cancel = CancelStream {
            reason: "enough".into(),
            force,
        };
        self.send("", Some(stream_chat_request::Payload::Cancel(cancel))).await;
    }

    pub fn half_close(&mut self) {
        self.frames.take();
    }

    pub async fn next(&mut self) -> Result<Option<stream_chat_response::Payload>, Status> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.heard.message());
        Ok(next
            .await
            .expect("something within 10 s")?
            .and_then(|frame| frame.payload))
    }

    /// Reads until a status says so, or the stream ends.
    pub async fn read_until(&mut self, state: StreamState) -> Heard {
        let mut heard = Heard::default();
        while let Some(payload) = self.next().await.unwrap() {
            match payload {
                stream_chat_response::Payload::Chunk(chunk) => heard.chunk(chunk),
                stream_chat_response::Payload::Status(status) => {
                    let reached = status.state() == state;
                    heard.status(status);
                    if reached {
                        return heard;
                    }
                }
                stream_chat_response::Payload::Heartbeat(()) => heard.heartbeats += 1,
                stream_chat_response::Payload::Event(event) => panic!("an event: {event:?}"),
            }
        }
        panic!("the stream ended before {state:?}: {heard:?}");
    }

    pub async fn ends_ok(&mut self) {
        assert_eq!(self.next().await.unwrap(), None);
    }
}

/// Reads StreamResponses until its end, or until a status says so.
pub async fn read_responses(stream: &mut Streaming<StreamResponsesResponse>, until: Option<StreamState>) -> Heard {
    let mut heard = Heard::default();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), stream.message());
        match next
            .await
            .expect("something within 10 s")
            .unwrap()
            .map(|frame| frame.payload.unwrap())
        {
            None => return heard,
            Some(stream_responses_response::Payload::Chunk(chunk)) => heard.chunk(chunk),
            Some(stream_responses_response::Payload::Heartbeat(())) => heard.heartbeats += 1,
            Some(stream_responses_response::Payload::Status(status)) => {
                let reached = until == Some(status.state());
                heard.status(status);
                if reached {
                    return heard;
                }
            }
        }
    }
}

/// What a client heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// The text of every chunk, one after the other: what a simple client prints.
    pub printed: String,
    pub chunks: Vec<ResponseChunk>,
    pub states: Vec<StreamState>,
    pub last: StreamStatus,
    pub heartbeats: usize,
}

impl Heard {
    fn chunk(&mut self, chunk: ResponseChunk) {
        self.printed.push_str(&chunk.text);
        self.chunks.push(chunk);
    }

    fn status(&mut self, status: StreamStatus) {
        self.states.push(status.state());
        self.last = status;
    }
}
