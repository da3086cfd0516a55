//! Encodes and decodes the documents of sessions, turns, agents and tasks.

use std::sync::Arc;

use bytes::Bytes;
use nexus_proto::agent::v1::{AgentMessage, RegisterRequest, Task as WireTask};
use nexus_proto::orchestrator::v1::{SessionConfig, SessionMetadata, SessionState, UserPreferences};
use prost::Message as _;

use super::number;
use crate::domain::agent::{Agent, Kept};
use crate::domain::session::{Record, Session};
use crate::domain::task::Task;
use crate::domain::turn::{Phase, Turn, TurnEnd};
use crate::domain::{Error, Time};

#[derive(Clone, PartialEq, prost::Message)]
struct SessionDoc {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "2")]
    state: i32,
    #[prost(int64, tag = "3")]
    created: Time,
    #[prost(int64, tag = "4")]
    updated: Time,
    #[prost(int64, optional, tag = "5")]
    expires: Option<Time>,
    #[prost(int64, optional, tag = "6")]
    closed: Option<Time>,
    #[prost(message, optional, tag = "7")]
    metadata: Option<SessionMetadata>,
    #[prost(message, optional, tag = "8")]
    preferences: Option<UserPreferences>,
    #[prost(message, optional, tag = "9")]
    config: Option<SessionConfig>,
    #[prost(string, tag = "10")]
    current_task: String,
    #[prost(string, repeated, tag = "11")]
    task_history: Vec<String>,
    #[prost(string, tag = "12")]
    creator: String,
    #[prost(bool, tag = "13")]
    limited: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TurnDoc {
    #[prost(string, tag = "1")]
    message_id: String,
    #[prost(string, tag = "2")]
    answer_id: String,
    #[prost(string, optional, tag = "3")]
    model: Option<String>,
    #[prost(uint32, tag = "4")]
    attempt: u32,
    #[prost(bool, tag = "5")]
    tool_ran: bool,
    #[prost(string, optional, tag = "6")]
    refused: Option<String>,
    /// Absent: the message's own id.
    #[prost(string, optional, tag = "7")]
    followed_by: Option<String>,
    /// Absent: the first step.
    #[prost(int32, optional, tag = "8")]
    step: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TurnEndDoc {
    #[prost(uint64, tag = "1")]
    answer: u64,
    #[prost(string, tag = "2")]
    error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AgentDoc {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    request: Option<RegisterRequest>,
    #[prost(string, tag = "3")]
    owner: String,
    #[prost(int64, tag = "4")]
    registered: Time,
    #[prost(int64, optional, tag = "5")]
    lost: Option<Time>,
    #[prost(bool, tag = "6")]
    trusted: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeptDoc {
    #[prost(message, optional, tag = "1")]
    message: Option<AgentMessage>,
    #[prost(int64, tag = "2")]
    expires: Time,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskDoc {
    #[prost(message, optional, tag = "1")]
    wire: Option<WireTask>,
    #[prost(uint64, optional, tag = "2")]
    agent: Option<u64>,
    #[prost(bool, tag = "3")]
    bound: bool,
    #[prost(int64, tag = "4")]
    attempt: i64,
    #[prost(int64, optional, tag = "5")]
    started: Option<Time>,
    #[prost(int64, tag = "6")]
    expires: Time,
    #[prost(string, optional, tag = "7")]
    giver: Option<String>,
    #[prost(uint64, optional, tag = "8")]
    call: Option<u64>,
}

/// What is kept of a user.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UserUsage {
    /// Bytes that count against its share.
    #[prost(uint64, tag = "1")]
    pub stored: u64,
    /// Its closed sessions.
    #[prost(uint64, tag = "2")]
    pub closed: u64,
}

pub fn session_doc(session: &Session) -> Bytes {
    let doc = SessionDoc {
        id: session.id.to_string(),
        state: session.state.into(),
        created: session.created,
        updated: session.updated,
        expires: session.expires,
        closed: session.closed,
        metadata: Some(SessionMetadata::clone(&session.metadata)),
        preferences: Some(session.preferences.clone()),
        config: Some(session.config.clone()),
        current_task: session.current_task.clone(),
        task_history: session.task_history.clone(),
        creator: session.creator.to_string(),
        limited: session.limited,
    };
    doc.encode_to_vec().into()
}

pub fn task_doc(task: &Task) -> Bytes {
    let doc = TaskDoc {
        wire: Some(task.wire.clone()),
        agent: task.agent,
        bound: task.bound,
        attempt: task.attempt,
        started: task.started,
        expires: task.expires,
        giver: task.giver.as_deref().map(str::to_owned),
        call: task.call,
    };
    doc.encode_to_vec().into()
}

/// Reads a session document; its messages and turns are read apart.
pub fn session(key: &[u8], value: &[u8]) -> Result<Session, Error> {
    let doc = decode::<SessionDoc>(value)?;
    Ok(Session::load(Record {
        key: number(key)?,
        id: doc.id.into(),
        state: SessionState::try_from(doc.state).unwrap_or(SessionState::Closed),
        created: doc.created,
        updated: doc.updated,
        expires: doc.expires,
        closed: doc.closed,
        metadata: Arc::new(doc.metadata.unwrap_or_default()),
        preferences: doc.preferences.unwrap_or_default(),
        config: doc.config.unwrap_or_default(),
        current_task: doc.current_task,
        task_history: doc.task_history,
        creator: doc.creator.as_str().into(),
        limited: doc.limited,
    }))
}

/// How a turn ended, as kept.
pub fn turn_end(value: &[u8]) -> Result<TurnEnd, Error> {
    let doc = decode::<TurnEndDoc>(value)?;
    Ok(if doc.answer > 0 {
        TurnEnd::Answered { answer: doc.answer }
    } else {
        TurnEnd::Failed { error: doc.error }
    })
}

/// Reads a task document.
pub fn task(key: &[u8], value: &[u8]) -> Result<Task, Error> {
    let doc = decode::<TaskDoc>(value)?;
    let wire = doc.wire.unwrap_or_default();
    Ok(Task {
        key: number(key)?,
        id: wire.id.as_str().into(),
        agent: doc.agent,
        bound: doc.bound,
        attempt: doc.attempt,
        started: doc.started,
        expires: doc.expires,
        giver: doc.giver.map(Into::into),
        call: doc.call,
        wire,
    })
}

pub fn turn_doc(turn: &Turn) -> Bytes {
    let doc = TurnDoc {
        message_id: turn.message_id.to_string(),
        answer_id: turn.answer_id.to_string(),
        model: turn.model.clone(),
        attempt: turn.attempt,
        tool_ran: turn.tool_ran,
        refused: turn.refused.as_deref().map(str::to_owned),
        step: (turn.step > 1).then_some(turn.step),
        followed_by: (turn.followed_by != turn.message_id).then(|| turn.followed_by.to_string()),
    };
    doc.encode_to_vec().into()
}

/// Reads a turn that was open. The assistant's stream ended with us, so it waits again, whatever it did.
pub fn turn(n: u64, value: &[u8]) -> Result<Turn, Error> {
    let doc = decode::<TurnDoc>(value)?;
    Ok(Turn {
        n,
        message_id: doc.message_id.as_str().into(),
        answer_id: doc.answer_id.as_str().into(),
        model: doc.model,
        followed_by: doc.followed_by.unwrap_or(doc.message_id).into(),
        attempt: doc.attempt,
        step: doc.step.unwrap_or(1),
        began: None,
        tool_ran: doc.tool_ran,
        refused: doc.refused.map(Into::into),
        phase: Phase::Waiting { grace: None },
    })
}

pub fn turn_end_doc(over: &TurnEnd) -> Bytes {
    let doc = match over {
        TurnEnd::Answered { answer } => TurnEndDoc {
            answer: *answer,
            error: String::new(),
        },
        TurnEnd::Failed { error } => TurnEndDoc {
            answer: 0,
            error: error.clone(),
        },
    };
    doc.encode_to_vec().into()
}

pub fn agent_doc(agent: &Agent) -> Bytes {
    let doc = AgentDoc {
        id: agent.id.to_string(),
        request: Some(agent.request.clone()),
        owner: agent.owner.to_string(),
        trusted: agent.trusted,
        registered: agent.registered,
        lost: agent.lost,
    };
    doc.encode_to_vec().into()
}

/// Reads a registration; its messages are read apart. Until the time to live is over it counts as alive.
pub fn agent(key: &[u8], value: &[u8], now: Time) -> Result<Agent, Error> {
    let doc = decode::<AgentDoc>(value)?;
    Ok(Agent {
        key: number(key)?,
        id: doc.id.as_str().into(),
        request: doc.request.unwrap_or_default(),
        owner: doc.owner.as_str().into(),
        trusted: doc.trusted,
        registered: doc.registered,
        heartbeat: now,
        lost: doc.lost,
        silent: false,
        resources: None,
        link: None,
        kept_next: 1,
        kept: Default::default(),
    })
}

pub fn kept_doc(kept: &Kept) -> Bytes {
    KeptDoc {
        message: Some(kept.message.clone()),
        expires: kept.expires,
    }
    .encode_to_vec()
    .into()
}

pub fn kept(value: &[u8]) -> Result<Kept, Error> {
    let doc = decode::<KeptDoc>(value)?;
    Ok(Kept {
        message: doc.message.unwrap_or_default(),
        expires: doc.expires,
    })
}

fn decode<M: prost::Message + Default>(value: &[u8]) -> Result<M, Error> {
    M::decode(value).map_err(|e| {
        Error::Store(nexus_store::Error::Damaged {
            path: "orchestrator".into(),
            detail: format!("a document: {e}"),
        })
    })
}
