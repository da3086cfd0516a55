//! The orchestrator: registration, the stream of turns, and the conversations.

use std::path::PathBuf;

use nexus_client::{Connection, Error, Kind};
use nexus_proto::words;
use nexus_proto::{
    PROTOCOL,
    agent::v1::{
        AgentCapabilities, AgentMetadata, AgentType, HeartbeatRequest, RegisterRequest, StreamAgentRequest,
        StreamAgentResponse, UnregisterRequest,
    },
    orchestrator::v1::{GetSessionRequest, Message, MessageRole},
};
use tokio_stream::Stream;
use tonic::Streaming;

use crate::domain::assistant::window::{Entry, Role};

/// How this agent introduces itself.
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: String,
    pub role: String,
    pub socket: PathBuf,
    pub concurrency: usize,
    /// Kinds of work that it takes.
    pub tasks: &'static [&'static str],
    /// Tools whose calls it executes.
    pub tools: &'static [&'static str],
}

impl Profile {
    pub fn capabilities(&self) -> AgentCapabilities {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        AgentCapabilities {
            supported_tasks: names(self.tasks),
            supported_tools: names(self.tools),
            max_concurrent_tasks: i32::try_from(self.concurrency).unwrap_or(i32::MAX),
            supports_streaming: true,
            supports_cancellation: true,
            supported_protocols: self.protocols(),
            ..AgentCapabilities::default()
        }
    }

    fn protocols(&self) -> Vec<String> {
        let runs = (self.role == "assistant").then_some(words::protocol::RUNS);
        ["grpc"].into_iter().chain(runs).map(str::to_owned).collect()
    }

    fn request(&self) -> RegisterRequest {
        let labels = [
            ("role", self.role.clone()),
            (words::label::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
            (words::label::PROTOCOL, PROTOCOL.to_string()),
            (words::label::SOCKET, self.socket.display().to_string()),
        ];
        RegisterRequest {
            name: self.name.clone(),
            r#type: AgentType::Worker.into(),
            metadata: Some(AgentMetadata {
                version: env!("CARGO_PKG_VERSION").into(),
                labels: labels.map(|(name, value)| (name.to_owned(), value)).into(),
                pid: std::process::id().to_string(),
                ..AgentMetadata::default()
            }),
            capabilities: Some(self.capabilities()),
        }
    }
}

/// Some messages of a session, oldest first.
#[derive(Debug, Default)]
pub struct Page {
    pub messages: Vec<Line>,
    /// Where the next older page ends; `None` if there is none.
    pub before: Option<u64>,
}

/// One message as the window needs it.
#[derive(Debug, Clone)]
pub struct Line {
    pub id: String,
    /// Its place in the session.
    pub sequence: u64,
    pub entry: Entry,
    /// The calls that were made for an answer, one a line.
    pub calls: Option<String>,
}

#[derive(Clone)]
pub struct Orchestrator {
    connection: Connection,
    profile: Profile,
}

impl Orchestrator {
    pub fn new(connection: Connection, profile: Profile) -> Self {
        Orchestrator { connection, profile }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub fn backoff(&self) -> nexus_client::Backoff {
        self.connection.backoff().endless()
    }

    pub fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    pub async fn register(&self) -> Result<String, Error> {
        let answer = self.connection.agent().register(self.profile.request()).await?;
        match answer.into_inner().agent_id {
            id if id.is_empty() => Err(Error::new(Kind::Internal, "the orchestrator gave no agent id")),
            id => Ok(id),
        }
    }

    /// Names the tasks that are worked on; the answer names those that are offered.
    pub async fn heartbeat(&self, agent_id: &str, active_tasks: Vec<String>) -> Result<Vec<String>, Error> {
        let request = HeartbeatRequest {
            agent_id: agent_id.to_owned(),
            active_tasks,
            ..HeartbeatRequest::default()
        };
        let answer = self.connection.agent().heartbeat(request).await?;
        Ok(answer.into_inner().pending_tasks)
    }

    pub async fn unregister(&self, agent_id: &str) -> Result<(), Error> {
        let request = UnregisterRequest {
            agent_id: agent_id.to_owned(),
            reason: "stopped".into(),
        };
        self.connection.agent().unregister(request).await?;
        Ok(())
    }

    /// Some orchestrators answer this only with their first message, so it may take as long as a turn is away.
    pub async fn open(
        &self,
        outbound: impl Stream<Item = StreamAgentRequest> + Send + 'static,
    ) -> Result<Streaming<StreamAgentResponse>, Error> {
        Ok(self.connection.agent().stream_agent(outbound).await?.into_inner())
    }

    /// At most `limit` messages of a session: the newest, or those before a sequence.
    pub async fn page(&self, session_id: &str, limit: u32, before: Option<u64>) -> Result<Page, Error> {
        let request = GetSessionRequest {
            session_id: session_id.to_owned(),
            message_limit: i32::try_from(limit).unwrap_or(i32::MAX),
            messages_before: before.unwrap_or(0),
        };
        let answer = self.connection.orchestrator().get_session(request).await?;
        let context = answer
            .into_inner()
            .session
            .and_then(|session| session.context)
            .unwrap_or_default();
        let oldest = context.messages.first().map_or(0, |message| message.sequence);
        let more = context.messages_omitted > 0 && oldest > 1;
        Ok(Page {
            before: more.then_some(oldest),
            messages: context.messages.into_iter().map(line).collect(),
        })
    }
}

fn line(message: Message) -> Line {
    let role = match message.role() {
        MessageRole::Assistant => Role::Assistant,
        MessageRole::System => Role::System,
        MessageRole::User | MessageRole::Tool | MessageRole::Unspecified => Role::User,
    };
    let mut metadata = message.metadata.unwrap_or_default();
    let calls = metadata.extra.remove(words::extra::TOOL_CALLS);
    // A model without tools of its own hears of a result as it hears of anything else.
    let text = match (
        message.role == i32::from(MessageRole::Tool),
        metadata.tool_name.as_str(),
    ) {
        (true, "") => format!("Result of a tool:\n{}", message.content),
        (true, name) => format!("Result of the tool {name}:\n{}", message.content),
        (false, _) => message.content,
    };
    Line {
        id: message.id,
        sequence: message.sequence,
        entry: Entry::new(role, text),
        calls: calls.filter(|_| role == Role::Assistant),
    }
}
