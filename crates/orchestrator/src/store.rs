//! What the orchestrator keeps on disk, in its own words: facts become rows and documents here, and state is made of
//! them again at a start.
//!
//! | table | key | value |
//! |---|---|---|
//! | `LIVE`, `CLOSED` | session key | a session without its messages |
//! | `CHOSEN` | session key, message id chosen by its client | number of the message |
//! | `OPEN` | session key, number of the USER message | a turn that is not over |
//! | `OVER` | session key, number of the USER message | how its turn ended |
//! | `AGENT` | agent key | a registration |
//! | `KEPT` | agent key, number | a message that waits for its agent |
//! | `TASK` | task key | a task |
//! | `FIRST` | caller, method, idempotency key | the first answer |
//!
//! Messages are rows of the log, numbered in their session's stream; events are rows beside them. A key's first eight
//! bytes are big-endian, so keys sort as their numbers do.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use nexus_proto::agent::v1::{AgentMessage, RegisterRequest, Task as WireTask};
use nexus_proto::orchestrator::v1::{SessionConfig, SessionMetadata, SessionState, UserPreferences};
use nexus_store::{Op, Read, Table};
use prost::Message as _;

use crate::domain::agent::{Agent, Kept};
use crate::domain::session::Session;
use crate::domain::task::Task;
use crate::domain::turn::{Over, Phase, Turn};
use crate::domain::{Error, Fact, Rules, State, Time};

pub const LIVE: Table = Table(1);
pub const CLOSED: Table = Table(2);
pub const CHOSEN: Table = Table(3);
pub const OPEN: Table = Table(4);
pub const OVER: Table = Table(5);
pub const AGENT: Table = Table(6);
pub const KEPT: Table = Table(7);
pub const TASK: Table = Table(8);
pub const FIRST: Table = Table(9);

/// What a row of the log holds.
pub const MESSAGE: u16 = 1;
pub const EVENT: u16 = 2;

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
}

#[derive(Clone, PartialEq, prost::Message)]
struct OverDoc {
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
}

/// The first answer to a call that carried an idempotency key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct First {
    #[prost(bytes = "bytes", tag = "1")]
    pub request: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub answer: Bytes,
    #[prost(int64, tag = "3")]
    pub expires: Time,
}

/// A key of one number.
pub fn key(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_be_bytes())
}

/// A key of two numbers.
pub fn pair(a: u64, b: u64) -> Bytes {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&a.to_be_bytes());
    key[8..].copy_from_slice(&b.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// A key of a number and a text.
pub fn text(a: u64, text: &str) -> Bytes {
    [&a.to_be_bytes(), text.as_bytes()].concat().into()
}

/// The first key that is not `key` or below it.
pub fn above(key: u64) -> Bytes {
    self::key(key + 1)
}

fn number(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The changes on disk that a fact asks for, with the state as it is after the step.
pub fn ops(fact: &Fact, state: &State, now: Time, out: &mut Vec<Op>) {
    match fact {
        Fact::Message { session, n, message, chosen_id } => {
            let body = Bytes::from(message.encode_to_vec());
            out.push(Op::Append { stream: *session, n: Some(*n), time: now, kind: MESSAGE, body });
            if *chosen_id {
                out.push(Op::Put { table: CHOSEN, key: text(*session, &message.id), value: key(*n) });
            }
        }
        Fact::Event { session, event } => {
            let body = Bytes::from(event.encode_to_vec());
            out.push(Op::Append { stream: *session, n: None, time: now, kind: EVENT, body });
        }
        Fact::Session(session) => {
            let Some(session) = state.sessions.get(*session) else { return };
            let (is, was) = if session.is_closed() { (CLOSED, LIVE) } else { (LIVE, CLOSED) };
            if session.is_closed() {
                out.push(Op::Delete { table: was, key: key(session.key) });
            }
            out.push(Op::Put { table: is, key: key(session.key), value: session_doc(session) });
        }
        Fact::Agent(agent) => {
            let Some(agent) = state.agents.get(*agent) else { return };
            let doc = AgentDoc {
                id: agent.id.to_string(),
                request: Some(agent.request.clone()),
                owner: agent.owner.to_string(),
                registered: agent.registered,
                lost: agent.lost,
            };
            out.push(Op::Put { table: AGENT, key: key(agent.key), value: doc.encode_to_vec().into() });
        }
        Fact::AgentGone(agent) => {
            out.push(Op::Delete { table: AGENT, key: key(*agent) });
            out.push(Op::DeleteRange { table: KEPT, from: key(*agent), to: above(*agent) });
        }
        Fact::Task(task) => {
            let Some(task) = state.tasks.get(*task) else { return };
            out.push(Op::Put { table: TASK, key: key(task.key), value: task_doc(task) });
        }
        Fact::TasksGone(tasks) => {
            out.extend(tasks.iter().map(|task| Op::Delete { table: TASK, key: key(*task) }));
        }
        Fact::Turn { session, n } => {
            let turns = state.sessions.get(*session).map(|session| &session.turns);
            let Some(turn) = turns.and_then(|turns| turns.iter().find(|turn| turn.n == *n)) else { return };
            let doc = TurnDoc {
                message_id: turn.message_id.to_string(),
                answer_id: turn.answer_id.to_string(),
                model: turn.model.clone(),
                attempt: turn.attempt,
                tool_ran: turn.tool_ran,
            };
            out.push(Op::Put { table: OPEN, key: pair(*session, *n), value: doc.encode_to_vec().into() });
        }
        Fact::TurnOver { session, n, over } => {
            let doc = match over {
                Over::Answered { answer } => OverDoc { answer: *answer, error: String::new() },
                Over::Failed { error } => OverDoc { answer: 0, error: error.clone() },
            };
            out.push(Op::Delete { table: OPEN, key: pair(*session, *n) });
            out.push(Op::Put { table: OVER, key: pair(*session, *n), value: doc.encode_to_vec().into() });
        }
        Fact::Kept { agent, n, message } => out.push(match message {
            Some(kept) => {
                let doc = KeptDoc { message: Some(kept.message.clone()), expires: kept.expires };
                Op::Put { table: KEPT, key: pair(*agent, *n), value: doc.encode_to_vec().into() }
            }
            None => Op::Delete { table: KEPT, key: pair(*agent, *n) },
        }),
        Fact::SessionGone(session) => {
            out.push(Op::Erase { stream: *session });
            for table in [LIVE, CLOSED] {
                out.push(Op::Delete { table, key: key(*session) });
            }
            for table in [CHOSEN, OPEN, OVER] {
                out.push(Op::DeleteRange { table, from: key(*session), to: above(*session) });
            }
        }
    }
}

fn session_doc(session: &Session) -> Bytes {
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
    };
    doc.encode_to_vec().into()
}

fn task_doc(task: &Task) -> Bytes {
    let doc = TaskDoc {
        wire: Some(task.wire.clone()),
        agent: task.agent,
        bound: task.bound,
        attempt: task.attempt,
        started: task.started,
        expires: task.expires,
    };
    doc.encode_to_vec().into()
}

/// Reads a session document; its messages and turns are read apart.
pub fn session(key: &[u8], value: &[u8]) -> Result<Session, Error> {
    let doc = decode::<SessionDoc>(value)?;
    let mut session = Session::new(number(key), doc.id, doc.created);
    session.knows_all = false;
    session.state = SessionState::try_from(doc.state).unwrap_or(SessionState::Closed);
    session.updated = doc.updated;
    session.expires = doc.expires;
    session.closed = doc.closed;
    session.metadata = Arc::new(doc.metadata.unwrap_or_default());
    session.preferences = doc.preferences.unwrap_or_default();
    session.config = doc.config.unwrap_or_default();
    session.current_task = doc.current_task;
    session.task_history = doc.task_history;
    session.creator = doc.creator.as_str().into();
    Ok(session)
}

/// How a turn ended, as kept.
pub fn over(value: &[u8]) -> Result<Over, Error> {
    let doc = decode::<OverDoc>(value)?;
    Ok(if doc.answer > 0 { Over::Answered { answer: doc.answer } } else { Over::Failed { error: doc.error } })
}

/// Reads a task document.
pub fn task(key: &[u8], value: &[u8]) -> Result<Task, Error> {
    let doc = decode::<TaskDoc>(value)?;
    let wire = doc.wire.unwrap_or_default();
    Ok(Task {
        key: number(key),
        id: wire.id.as_str().into(),
        agent: doc.agent,
        bound: doc.bound,
        attempt: doc.attempt,
        started: doc.started,
        expires: doc.expires,
        wire,
    })
}

/// Reads one session with its head, from where it stands.
pub fn find_session(read: &mut dyn Read, id: u64) -> Result<Option<Session>, nexus_store::Error> {
    for table in [LIVE, CLOSED] {
        if let Some(value) = read.get(table, &id.to_be_bytes())? {
            let mut found = session(&id.to_be_bytes(), &value).map_err(damaged)?;
            set_head(&mut found, read.heads(&[id])?[0]);
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn set_head(session: &mut Session, head: Option<nexus_store::Head>) {
    if let Some(head) = head {
        session.head = head.n;
        session.committed = head.n;
        session.updated = session.updated.max(head.time);
    }
}

/// Makes the state of what is on disk: all that is live.
pub fn load(read: &mut dyn Read, rules: Rules, now: Time) -> Result<(State, u64), nexus_store::Error> {
    let mut state = State::new(rules);
    let mut last = 0;
    let everything = (&[][..], &[0xff; 9][..]);
    let sessions = read.scan(LIVE, everything.0, everything.1, usize::MAX)?;
    let keys: Vec<u64> = sessions.iter().map(|(key, _)| number(key)).collect();
    let heads = read.heads(&keys)?;
    for ((key, value), head) in sessions.iter().zip(heads) {
        let mut session = session(key, value).map_err(damaged)?;
        set_head(&mut session, head);
        last = last.max(session.key);
        state.look_again(&session);
        state.sessions.insert(session);
    }
    for (key, value) in read.scan(OPEN, everything.0, everything.1, usize::MAX)? {
        let doc = decode::<TurnDoc>(&value).map_err(damaged)?;
        let (session, n) = (number(&key), number(&key[8..]));
        let Some(found) = state.sessions.get_mut(session) else { continue };
        found.turns.push_back(Turn {
            n,
            message_id: doc.message_id.as_str().into(),
            answer_id: doc.answer_id.as_str().into(),
            model: doc.model,
            attempt: doc.attempt,
            tool_ran: doc.tool_ran,
            phase: Phase::Waiting { grace: None },
        });
        // One that was offered when we died may have run a tool that was not told to us yet: the assistant's stream
        // ended with us, so it has stopped, and it is offered as it was.
        state.agents.waiting.insert(session);
        state.agents.assistant_seen = Some(now);
    }
    let mut kept: BTreeMap<u64, BTreeMap<u64, Kept>> = BTreeMap::new();
    for (key, value) in read.scan(KEPT, everything.0, everything.1, usize::MAX)? {
        let doc = decode::<KeptDoc>(&value).map_err(damaged)?;
        let message = Kept { message: doc.message.unwrap_or_default(), expires: doc.expires };
        kept.entry(number(&key)).or_default().insert(number(&key[8..]), message);
    }
    for (key, value) in read.scan(AGENT, everything.0, everything.1, usize::MAX)? {
        let doc = decode::<AgentDoc>(&value).map_err(damaged)?;
        let key = number(&key);
        let kept = kept.remove(&key).unwrap_or_default();
        last = last.max(key);
        let agent = Agent {
            key,
            id: doc.id.as_str().into(),
            request: doc.request.unwrap_or_default(),
            owner: doc.owner.as_str().into(),
            registered: doc.registered,
            heartbeat: now,
            lost: doc.lost,
            resources: None,
            link: None,
            kept_next: kept.last_key_value().map_or(1, |(n, _)| n + 1),
            kept,
        };
        if agent.is_alive() && agent.is_assistant() {
            state.agents.assistant_seen = Some(now);
        }
        state.agents.insert(agent);
        state.timers.set(now.saturating_add(state.rules.agent_ttl), crate::domain::timers::Timer::Agent(key));
    }
    // Closed sessions are not loaded: their keys are older than now, so no new key meets them unless the clock went
    // back by years, and the newest live thing bounds even that.
    for (key, value) in read.scan(TASK, everything.0, everything.1, usize::MAX)? {
        let task = task(&key, &value).map_err(damaged)?;
        last = last.max(task.key);
        if !task.is_over() {
            state.adopt_task(task);
        }
    }
    Ok((state, last))
}

fn decode<M: prost::Message + Default>(value: &[u8]) -> Result<M, Error> {
    M::decode(value).map_err(|e| {
        Error::Store(nexus_store::Error::Damaged { path: "orchestrator".into(), detail: format!("a document: {e}") })
    })
}

fn damaged(error: Error) -> nexus_store::Error {
    match error {
        Error::Store(error) => error,
        other => nexus_store::Error::Damaged { path: "orchestrator".into(), detail: other.to_string() },
    }
}
