//! An orchestrator under a temporary root, and those who talk to it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use nexus_client::{Address, Channel, Connection, Options};
use nexus_config::Root;
use nexus_daemon::{BootError, Running};
use nexus_orchestrator::Orchestrator;
use nexus_proto::agent::v1::agent_service_client::AgentServiceClient;
use nexus_proto::agent::v1::*;
use nexus_proto::orchestrator::v1::orchestrator_service_client::OrchestratorServiceClient;
use nexus_proto::orchestrator::v1::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// Nothing here takes this long; what does is a failure.
const LONG: Duration = Duration::from_secs(20);

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("it takes far too long")
}

pub struct Site {
    running: Option<Running>,
    pub root: Root,
    settings: Vec<(&'static str, &'static str)>,
    _dir: tempfile::TempDir,
}

impl Site {
    pub async fn new() -> Site {
        Site::with(&[]).await
    }

    pub async fn with(settings: &[(&'static str, &'static str)]) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        root.create().unwrap();
        let mut site = Site {
            running: None,
            root,
            settings: settings.to_vec(),
            _dir: dir,
        };
        site.start().await;
        site
    }

    async fn start(&mut self) {
        let started = async {
            loop {
                match nexus_daemon::start::<Orchestrator>(self.root.clone(), &self.settings).await {
                    // The one before lets go of its files a moment after it said so.
                    Err(BootError::Taken(_)) => tokio::task::yield_now().await,
                    started => return started.unwrap(),
                }
            }
        };
        self.running = Some(soon(started).await);
    }

    pub async fn restart(&mut self) {
        soon(self.running.take().unwrap().stop()).await;
        self.start().await;
    }

    pub async fn stop(&mut self) {
        soon(self.running.take().unwrap().stop()).await;
    }

    fn connection(&self, token: Option<String>) -> Connection {
        let socket = self.running.as_ref().unwrap().socket().to_owned();
        Connection::lazy(
            &Address::Unix(socket),
            &Options {
                token,
                ..Options::default()
            },
        )
    }

    pub fn orchestrator(&self) -> OrchestratorServiceClient<Channel> {
        self.connection(None).orchestrator()
    }

    /// For services that the connection has no name for.
    pub fn channel(&self) -> Channel {
        self.connection(None).channel()
    }

    /// The same as a caller with a token of its own.
    pub fn channel_with(&self, token: &str) -> Channel {
        self.connection(Some(token.into())).channel()
    }

    pub fn agent(&self) -> AgentServiceClient<Channel> {
        self.connection(None).agent()
    }

    /// As a caller with a token of its own.
    pub fn with_token(&self, token: &str) -> OrchestratorServiceClient<Channel> {
        self.connection(Some(token.into())).orchestrator()
    }

    pub async fn session(&self) -> String {
        let made = self
            .orchestrator()
            .create_session(CreateSessionRequest::default())
            .await
            .unwrap();
        made.into_inner().session_id
    }

    pub async fn get(&self, session: &str) -> Session {
        let request = GetSessionRequest {
            session_id: session.into(),
            ..GetSessionRequest::default()
        };
        self.orchestrator()
            .get_session(request)
            .await
            .unwrap()
            .into_inner()
            .session
            .unwrap()
    }

    /// What was said in a session: role and content.
    pub async fn said(&self, session: &str) -> Vec<(MessageRole, String)> {
        let messages = self.get(session).await.context.unwrap().messages;
        messages
            .into_iter()
            .map(|message| (message.role(), message.content))
            .collect()
    }

    pub async fn send(&self, session: &str, message: Message) -> Result<SendMessageResponse, Status> {
        let request = SendMessageRequest {
            session_id: session.into(),
            message: Some(message),
        };
        self.orchestrator()
            .send_message(request)
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn register(&self, name: &str) -> String {
        let request = RegisterRequest {
            name: name.into(),
            r#type: AgentType::Worker.into(),
            ..RegisterRequest::default()
        };
        self.agent().register(request).await.unwrap().into_inner().agent_id
    }

    pub async fn chat(&self, session: &str) -> Chat {
        let mut chat = self.open().await;
        let frame = StreamMessageRequest {
            session_id: session.into(),
            ..StreamMessageRequest::default()
        };
        chat.put(frame).await;
        chat.beat().await;
        chat
    }

    /// A StreamMessages that has said nothing yet.
    pub async fn open(&self) -> Chat {
        let (frames, outbound) = mpsc::channel(1024);
        let inbound = self
            .orchestrator()
            .stream_messages(ReceiverStream::new(outbound))
            .await
            .unwrap()
            .into_inner();
        Chat {
            frames: Some(frames),
            inbound,
        }
    }

    pub async fn assistant(&self) -> Linked {
        let id = self.register("assistant").await;
        self.link(&id).await
    }

    /// Opens an agent's stream, and waits until it is open.
    pub async fn link(&self, id: &str) -> Linked {
        let mut linked = self.link_unheard(id).await;
        linked.put(stream_agent_request::Payload::Heartbeat(())).await;
        linked.unread = Some(soon(linked.inbound.message()).await.unwrap().unwrap());
        linked
    }

    pub async fn link_unheard(&self, id: &str) -> Linked {
        let (frames, outbound) = mpsc::channel(1024);
        let first = StreamAgentRequest {
            agent_id: id.into(),
            payload: None,
        };
        frames.send(first).await.unwrap();
        let inbound = self
            .agent()
            .stream_agent(ReceiverStream::new(outbound))
            .await
            .unwrap()
            .into_inner();
        Linked {
            id: id.into(),
            frames,
            inbound,
            unread: None,
        }
    }

    pub async fn events(&self, request: SubscribeEventsRequest) -> Result<Events, Status> {
        let response = self.orchestrator().subscribe_events(request).await?;
        let log_id = response
            .metadata()
            .get("nexus-log-id")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        Ok(Events {
            log_id,
            inbound: response.into_inner(),
        })
    }

    pub async fn replay(&self, filter: EventFilter) -> Events {
        let request = SubscribeEventsRequest {
            filter: Some(filter),
            after_sequence: Some(0),
        };
        self.events(request).await.unwrap()
    }
}

pub fn user(text: &str) -> Message {
    Message {
        role: MessageRole::User.into(),
        content: text.into(),
        ..Message::default()
    }
}

pub fn system(text: &str) -> Message {
    Message {
        role: MessageRole::System.into(),
        ..user(text)
    }
}

pub fn with_id(id: &str, message: Message) -> Message {
    Message {
        id: id.into(),
        ..message
    }
}

/// Asserts that a call was refused so.
pub fn refused<T: Debug>(result: Result<T, Status>, code: Code) -> String {
    let status = result.expect_err("it should be refused");
    assert_eq!(status.code(), code, "{status}");
    status.message().to_owned()
}

/// What a chat is shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    Message(MessageRole, String),
    Piece { index: usize, text: String },
    User(String),
    Error(String),
    Ack(String, u64),
    Beat,
}

pub struct Chat {
    frames: Option<mpsc::Sender<StreamMessageRequest>>,
    inbound: Streaming<StreamMessageResponse>,
}

impl Chat {
    pub async fn put(&self, frame: StreamMessageRequest) {
        self.frames.as_ref().unwrap().send(frame).await.unwrap();
    }

    pub async fn say(&self, message: Message) {
        let payload = Some(stream_message_request::Payload::Message(message));
        self.put(StreamMessageRequest {
            payload,
            ..StreamMessageRequest::default()
        })
        .await;
    }

    pub async fn cancel(&self, message_id: &str) {
        let cancel = CancelTurn {
            message_id: message_id.into(),
        };
        let payload = Some(stream_message_request::Payload::Cancel(cancel));
        self.put(StreamMessageRequest {
            payload,
            ..StreamMessageRequest::default()
        })
        .await;
    }

    /// Everything said before this was heard.
    pub async fn beat(&mut self) -> Vec<Shown> {
        let payload = Some(stream_message_request::Payload::Heartbeat(()));
        self.put(StreamMessageRequest {
            payload,
            ..StreamMessageRequest::default()
        })
        .await;
        self.until(|shown| *shown == Shown::Beat).await
    }

    pub fn half_close(&mut self) {
        self.frames = None;
    }

    pub async fn raw(&mut self) -> Result<Option<stream_message_response::Payload>, Status> {
        soon(self.inbound.message())
            .await
            .map(|frame| frame.map(|frame| frame.payload.unwrap()))
    }

    pub async fn next(&mut self) -> Shown {
        self.end()
            .await
            .expect("the stream goes on")
            .expect("the stream goes on")
    }

    /// The next that is shown, `None` after OK, or what the stream ended with.
    pub async fn end(&mut self) -> Result<Option<Shown>, Status> {
        use stream_message_response::Payload;
        Ok(self.raw().await?.map(|payload| match payload {
            Payload::Heartbeat(()) => Shown::Beat,
            Payload::Message(message) => Shown::Message(message.role(), message.content),
            Payload::Event(event) => {
                let data = |name: &str| event.data.get(name).cloned();
                if let Some(error) = data("error") {
                    Shown::Error(error)
                } else if let Some(text) = data("delta") {
                    Shown::Piece {
                        index: data("index").unwrap().parse().unwrap(),
                        text,
                    }
                } else if let Some(id) = data("ack") {
                    Shown::Ack(id, event.sequence)
                } else {
                    assert_eq!(data("role").as_deref(), Some("user"), "{event:?}");
                    Shown::User(data("content").unwrap())
                }
            }
        }))
    }

    /// What is shown before the first that fits, which is left out.
    pub async fn until(&mut self, fits: impl Fn(&Shown) -> bool) -> Vec<Shown> {
        let mut before = Vec::new();
        loop {
            let shown = self.next().await;
            if fits(&shown) {
                return before;
            }
            before.push(shown);
        }
    }

    pub async fn answer(&mut self) -> String {
        loop {
            match self.next().await {
                Shown::Message(MessageRole::Assistant, text) => return text,
                Shown::Error(error) => panic!("an answer was expected, not {error}"),
                _ => {}
            }
        }
    }

    pub async fn error(&mut self) -> String {
        loop {
            match self.next().await {
                Shown::Error(error) => return error,
                Shown::Message(MessageRole::Assistant, text) => panic!("an error was expected, not {text}"),
                _ => {}
            }
        }
    }
}

/// An agent with an open stream.
pub struct Linked {
    pub id: String,
    frames: mpsc::Sender<StreamAgentRequest>,
    inbound: Streaming<StreamAgentResponse>,
    unread: Option<StreamAgentResponse>,
}

impl Linked {
    pub async fn put(&self, payload: stream_agent_request::Payload) {
        self.frames
            .send(StreamAgentRequest {
                agent_id: self.id.clone(),
                payload: Some(payload),
            })
            .await
            .unwrap();
    }

    /// The next message, or what the stream ended with.
    pub async fn end(&mut self) -> Result<Option<AgentMessage>, Status> {
        loop {
            let frame = match self.unread.take() {
                Some(frame) => frame,
                None => match soon(self.inbound.message()).await? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            if let Some(stream_agent_response::Payload::Message(message)) = frame.payload {
                return Ok(Some(message));
            }
        }
    }

    pub async fn next(&mut self) -> AgentMessage {
        self.end()
            .await
            .expect("the stream goes on")
            .expect("the stream goes on")
    }

    /// The next request, with its text.
    pub async fn asked(&mut self) -> (AgentMessage, String) {
        let request = self.next().await;
        let Some(agent_message::Payload::DataMessage(data)) = &request.payload else {
            panic!("{request:?}")
        };
        let text = String::from_utf8(data.data.to_vec()).unwrap();
        (request, text)
    }

    fn reply(&self, request: &AgentMessage, kind: MessageType, payload: agent_message::Payload) -> AgentMessage {
        let about = request.metadata.clone().unwrap();
        AgentMessage {
            r#type: kind.into(),
            source_id: self.id.clone(),
            target_id: "orchestrator".into(),
            metadata: Some(AgentMessageMetadata {
                session_id: about.session_id,
                correlation_id: about.correlation_id,
                ..AgentMessageMetadata::default()
            }),
            payload: Some(payload),
            ..AgentMessage::default()
        }
    }

    async fn say(&self, message: AgentMessage) {
        self.put(stream_agent_request::Payload::Message(message)).await;
    }

    pub async fn delta(&self, request: &AgentMessage, index: usize, text: &str) {
        let data = HashMap::from([("delta".into(), text.into()), ("index".into(), index.to_string())]);
        let event = EventMessage {
            event_type: "delta".into(),
            data,
            ..EventMessage::default()
        };
        self.say(self.reply(request, MessageType::Event, agent_message::Payload::EventMessage(event)))
            .await;
    }

    pub async fn tool(&self, request: &AgentMessage) {
        let event = EventMessage {
            event_type: "tool.started".into(),
            ..EventMessage::default()
        };
        self.say(self.reply(request, MessageType::Event, agent_message::Payload::EventMessage(event)))
            .await;
    }

    pub async fn answer(&self, request: &AgentMessage, text: &str) {
        let data = DataMessage {
            data: text.as_bytes().to_vec().into(),
            ..DataMessage::default()
        };
        self.say(self.reply(request, MessageType::Data, agent_message::Payload::DataMessage(data)))
            .await;
    }

    pub async fn fail(&self, request: &AgentMessage, text: &str) {
        let data = DataMessage {
            data: text.as_bytes().to_vec().into(),
            ..DataMessage::default()
        };
        self.say(self.reply(request, MessageType::Error, agent_message::Payload::DataMessage(data)))
            .await;
    }
}

pub struct Events {
    pub log_id: String,
    inbound: Streaming<Event>,
}

impl Events {
    pub async fn end(&mut self) -> Result<Option<Event>, Status> {
        soon(self.inbound.message()).await
    }

    pub async fn next(&mut self) -> Event {
        self.end().await.unwrap().expect("the stream goes on")
    }

    /// The next event of this name.
    pub async fn of(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().await;
            if event.name == name {
                return event;
            }
        }
    }
}
