//! The assistant between two neighbours that a test plays: the orchestrator and the model daemon.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt as _;
use nexus_agent::Agent;
use nexus_config::Root;
use nexus_daemon::Running;
use nexus_proto::{
    agent::v1::{
        AgentMessage, AgentMessageMetadata, ControlCommand, ControlMessage, DataMessage, HeartbeatRequest,
        HeartbeatResponse, MessageType, RegisterRequest, RegisterResponse, StreamAgentRequest, StreamAgentResponse,
        UnregisterRequest, UnregisterResponse, agent_message, stream_agent_request, stream_agent_response,
    },
    common::v1::TokenUsage,
    llm::v1::{
        Block, FinishReason, ListModelsRequest, ListModelsResponse, LlmRequest, LlmResponse, ModelInfo, StreamChunk,
        StreamComplete, StreamError, StreamLlmRequest, StreamLlmResponse, Tool, stream_llm_request,
        stream_llm_response,
    },
    orchestrator::v1::{
        CompactRequest, CompactResponse, Event, FinishStepRequest, FinishStepResponse, GetRunRequest, GetRunResponse,
        GetSessionRequest, GetSessionResponse, GetToolsRequest, GetToolsResponse, Message, MessageRole, Run, Session,
        SessionContext, StepOffer, SubscribeEventsRequest,
    },
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};
use tonic::{Status, Streaming};

use crate::fake::{Handler, Items, Server, bidi, unary};

pub const SOON: Duration = Duration::from_secs(20);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

type Answers<T> = mpsc::Sender<Result<T, Status>>;

/// What the orchestrator is told, beside the stream.
#[derive(Debug, PartialEq)]
pub enum Told {
    Registered(Box<RegisterRequest>),
    Unregistered(String),
    Heartbeat(String),
}

/// Sessions, and ids that are known.
#[derive(Default)]
pub struct Store {
    pub sessions: HashMap<String, Vec<Message>>,
    pub asked: Vec<GetSessionRequest>,
    pub known: Vec<String>,
    pub next: u32,
    /// What every run may use, and how often somebody asked for it.
    pub tools: Vec<Tool>,
    pub tools_asked: u32,
    pub runs: HashMap<String, Run>,
    pub runs_asked: u32,
    pub compacted: Vec<CompactRequest>,
    /// FinishStep is refused: the step is over.
    pub step_is_over: bool,
}

pub struct Stage {
    pub root: Root,
    pub store: Arc<Mutex<Store>>,
    pub told: mpsc::UnboundedReceiver<Told>,
    finished: mpsc::UnboundedReceiver<FinishStepRequest>,
    pub models: Arc<Mutex<Vec<ModelInfo>>>,
    lines: mpsc::UnboundedReceiver<Line>,
    calls: mpsc::UnboundedReceiver<Call>,
    orchestrator_handler: Handler,
    llm_handler: Handler,
    orchestrator: Option<Server>,
    llm: Option<Server>,
    _dir: TempDir,
}

/// One StreamAgent, seen from the orchestrator.
pub struct Line {
    pub agent_id: String,
    to: Answers<StreamAgentResponse>,
    from: Streaming<StreamAgentRequest>,
}

/// One StreamLLM, seen from the model daemon.
pub struct Call {
    pub request: LlmRequest,
    to: Answers<StreamLlmResponse>,
}

/// What the agent says about a turn.
#[derive(Debug, PartialEq)]
pub enum Said {
    Delta {
        turn: String,
        index: usize,
        text: String,
    },
    Thought {
        turn: String,
        index: usize,
        text: String,
    },
    Answer {
        turn: String,
        text: String,
        headers: HashMap<String, String>,
    },
    Error {
        turn: String,
        text: String,
        code: String,
        retryable: String,
    },
}

pub fn words(texts: &[(MessageRole, &str)]) -> Vec<Message> {
    texts
        .iter()
        .zip(1..)
        .map(|((role, text), sequence)| Message {
            id: format!("m{sequence}"),
            role: (*role).into(),
            content: (*text).into(),
            sequence,
            ..Message::default()
        })
        .collect()
}

impl Stage {
    pub fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        root.create().unwrap();
        let store = Arc::new(Mutex::new(Store::default()));
        let models = Arc::new(Mutex::new(Vec::new()));
        let (told_to, told) = mpsc::unbounded_channel();
        let (finished_to, finished) = mpsc::unbounded_channel();
        let (line_to, lines) = mpsc::unbounded_channel();
        let (call_to, calls) = mpsc::unbounded_channel();
        Stage {
            orchestrator_handler: orchestrator(store.clone(), told_to, finished_to, line_to),
            llm_handler: llm(models.clone(), call_to),
            orchestrator: None,
            llm: None,
            _dir: dir,
            root,
            store,
            told,
            finished,
            models,
            lines,
            calls,
        }
    }

    /// All three, and the stream that the agent opened.
    pub async fn play(overrides: &[(&str, &str)]) -> (Stage, Running, Line) {
        let mut stage = Stage::new();
        stage.raise_orchestrator();
        stage.raise_llm();
        let agent = stage.agent(overrides).await;
        let line = stage.line().await;
        (stage, agent, line)
    }

    pub async fn agent(&self, overrides: &[(&str, &str)]) -> Running {
        let mut all = vec![("common.reconnect_interval", "20ms")];
        all.extend_from_slice(overrides);
        soon(
            "the agent to be ready",
            nexus_daemon::start::<Agent>(self.root.clone(), &all),
        )
        .await
        .unwrap()
    }

    pub fn path(&self, service: &str) -> PathBuf {
        self.root.socket(service)
    }

    pub fn raise_orchestrator(&mut self) {
        self.orchestrator = Some(Server::start(
            &self.path("orchestrator"),
            self.orchestrator_handler.clone(),
        ));
    }

    pub fn raise_llm(&mut self) {
        self.llm = Some(Server::start(&self.path("llm"), self.llm_handler.clone()));
    }

    pub async fn kill_orchestrator(&mut self) {
        self.orchestrator.take().unwrap().kill().await;
    }

    pub async fn kill_llm(&mut self) {
        self.llm.take().unwrap().kill().await;
    }

    pub async fn line(&mut self) -> Line {
        soon("a stream of the agent", self.lines.recv()).await.unwrap()
    }

    pub async fn call(&mut self) -> Call {
        soon("a call of the model", self.calls.recv()).await.unwrap()
    }

    pub async fn told(&mut self) -> Told {
        soon("a call to the orchestrator", self.told.recv()).await.unwrap()
    }

    pub async fn finished(&mut self) -> FinishStepRequest {
        soon("a finished step", self.finished.recv()).await.unwrap()
    }

    pub fn nothing_finished(&mut self) -> bool {
        self.finished.try_recv().is_err()
    }

    pub fn no_call_yet(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    pub fn session(&self, id: &str, messages: Vec<Message>) {
        self.store.lock().unwrap().sessions.insert(id.into(), messages);
    }

    pub fn model(&self, id: &str, window: u32, default: bool) {
        self.models.lock().unwrap().push(ModelInfo {
            id: id.into(),
            provider: "p".into(),
            metadata: HashMap::from([
                ("context_window".into(), window.to_string()),
                ("default".into(), default.to_string()),
            ]),
            ..ModelInfo::default()
        });
    }
}

impl Line {
    pub async fn ask(&self, turn: &str, session: &str, text: &str, headers: &[(&str, &str)]) {
        let message = AgentMessage {
            id: "x".into(),
            r#type: MessageType::Data.into(),
            source_id: "orchestrator".into(),
            target_id: self.agent_id.clone(),
            metadata: Some(AgentMessageMetadata {
                correlation_id: turn.into(),
                session_id: session.into(),
                headers: headers.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
                ..AgentMessageMetadata::default()
            }),
            payload: Some(agent_message::Payload::DataMessage(DataMessage {
                content_type: "text/plain".into(),
                data: text.to_owned().into(),
                ..DataMessage::default()
            })),
            ..AgentMessage::default()
        };
        self.send(message).await;
    }

    /// A later step of a run.
    pub async fn offer_step(&self, turn: &str, offer: StepOffer) {
        let message = AgentMessage {
            id: "x".into(),
            r#type: MessageType::TaskUpdate.into(),
            source_id: "orchestrator".into(),
            target_id: self.agent_id.clone(),
            metadata: Some(AgentMessageMetadata {
                correlation_id: turn.into(),
                session_id: offer.session_id.clone(),
                ..AgentMessageMetadata::default()
            }),
            payload: Some(agent_message::Payload::Step(offer)),
            ..AgentMessage::default()
        };
        self.send(message).await;
    }

    pub async fn cancel(&self, turn: &str, session: &str) {
        let message = AgentMessage {
            r#type: MessageType::Control.into(),
            source_id: "orchestrator".into(),
            target_id: self.agent_id.clone(),
            metadata: Some(AgentMessageMetadata {
                correlation_id: turn.into(),
                session_id: session.into(),
                ..AgentMessageMetadata::default()
            }),
            payload: Some(agent_message::Payload::ControlMessage(ControlMessage {
                command: ControlCommand::Cancel.into(),
                ..ControlMessage::default()
            })),
            ..AgentMessage::default()
        };
        self.send(message).await;
    }

    async fn send(&self, message: AgentMessage) {
        let payload = Some(stream_agent_response::Payload::Message(message));
        soon(
            "the agent to take a message",
            self.to.send(Ok(StreamAgentResponse { payload })),
        )
        .await
        .unwrap();
    }

    /// As a server that stops: in good order, but in the middle of everything.
    pub async fn break_off(self) {
        self.to.send(Err(Status::unavailable("shutting down"))).await.unwrap();
    }

    pub async fn next(&mut self) -> Said {
        let request = soon("a word of the agent", self.from.message()).await.unwrap().unwrap();
        assert_eq!(request.agent_id, self.agent_id);
        let Some(stream_agent_request::Payload::Message(message)) = request.payload else {
            panic!("a frame without a message: {request:?}");
        };
        assert_eq!(message.source_id, self.agent_id);
        assert_eq!(message.target_id, "orchestrator");
        assert!(!message.id.is_empty());
        let kind = message.r#type();
        let turn = message.metadata.unwrap().correlation_id;
        match (kind, message.payload.unwrap()) {
            (MessageType::Event, agent_message::Payload::EventMessage(mut event)) => {
                let index = event.data["index"].parse().unwrap();
                let text = event.data.remove("delta").unwrap();
                match event.event_type.as_str() {
                    "delta" => Said::Delta { turn, index, text },
                    "thinking" => Said::Thought { turn, index, text },
                    other => panic!("an event {other:?}"),
                }
            }
            (MessageType::Data, agent_message::Payload::DataMessage(data)) => Said::Answer {
                turn,
                text: String::from_utf8(data.data.into()).unwrap(),
                headers: data.headers,
            },
            (MessageType::Error, agent_message::Payload::DataMessage(data)) => {
                assert_eq!(data.content_type, "application/vnd.nexus.error+text");
                Said::Error {
                    turn,
                    text: String::from_utf8(data.data.into()).unwrap(),
                    code: data.headers["code"].clone(),
                    retryable: data.headers["retryable"].clone(),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The last word of a turn, after whatever deltas; these must add up to it.
    pub async fn whole(&mut self, of: &str) -> String {
        let mut built = String::new();
        loop {
            match self.next().await {
                Said::Delta { turn, index, text } => {
                    assert_eq!((turn.as_str(), index), (of, built.len()));
                    built.push_str(&text);
                }
                Said::Answer { turn, text, .. } => {
                    assert_eq!((turn.as_str(), text.as_str()), (of, built.as_str()));
                    return text;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Call {
    pub async fn say(&self, text: &str) {
        self.send(stream_llm_response::Payload::Chunk(StreamChunk {
            content: text.into(),
            ..StreamChunk::default()
        }))
        .await;
    }

    pub async fn complete(&self) {
        self.send(stream_llm_response::Payload::Complete(StreamComplete {
            response: Some(LlmResponse {
                model: "m-1".into(),
                finish_reason: FinishReason::Stop.into(),
                usage: Some(TokenUsage {
                    input_tokens: 11,
                    output_tokens: 22,
                    total_tokens: 33,
                }),
                ..LlmResponse::default()
            }),
            ..StreamComplete::default()
        }))
        .await;
    }

    pub async fn think(&self, text: &str) {
        self.send(stream_llm_response::Payload::Chunk(StreamChunk {
            thinking: text.into(),
            ..StreamChunk::default()
        }))
        .await;
    }

    /// The end of an answer that consists of these blocks.
    pub async fn complete_with(&self, blocks: Vec<Block>, finish: FinishReason) {
        self.send(stream_llm_response::Payload::Complete(StreamComplete {
            response: Some(LlmResponse {
                provider: "p".into(),
                model: "m-1".into(),
                finish_reason: finish.into(),
                blocks,
                ..LlmResponse::default()
            }),
            ..StreamComplete::default()
        }))
        .await;
    }

    pub async fn fail(&self, code: &str, message: &str, retryable: bool) {
        self.send(stream_llm_response::Payload::Error(StreamError {
            code: code.into(),
            message: message.into(),
            retryable,
            ..StreamError::default()
        }))
        .await;
    }

    async fn send(&self, payload: stream_llm_response::Payload) {
        let message = StreamLlmResponse { payload: Some(payload) };
        soon("the agent to hear the model", self.to.send(Ok(message)))
            .await
            .unwrap();
    }

    /// The agent has given the call up.
    pub async fn given_up(&self) {
        soon("the agent to give up its call", self.to.closed()).await;
    }

    pub fn shown(&self) -> Vec<(&str, &str)> {
        self.request
            .messages
            .iter()
            .map(|message| (message.role.as_str(), message.content.as_str()))
            .collect()
    }
}

fn orchestrator(
    store: Arc<Mutex<Store>>,
    told: mpsc::UnboundedSender<Told>,
    finished: mpsc::UnboundedSender<FinishStepRequest>,
    lines: mpsc::UnboundedSender<Line>,
) -> Handler {
    Arc::new(move |request| {
        let (store, told, lines) = (store.clone(), told.clone(), lines.clone());
        let finished = finished.clone();
        Box::pin(async move {
            match request.uri().path().rsplit('/').next().unwrap() {
                "Register" => {
                    unary(request, move |request: tonic::Request<RegisterRequest>| async move {
                        let mut store = store.lock().unwrap();
                        store.next += 1;
                        let agent_id = format!("agent-{}", store.next);
                        store.known.push(agent_id.clone());
                        let _ = told.send(Told::Registered(Box::new(request.into_inner())));
                        Ok(RegisterResponse {
                            agent_id,
                            ..RegisterResponse::default()
                        })
                    })
                    .await
                }
                "Unregister" => {
                    unary(request, move |request: tonic::Request<UnregisterRequest>| async move {
                        let _ = told.send(Told::Unregistered(request.into_inner().agent_id));
                        Ok(UnregisterResponse::default())
                    })
                    .await
                }
                "Heartbeat" => {
                    unary(request, move |request: tonic::Request<HeartbeatRequest>| async move {
                        let id = request.into_inner().agent_id;
                        let known = store.lock().unwrap().known.contains(&id);
                        let _ = told.send(Told::Heartbeat(id));
                        if known {
                            Ok(HeartbeatResponse::default())
                        } else {
                            Err(Status::not_found("agent not found"))
                        }
                    })
                    .await
                }
                "GetTools" => {
                    unary(request, move |_: tonic::Request<GetToolsRequest>| async move {
                        let mut store = store.lock().unwrap();
                        store.tools_asked += 1;
                        Ok(GetToolsResponse {
                            tools: store.tools.clone(),
                            digest: "digest".into(),
                        })
                    })
                    .await
                }
                "FinishStep" => {
                    unary(request, move |request: tonic::Request<FinishStepRequest>| async move {
                        let over = store.lock().unwrap().step_is_over;
                        let _ = finished.send(request.into_inner());
                        if over {
                            return Err(Status::failed_precondition("the step is over"));
                        }
                        Ok(FinishStepResponse::default())
                    })
                    .await
                }
                "GetRun" => {
                    unary(request, move |request: tonic::Request<GetRunRequest>| async move {
                        let mut store = store.lock().unwrap();
                        store.runs_asked += 1;
                        match store.runs.get(&request.into_inner().run_id) {
                            Some(run) => Ok(GetRunResponse { run: Some(run.clone()) }),
                            None => Err(Status::not_found("run not found")),
                        }
                    })
                    .await
                }
                "Compact" => {
                    unary(request, move |request: tonic::Request<CompactRequest>| async move {
                        store.lock().unwrap().compacted.push(request.into_inner());
                        Ok(CompactResponse {})
                    })
                    .await
                }
                "SubscribeEvents" => {
                    bidi(request, move |mut from: Streaming<SubscribeEventsRequest>| {
                        let answer = async move {
                            let request = from.message().await.unwrap().unwrap();
                            let filter = request.filter.unwrap();
                            assert_eq!(filter.names, ["session.compacted"]);
                            assert!(filter.end_time.is_some(), "what was, and not what comes");
                            let compacted = store.lock().unwrap().compacted.clone();
                            let events = compacted
                                .into_iter()
                                .filter(move |one| one.session_id == filter.session_id);
                            futures_util::stream::iter(events.map(|one| Ok(compacted_event(one))))
                        };
                        Box::pin(futures_util::stream::once(answer).flatten()) as Items<Event>
                    })
                    .await
                }
                "GetSession" => {
                    unary(request, move |request: tonic::Request<GetSessionRequest>| async move {
                        session(&mut store.lock().unwrap(), request.into_inner())
                    })
                    .await
                }
                "StreamAgent" => {
                    bidi(request, move |mut from: Streaming<StreamAgentRequest>| {
                        let (to, answers) = mpsc::channel(64);
                        let opening = async move {
                            let first = from.message().await.unwrap().unwrap();
                            assert_eq!(first.payload, None, "the first frame says who, and nothing else");
                            if !store.lock().unwrap().known.contains(&first.agent_id) {
                                return Some(Err(Status::not_found("agent not found")));
                            }
                            let agent_id = first.agent_id;
                            let _ = lines.send(Line { agent_id, to, from });
                            None
                        };
                        let answers = tokio_stream::wrappers::ReceiverStream::new(answers);
                        let opened = futures_util::stream::once(opening).filter_map(|refused| async { refused });
                        Box::pin(opened.chain(answers)) as Items<StreamAgentResponse>
                    })
                    .await
                }
                other => panic!("no such call is expected: {other}"),
            }
        })
    })
}

fn compacted_event(one: CompactRequest) -> Event {
    let data = [
        ("run_id", one.run_id),
        ("session_id", one.session_id),
        ("through_sequence", one.through_sequence.to_string()),
        ("through_step", one.through_step.to_string()),
        ("summary", one.summary),
    ];
    Event {
        name: "session.compacted".into(),
        data: data.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Event::default()
    }
}

fn session(store: &mut Store, request: GetSessionRequest) -> Result<GetSessionResponse, Status> {
    let Some(all) = store.sessions.get(&request.session_id) else {
        return Err(Status::not_found("session not found"));
    };
    let before = match request.messages_before {
        0 => u64::MAX,
        before => before,
    };
    let older: Vec<_> = all.iter().filter(|message| message.sequence < before).collect();
    let omitted = older.len().saturating_sub(request.message_limit as usize);
    let messages = older[omitted..].iter().map(|message| (*message).clone()).collect();
    store.asked.push(request);
    Ok(GetSessionResponse {
        session: Some(Session {
            context: Some(SessionContext {
                messages,
                messages_omitted: omitted as u64,
                ..SessionContext::default()
            }),
            ..Session::default()
        }),
    })
}

fn llm(models: Arc<Mutex<Vec<ModelInfo>>>, calls: mpsc::UnboundedSender<Call>) -> Handler {
    Arc::new(move |request| {
        let (models, calls) = (models.clone(), calls.clone());
        Box::pin(async move {
            match request.uri().path().rsplit('/').next().unwrap() {
                "ListModels" => {
                    unary(request, move |_: tonic::Request<ListModelsRequest>| async move {
                        let models = models.lock().unwrap().clone();
                        Ok(ListModelsResponse { models })
                    })
                    .await
                }
                "StreamLLM" => {
                    bidi(request, move |mut from: Streaming<StreamLlmRequest>| {
                        let (to, answers) = mpsc::channel(64);
                        tokio::spawn(async move {
                            let first = from.message().await.unwrap().unwrap();
                            let Some(stream_llm_request::Payload::Request(request)) = first.payload else {
                                panic!("the first frame is the request");
                            };
                            let _ = calls.send(Call { request, to });
                        });
                        Box::pin(tokio_stream::wrappers::ReceiverStream::new(answers)) as Items<StreamLlmResponse>
                    })
                    .await
                }
                other => panic!("no such call is expected: {other}"),
            }
        })
    })
}
