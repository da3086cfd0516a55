//! Agents: registration, liveness, and which of them may answer.
//!
//! ```text
//!  Register ──▶ ALIVE ──no heartbeat for the time to live, and no stream──▶ LOST ──heartbeat or stream──▶ ALIVE
//!                 └──Unregister──▶ gone                                       └──for long──▶ gone
//! ```
//!
//! The end of its stream is noticed at once: its turns move on, and it is shown as lost until it is heard of again. Its
//! tasks and its place behind the front door are leased by heartbeat, and stay until the time to live is over.

mod life;
mod mail;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use nexus_proto::agent::v1::{Agent as Wire, AgentMessage, AgentState, RegisterRequest};
use nexus_proto::common::v1::{ResourceUsage, Status};
use nexus_proto::words;

use super::event::timestamp;
use super::{Error, Time, ids};

/// Label with the socket of a daemon that serves for others.
pub const SOCKET: &str = words::label::SOCKET;
/// Label with the services it serves there, separated by commas.
pub const SERVICES: &str = words::label::SERVICES;
/// In `supported_protocols`: the assistant drives runs.
pub const RUNS: &str = words::protocol::RUNS;
/// Label with the protocol generation it speaks.
pub const PROTOCOL: &str = words::label::PROTOCOL;

#[derive(Clone, Debug)]
pub struct Agent {
    pub key: u64,
    pub id: Arc<str>,
    pub request: RegisterRequest,
    /// Who registered it: only that caller may hold its stream.
    pub owner: Arc<str>,
    /// Registered by an administrator: it is given tool calls, which hold what users said and may change their files.
    pub trusted: bool,
    pub registered: Time,
    pub heartbeat: Time,
    pub lost: Option<Time>,
    /// Its stream ended and nothing was heard of it since.
    pub silent: bool,
    pub resources: Option<ResourceUsage>,
    /// Set while it holds a StreamAgent; rises with each new one.
    pub link: Option<u64>,
    /// Messages kept for it: the next number, and how many there are.
    pub kept_next: u64,
    pub kept: BTreeMap<u64, Kept>,
}

/// A message that waits for its agent's stream.
#[derive(Clone, Debug)]
pub struct Kept {
    pub message: AgentMessage,
    pub expires: Time,
}

#[derive(Debug, Default)]
pub struct Agents {
    by_key: BTreeMap<u64, Agent>,
    /// Sessions whose turn an agent works on.
    turns: HashMap<u64, BTreeSet<u64>>,
    /// Tasks that an agent has taken.
    pub running: HashMap<u64, BTreeMap<u64, Arc<str>>>,
    /// Sessions whose first turn waits for an assistant.
    pub waiting: BTreeSet<u64>,
    /// When an assistant was last known to hold a stream.
    pub assistant_seen: Option<Time>,
    /// Number of the newest link; never the same again while this process runs.
    pub links: u64,
}

impl Agent {
    pub fn is_assistant(&self) -> bool {
        is_assistant(&self.request)
    }

    /// True for an assistant that moves its runs by `DriverService`, and not only answers messages.
    pub fn drives_runs(&self) -> bool {
        let capabilities = self.request.capabilities.as_ref();
        capabilities.is_some_and(|c| c.supported_protocols.iter().any(|name| name == RUNS))
    }

    pub fn is_alive(&self) -> bool {
        self.lost.is_none()
    }

    /// The socket and services of a daemon behind the front door.
    pub fn daemon(&self) -> Option<(&str, impl Iterator<Item = &str>)> {
        Some((label(&self.request, SOCKET)?, services(&self.request)))
    }
}

fn label<'a>(request: &'a RegisterRequest, name: &str) -> Option<&'a str> {
    request
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.labels.get(name))
        .map(String::as_str)
}

/// True for one that wants to answer users' messages: by its name, or by its role.
pub fn is_assistant(request: &RegisterRequest) -> bool {
    let role = label(request, "role").is_some_and(|role| role.eq_ignore_ascii_case("assistant"));
    role || request.name.eq_ignore_ascii_case("assistant")
}

fn services(request: &RegisterRequest) -> impl Iterator<Item = &str> {
    let names = label(request, SERVICES).unwrap_or_default().split(',');
    names.map(str::trim).filter(|name| !name.is_empty())
}

/// True for one that wants to serve behind the front door.
pub fn serves(request: &RegisterRequest) -> bool {
    services(request).next().is_some()
}

impl Agents {
    pub fn get(&self, key: u64) -> Option<&Agent> {
        self.by_key.get(&key)
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut Agent> {
        self.by_key.get_mut(&key)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Agent> {
        self.by_key.values()
    }

    pub fn insert(&mut self, agent: Agent) {
        self.by_key.insert(agent.key, agent);
    }

    /// Forgets an agent.
    pub fn remove(&mut self, key: u64) {
        self.by_key.remove(&key);
        self.running.remove(&key);
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub fn find(&self, id: &str) -> Result<&Agent, Error> {
        if id.is_empty() {
            return Err(Error::Required("agent_id"));
        }
        let found = ids::number(id)
            .and_then(|key| self.by_key.get(&key))
            .filter(|agent| *agent.id == *id);
        found.ok_or(Error::AgentNotFound)
    }

    pub fn has_assistant(&self) -> bool {
        self.iter().any(|agent| agent.link.is_some() && agent.is_assistant())
    }

    /// The assistant with the fewest turns; of equals the newest.
    pub fn pick_assistant(&self, most: usize, suits: impl Fn(&Agent) -> bool) -> Option<u64> {
        let linked = self
            .iter()
            .rev()
            .filter(|agent| agent.link.is_some() && agent.is_assistant() && suits(agent));
        let linked = linked.map(|agent| (self.turns_of(agent.key), agent.key));
        linked
            .filter(|(turns, _)| *turns < most)
            .min_by_key(|(turns, _)| *turns)
            .map(|(_, key)| key)
    }

    pub fn turns_of(&self, agent: u64) -> usize {
        self.turns.get(&agent).map_or(0, BTreeSet::len)
    }

    /// Whether an agent works on a turn of a session.
    pub fn works_on(&self, agent: u64, session: u64) -> bool {
        self.turns
            .get(&agent)
            .is_some_and(|sessions| sessions.contains(&session))
    }

    pub fn turn_began(&mut self, agent: u64, session: u64) {
        self.turns.entry(agent).or_default().insert(session);
    }

    pub fn turn_ended(&mut self, agent: u64, session: u64) {
        if let Some(turns) = self.turns.get_mut(&agent) {
            turns.remove(&session);
            if turns.is_empty() {
                self.turns.remove(&agent);
            }
        }
    }

    pub fn take_turns(&mut self, agent: u64) -> BTreeSet<u64> {
        self.turns.remove(&agent).unwrap_or_default()
    }

    /// An agent as clients see it.
    pub fn wire(&self, agent: &Agent) -> Wire {
        let running = self.running.get(&agent.key);
        let busy = running.is_some_and(|tasks| !tasks.is_empty()) || self.turns_of(agent.key) > 0;
        let heard = agent.is_alive() && !agent.silent;
        let state = match (heard, busy) {
            (false, _) => AgentState::Terminated,
            (true, true) => AgentState::Busy,
            (true, false) => AgentState::Idle,
        };
        let request = agent.request.clone();
        Wire {
            id: agent.id.to_string(),
            name: request.name,
            r#type: request.r#type,
            state: state.into(),
            status: if heard { Status::Running } else { Status::Terminated }.into(),
            registered_at: Some(timestamp(agent.registered)),
            last_heartbeat: Some(timestamp(agent.heartbeat)),
            metadata: Some(request.metadata.unwrap_or_default()),
            capabilities: request.capabilities,
            resources: agent.resources,
            active_tasks: running.into_iter().flatten().map(|(_, id)| id.to_string()).collect(),
        }
    }
}
