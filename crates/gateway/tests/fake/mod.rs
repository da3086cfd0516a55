//! An orchestrator for tests: real gRPC on a real socket, its memory outlives its process, and its assistant says what
//! the test says. `Fake::kill` is sudden: every connection breaks at once.

#![expect(dead_code, reason = "each test file uses its own part of it")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod agents;
pub mod ask;
mod orchestrator;
pub mod site;

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use nexus_proto::{
    agent::v1::{RegisterRequest, agent_service_server::AgentServiceServer},
    orchestrator::v1::{
        Event, EventMetadata, EventType, Message, MessageMetadata, MessageRole, Session, SessionState,
        StreamMessageResponse, orchestrator_service_server::OrchestratorServiceServer,
        stream_message_response::Payload,
    },
};
use tokio::sync::{Notify, broadcast};
use tonic::Status;

/// To the streams of one session; the number is the stream that it does not go to.
type Told = (u64, Result<StreamMessageResponse, Status>);

#[derive(Clone)]
pub struct Fake {
    pub memory: Arc<Mutex<Memory>>,
    pub changed: Arc<Notify>,
    pub socket: PathBuf,
}

#[derive(Default)]
pub struct Memory {
    pub sessions: HashMap<String, Kept>,
    pub keys: HashMap<String, String>,
    pub registered: Vec<RegisterRequest>,
    pub events: Vec<Event>,
    pub subscribers: Vec<broadcast::Sender<Event>>,
    /// Ids that a CancelTurn named.
    pub cancelled: Vec<String>,
    pub streams: u64,
    /// Leaves out `in_reply_to` beside a delta.
    pub shy: bool,
    /// Answers each message by itself, word by word.
    pub echoes: bool,
    next: u64,
}

pub struct Kept {
    pub session: Session,
    pub messages: Vec<Message>,
    /// Messages that wait for their answer, in order.
    pub turns: VecDeque<String>,
    /// What the assistant said of the first of them.
    pub partial: String,
    pub tell: broadcast::Sender<Told>,
}

/// A process of the orchestrator's.
pub struct Process {
    runtime: Option<tokio::runtime::Runtime>,
}

impl Fake {
    pub fn new(socket: &Path) -> Fake {
        Fake {
            memory: Arc::default(),
            changed: Arc::default(),
            socket: socket.to_owned(),
        }
    }

    pub fn start(&self) -> Process {
        let _absent = std::fs::remove_file(&self.socket);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (fake, socket) = (self.clone(), self.socket.clone());
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::bind(socket).unwrap()
        };
        runtime.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(OrchestratorServiceServer::new(fake.clone()))
                .add_service(AgentServiceServer::new(fake))
                .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        Process { runtime: Some(runtime) }
    }

    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }

    /// Waits until the memory is so; a change of it wakes this.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&mut Memory) -> Option<T>) -> T {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if let Some(found) = look(&mut self.memory()) {
                    return found;
                }
                let _again = tokio::time::timeout(Duration::from_millis(20), changed).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap_or_else(|_| panic!("waited for {what}"))
    }

    /// Waits until a message is stored; its id.
    pub async fn asked(&self, session: &str, content: &str) -> String {
        self.until(&format!("the message {content:?}"), |memory| {
            let kept = memory.sessions.get(session)?;
            kept.messages
                .iter()
                .find(|message| message.content == content)
                .map(|message| message.id.clone())
        })
        .await
    }

    /// Waits until this many streams listen to the session.
    pub async fn heard_by(&self, session: &str, streams: usize) {
        self.until(&format!("{streams} streams"), |memory| {
            (memory.sessions.get(session)?.tell.receiver_count() >= streams).then_some(())
        })
        .await;
    }

    pub fn delta(&self, session: &str, text: &str) {
        self.memory().delta(session, text);
    }

    /// The assistant begins anew.
    pub fn start_over(&self, session: &str) {
        self.memory().sessions.get_mut(session).unwrap().partial.clear();
    }

    /// The answer is what was said.
    pub fn finish(&self, session: &str) {
        self.memory().finish(session, &[]);
        self.changed.notify_waiters();
    }

    pub fn fail(&self, session: &str, error: &str) {
        self.memory().fail(session, error);
    }

    pub fn close(&self, session: &str) {
        self.memory().close(session);
        self.changed.notify_waiters();
    }
}

impl Memory {
    pub fn id(&mut self) -> String {
        self.next += 1;
        format!("{:032x}", self.next)
    }

    pub fn kept(&mut self, session: &str) -> Result<&mut Kept, Status> {
        self.sessions
            .get_mut(session)
            .ok_or_else(|| Status::not_found(format!("session not found: {session}")))
    }

    /// Stores a message, or finds it again. Returns its sequence, and whether it is new.
    pub fn store(&mut self, session: &str, mut message: Message) -> Result<(String, u64, bool), Status> {
        if message.id.is_empty() {
            message.id = self.id();
        }
        if message.role() == MessageRole::Unspecified {
            message.role = MessageRole::User.into();
        }
        let echoes = self.echoes;
        let kept = self.kept(session)?;
        if kept.session.state() == SessionState::Closed {
            return Err(Status::failed_precondition("cannot add message to closed session"));
        }
        if let Some(known) = kept.messages.iter().find(|known| known.id == message.id) {
            if known.content != message.content || known.role != message.role || known.metadata != message.metadata {
                return Err(Status::already_exists("the id belongs to another message"));
            }
            return Ok((known.id.clone(), known.sequence, false));
        }
        message.sequence = kept.messages.len() as u64 + 1;
        message.timestamp = Some(std::time::SystemTime::now().into());
        let (id, sequence, user) = (
            message.id.clone(),
            message.sequence,
            message.role() == MessageRole::User,
        );
        let words = message.content.clone();
        kept.messages.push(message);
        if user {
            kept.turns.push_back(id.clone());
        }
        if user && echoes {
            self.delta(session, "you said: ");
            for word in words.split_inclusive(' ') {
                self.delta(session, word);
            }
            self.finish(session, &[]);
        }
        Ok((id, sequence, true))
    }

    pub fn delta(&mut self, session: &str, text: &str) {
        let shy = self.shy;
        let kept = self.sessions.get_mut(session).unwrap();
        let turn = kept.turns.front().expect("a message waits for its answer").clone();
        let mut data = HashMap::from([
            ("delta".to_owned(), text.to_owned()),
            ("message_id".to_owned(), format!("answer-{turn}")),
            ("index".to_owned(), kept.partial.len().to_string()),
        ]);
        if !shy {
            data.insert("in_reply_to".into(), turn);
        }
        kept.partial.push_str(text);
        let event = Event {
            r#type: EventType::IpcMessage.into(),
            data,
            ..Event::default()
        };
        kept.tell(0, Payload::Event(event));
    }

    pub fn finish(&mut self, session: &str, extra: &[(&str, &str)]) {
        let kept = self.sessions.get_mut(session).unwrap();
        let turn = kept.turns.pop_front().expect("a message waits for its answer");
        let mut all = HashMap::from([("in_reply_to".to_owned(), turn.clone())]);
        all.extend(
            extra
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        let message = Message {
            id: format!("answer-{turn}"),
            role: MessageRole::Assistant.into(),
            content: std::mem::take(&mut kept.partial),
            metadata: Some(MessageMetadata {
                extra: all,
                ..MessageMetadata::default()
            }),
            sequence: kept.messages.len() as u64 + 1,
            timestamp: Some(std::time::SystemTime::now().into()),
        };
        kept.messages.push(message.clone());
        kept.tell(0, Payload::Message(message));
    }

    pub fn fail(&mut self, session: &str, error: &str) {
        let kept = self.sessions.get_mut(session).unwrap();
        let turn = kept.turns.pop_front().expect("a message waits for its answer");
        kept.partial.clear();
        let event = Event {
            r#type: EventType::TaskFailed.into(),
            name: "turn.failed".into(),
            data: HashMap::from([("error".to_owned(), error.to_owned()), ("message_id".to_owned(), turn)]),
            metadata: Some(EventMetadata {
                session_id: session.into(),
                ..EventMetadata::default()
            }),
            ..Event::default()
        };
        kept.tell(0, Payload::Event(event.clone()));
        self.publish(event);
    }

    pub fn close(&mut self, session: &str) {
        let Some(kept) = self.sessions.get_mut(session) else {
            return;
        };
        if kept.session.state() == SessionState::Closed {
            return;
        }
        kept.session.state = SessionState::Closed.into();
        let _nobody = kept
            .tell
            .send((0, Err(Status::failed_precondition("session is not active"))));
        self.publish(Event {
            r#type: EventType::SessionClosed.into(),
            name: "session.closed".into(),
            metadata: Some(EventMetadata {
                session_id: session.into(),
                ..EventMetadata::default()
            }),
            ..Event::default()
        });
    }

    fn publish(&mut self, mut event: Event) {
        event.sequence = self.events.len() as u64 + 1;
        self.events.push(event.clone());
        self.subscribers
            .retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }
}

impl Kept {
    fn tell(&self, not_to: u64, payload: Payload) {
        let _nobody = self
            .tell
            .send((not_to, Ok(StreamMessageResponse { payload: Some(payload) })));
    }
}

impl Process {
    /// As by `kill -9`.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
