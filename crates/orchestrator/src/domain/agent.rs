//! Agents: who registered, who is alive, who may answer.
//!
//! ```text
//!  Register ──▶ ALIVE ──no heartbeat for the time to live, and no stream──▶ LOST ──heartbeat or stream──▶ ALIVE
//!                 └──Unregister──▶ gone                                       └──for long──▶ gone
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use nexus_proto::agent::v1::{Agent as Wire, AgentMessage, AgentState, AgentType, RegisterRequest};
use nexus_proto::common::v1::{ResourceUsage, Status};

use super::event::{self, About, timestamp};
use super::timers::Timer;
use super::{Effect, Error, Fact, State, Step, Time, ids};

/// Label with the socket of a daemon that serves for others.
pub const SOCKET: &str = "nexus.socket";
/// Label with the services it serves there, separated by commas.
pub const SERVICES: &str = "nexus.services";
/// Label with the protocol generation it speaks.
pub const PROTOCOL: &str = "nexus.protocol";

#[derive(Clone, Debug)]
pub struct Agent {
    pub key: u64,
    pub id: Arc<str>,
    pub request: RegisterRequest,
    /// Who registered it: only that caller may hold its stream.
    pub owner: Arc<str>,
    pub registered: Time,
    pub heartbeat: Time,
    pub lost: Option<Time>,
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
    /// When an assistant last held a stream.
    pub assistant_seen: Option<Time>,
    links: u64,
}

impl Agent {
    fn label(&self, name: &str) -> Option<&str> {
        self.request.metadata.as_ref().and_then(|m| m.labels.get(name)).map(String::as_str)
    }

    pub fn is_assistant(&self) -> bool {
        let role = self.label("role").is_some_and(|role| role.eq_ignore_ascii_case("assistant"));
        role || self.request.name.eq_ignore_ascii_case("assistant")
    }

    pub fn is_alive(&self) -> bool {
        self.lost.is_none()
    }

    /// The socket and services of a daemon behind the front door.
    pub fn daemon(&self) -> Option<(&str, impl Iterator<Item = &str>)> {
        let services = self.label(SERVICES)?.split(',').map(str::trim).filter(|s| !s.is_empty());
        Some((self.label(SOCKET)?, services))
    }
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

    pub fn find(&self, id: &str) -> Result<&Agent, Error> {
        if id.is_empty() {
            return Err(Error::Required("agent_id"));
        }
        let found = ids::number(id).and_then(|key| self.by_key.get(&key)).filter(|agent| *agent.id == *id);
        found.ok_or(Error::AgentNotFound)
    }

    pub fn has_assistant(&self) -> bool {
        self.iter().any(|agent| agent.link.is_some() && agent.is_assistant())
    }

    /// The assistant with the fewest turns; of equals the newest.
    pub fn pick_assistant(&self, most: usize) -> Option<u64> {
        let linked = self.iter().rev().filter(|agent| agent.link.is_some() && agent.is_assistant());
        let linked = linked.map(|agent| (self.turns_of(agent.key), agent.key));
        linked.filter(|(turns, _)| *turns < most).min_by_key(|(turns, _)| *turns).map(|(_, key)| key)
    }

    pub fn turns_of(&self, agent: u64) -> usize {
        self.turns.get(&agent).map_or(0, BTreeSet::len)
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
        let state = match (agent.is_alive(), busy) {
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
            status: if agent.is_alive() { Status::Running } else { Status::Terminated }.into(),
            registered_at: Some(timestamp(agent.registered)),
            last_heartbeat: Some(timestamp(agent.heartbeat)),
            metadata: Some(request.metadata.unwrap_or_default()),
            capabilities: request.capabilities,
            resources: agent.resources,
            active_tasks: running.into_iter().flatten().map(|(_, id)| id.to_string()).collect(),
        }
    }
}

impl State {
    /// Registers an agent. A daemon that comes again from the same place gets its old id back.
    pub fn register(&mut self, step: &mut Step<'_>, owner: &str, request: RegisterRequest) -> Result<u64, Error> {
        if request.name.is_empty() {
            return Err(Error::Required("name"));
        }
        let labels = request.metadata.as_ref().map(|m| &m.labels);
        if let Some(theirs) = labels.and_then(|l| l.get(PROTOCOL)).filter(|p| **p != nexus_proto::PROTOCOL.to_string()) {
            let (ours, theirs) = (nexus_proto::PROTOCOL, theirs.clone());
            return Err(Error::Protocol { ours, theirs, version: env!("CARGO_PKG_VERSION") });
        }
        let socket = labels.and_then(|l| l.get(SOCKET));
        let same = |agent: &&Agent| agent.request.name == request.name && *agent.owner == *owner;
        let before = socket.and_then(|socket| {
            self.agents.iter().filter(same).find(|agent| agent.label(SOCKET) == Some(socket)).map(|agent| agent.key)
        });
        let max = self.rules.max_agents;
        if before.is_none() && self.agents.by_key.len() >= max {
            return Err(Error::Limit { what: "agents", max, setting: "orchestrator.max_agents" });
        }
        let key = match before {
            Some(key) => {
                let agent = self.agents.get_mut(key).expect("it was just found");
                agent.request = request;
                agent.heartbeat = step.now;
                agent.registered = step.now;
                agent.lost = None;
                key
            }
            None => {
                let (key, id) = step.ids.keyed(step.now);
                self.agents.insert(Agent {
                    key,
                    id: id.into(),
                    request,
                    owner: owner.into(),
                    registered: step.now,
                    heartbeat: step.now,
                    lost: None,
                    resources: None,
                    link: None,
                    kept_next: 1,
                    kept: BTreeMap::new(),
                });
                key
            }
        };
        self.timers.set(step.now.saturating_add(self.rules.agent_ttl), Timer::Agent(key));
        step.fact(Fact::Agent(key));
        self.agent_event(step, key, "agent.registered", "");
        step.effect(Effect::Daemons);
        Ok(key)
    }

    pub fn unregister(&mut self, step: &mut Step<'_>, key: u64, reason: &str) {
        step.grows = false;
        self.agent_event(step, key, "agent.unregistered", reason);
        self.agent_gone(step, key);
    }

    /// An agent says that it lives. Returns the ids of tasks that it is offered.
    pub fn heartbeat(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        resources: Option<ResourceUsage>,
        active: &[String],
    ) -> Vec<String> {
        self.seen(step, key);
        let agent = self.agents.get_mut(key).expect("the caller looked it up");
        if resources.is_some() {
            agent.resources = resources;
        }
        for id in active {
            self.take_task(step, key, id);
        }
        self.offered_tasks(step, key)
    }

    /// Any sign of life. One that was lost is back.
    pub fn seen(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(agent) = self.agents.get_mut(key) else { return };
        agent.heartbeat = step.now;
        if agent.lost.take().is_some() {
            step.fact(Fact::Agent(key));
            self.timers.set(step.now.saturating_add(self.rules.agent_ttl), Timer::Agent(key));
            self.agent_event(step, key, "agent.recovered", "");
            step.effect(Effect::Daemons);
        }
    }

    /// An agent opened a StreamAgent: the newest wins. Returns the link's number and what was kept for it, in order.
    pub fn link(&mut self, step: &mut Step<'_>, key: u64) -> (u64, Vec<(u64, AgentMessage)>) {
        self.seen(step, key);
        if self.agents.get(key).is_some_and(|agent| agent.link.is_some()) {
            self.assistant_lost(step, key);
        }
        self.agents.links += 1;
        let link = self.agents.links;
        let agent = self.agents.get_mut(key).expect("the caller looked it up");
        agent.link = Some(link);
        let assistant = agent.is_assistant();
        let kept = std::mem::take(&mut agent.kept);
        let kept = kept.into_iter().filter(|(_, kept)| kept.expires > step.now).map(|(n, kept)| (n, kept.message));
        let kept = kept.collect();
        if assistant {
            self.agents.assistant_seen = Some(step.now);
            step.facts.reserve(self.agents.waiting.len());
            for session in &self.agents.waiting {
                step.effect(Effect::Dispatch { session: *session });
            }
        }
        (link, kept)
    }

    /// A StreamAgent ended. One that was replaced by a newer one changes nothing.
    pub fn unlink(&mut self, step: &mut Step<'_>, key: u64, link: u64) {
        let Some(agent) = self.agents.get_mut(key).filter(|agent| agent.link == Some(link)) else { return };
        agent.link = None;
        agent.heartbeat = agent.heartbeat.max(step.now);
        let assistant = agent.is_assistant();
        self.timers.set(step.now.saturating_add(self.rules.agent_ttl), Timer::Agent(key));
        if assistant {
            self.agents.assistant_seen = Some(step.now);
        }
        self.agent_lost(step, key);
        self.assistant_lost(step, key);
    }

    /// Keeps a message for an agent that holds no stream, or hands it over. Returns its id.
    pub fn send_to_agent(&mut self, step: &mut Step<'_>, key: u64, mut message: AgentMessage) -> Result<String, Error> {
        let (max, ttl) = (self.rules.max_kept_messages, self.rules.kept_message_ttl);
        if message.id.is_empty() {
            message.id = step.ids.plain();
        }
        if message.timestamp.is_none() {
            message.timestamp = Some(timestamp(step.now));
        }
        let id = message.id.clone();
        let agent = self.agents.get_mut(key).expect("the caller looked it up");
        if agent.link.is_some() {
            step.effect(Effect::Deliver { agent: key, message: Box::new(message) });
            return Ok(id);
        }
        let expired: Vec<u64> =
            agent.kept.iter().filter(|(_, kept)| kept.expires <= step.now).map(|(n, _)| *n).collect();
        for n in expired {
            agent.kept.remove(&n);
            step.fact(Fact::Kept { agent: key, n, message: None });
        }
        if agent.kept.len() >= max {
            return Err(Error::Limit {
                what: "messages kept for the agent",
                max,
                setting: "orchestrator.max_kept_messages",
            });
        }
        let kept = Kept { message, expires: step.now.saturating_add(ttl) };
        let n = agent.kept_next;
        agent.kept_next += 1;
        agent.kept.insert(n, kept.clone());
        step.fact(Fact::Kept { agent: key, n, message: Some(Box::new(kept)) });
        Ok(id)
    }

    /// Looks at an agent whose timer came due.
    pub fn agent_due(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(agent) = self.agents.get(key) else { return };
        if agent.link.is_some() {
            return; // looked at again when its stream ends
        }
        step.grows = false;
        match agent.lost {
            Some(lost) => {
                let forget = lost.saturating_add(self.rules.forget_agent_after);
                if forget <= step.now {
                    self.agent_gone(step, key);
                } else {
                    self.timers.set(forget, Timer::Agent(key));
                }
            }
            None => {
                let until = agent.heartbeat.saturating_add(self.rules.agent_ttl);
                if until > step.now {
                    self.timers.set(until, Timer::Agent(key));
                    return;
                }
                self.agents.get_mut(key).expect("it was here a line ago").lost = Some(step.now);
                self.timers.set(step.now.saturating_add(self.rules.forget_agent_after), Timer::Agent(key));
                step.fact(Fact::Agent(key));
                self.agent_lost(step, key);
                self.tasks_of_lost(step, key);
                step.effect(Effect::Daemons);
            }
        }
    }

    fn agent_lost(&mut self, step: &mut Step<'_>, key: u64) {
        self.agent_event(step, key, "agent.lost", "");
    }

    fn agent_gone(&mut self, step: &mut Step<'_>, key: u64) {
        if self.agents.get(key).is_some_and(|agent| agent.link.is_some()) {
            step.effect(Effect::Unlink { agent: key });
            if let Some(agent) = self.agents.get_mut(key) {
                agent.link = None;
            }
        }
        self.assistant_lost(step, key);
        self.tasks_of_lost(step, key);
        self.agents.by_key.remove(&key);
        self.agents.running.remove(&key);
        step.fact(Fact::AgentGone(key));
        step.effect(Effect::Daemons);
    }

    fn agent_event(&mut self, step: &mut Step<'_>, key: u64, name: &str, reason: &str) {
        let Some(agent) = self.agents.get(key) else { return };
        let kind = AgentType::try_from(agent.request.r#type).unwrap_or_default();
        let mut data = vec![("agent_id", &*agent.id), ("name", &*agent.request.name), ("type", kind.as_str_name())];
        if !reason.is_empty() {
            data.push(("reason", reason));
        }
        let event = event::build(step, name, event::AGENT, About::default(), &data);
        step.fact(Fact::Event { session: 0, event });
    }
}
