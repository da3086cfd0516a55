//! Open StreamAgents, and what concerns agents.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use nexus_proto::agent::v1::{
    Agent, AgentMessage, HeartbeatRequest, MessageType, RegisterRequest, StreamAgentResponse, agent_message,
    stream_agent_response::Payload,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Daemons, Engine, Once};
use crate::domain::{Error, Fact};

/// Frames that may wait for an agent that does not read.
const QUEUED: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Links {
    open: HashMap<u64, Arc<Link>>,
}

/// The sending half of a StreamAgent.
#[derive(Debug)]
pub struct Link {
    pub agent: u64,
    pub number: u64,
    queue: Mutex<Queue>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<StreamAgentResponse>,
    ended: Option<Result<(), Error>>,
}

impl Link {
    fn push(&self, frame: Payload) -> bool {
        let mut queue = self.queue.lock();
        let fits = queue.frames.len() < QUEUED && queue.ended.is_none();
        if fits {
            queue.frames.push_back(StreamAgentResponse { payload: Some(frame) });
            self.more.notify_one();
        }
        fits
    }

    pub fn heartbeat(&self) -> bool {
        self.push(Payload::Heartbeat(()))
    }

    fn end(&self, error: Error) {
        self.queue.lock().ended.get_or_insert(Err(error));
        self.more.notify_one();
    }

    /// The agent ended its side.
    pub fn finish(&self) {
        self.queue.lock().ended.get_or_insert(Ok(()));
        self.more.notify_one();
    }

    /// The next frame, `None` at the end; what was queued before an end is still delivered.
    pub async fn next(&self) -> Result<Option<StreamAgentResponse>, Error> {
        loop {
            {
                let mut queue = self.queue.lock();
                if let Some(frame) = queue.frames.pop_front() {
                    return Ok(Some(frame));
                }
                if let Some(ended) = &queue.ended {
                    return ended.clone().map(|()| None);
                }
            }
            self.more.notified().await;
        }
    }
}

impl Links {
    pub fn numbers(&self) -> Vec<(u64, u64)> {
        self.open.values().map(|link| (link.agent, link.number)).collect()
    }

    /// False if there is no stream, or it is full.
    pub fn send(&self, agent: u64, message: AgentMessage) -> bool {
        self.open.get(&agent).is_some_and(|link| link.push(Payload::Message(message)))
    }

    pub fn end(&mut self, agent: u64) {
        if let Some(link) = self.open.remove(&agent) {
            link.end(Error::StreamReplaced(format!("{agent:016x}")));
        }
    }
}

impl Engine {
    pub async fn register(&self, once: Option<Once>, owner: &str, request: RegisterRequest) -> Result<Agent, Error> {
        self.room()?;
        let key = self
            .once(once, |parts, step| {
                let key = parts.state.register(step, owner, request)?;
                Ok(parts.state.agents.wire(parts.state.agents.get(key).expect("it was just registered")))
            })
            .await?;
        Ok(key)
    }

    pub async fn unregister(&self, id: &str, caller: &Caller, reason: &str) -> Result<(), Error> {
        self.write(|state, step| {
            let key = owned(&state.agents, id, caller)?;
            state.unregister(step, key, reason);
            Ok(())
        })
        .await
    }

    /// Returns the ids of the tasks that the agent is offered.
    pub async fn heartbeat(&self, caller: &Caller, request: HeartbeatRequest) -> Result<Vec<String>, Error> {
        self.write(|state, step| {
            let key = owned(&state.agents, &request.agent_id, caller)?;
            Ok(state.heartbeat(step, key, request.resources, &request.active_tasks))
        })
        .await
    }

    /// Opens an agent's stream; an older one of the same agent ends.
    pub async fn link(&self, id: &str, caller: &Caller) -> Result<Arc<Link>, Error> {
        let agent = self.look(|core| owned(&core.state.agents, id, caller))?;
        let (link, kept) = {
            let queued = self
                .queue(|parts, step| {
                    let (number, kept) = parts.state.link(step, agent);
                    // Delivered once they are in the stream's queue; a crash before that delivers them again.
                    for (n, _) in &kept {
                        step.fact(Fact::Kept { agent, n: *n, message: None });
                    }
                    let link = Link { agent, number, queue: Mutex::default(), more: Notify::new() };
                    Ok((Arc::new(link), kept))
                })
                .await?;
            queued.answer_now()
        };
        for (_, message) in kept {
            link.push(Payload::Message(message));
        }
        self.look_mut(|core| {
            let newest = core.state.agents.get(agent).and_then(|agent| agent.link) == Some(link.number);
            if !newest {
                link.end(Error::StreamReplaced(id.into()));
            } else if let Some(older) = core.links.open.insert(agent, link.clone()) {
                older.end(Error::StreamReplaced(id.into()));
            }
        });
        Ok(link)
    }

    pub async fn unlink(&self, link: &Link) -> Result<(), Error> {
        self.look_mut(|core| {
            if core.links.open.get(&link.agent).is_some_and(|open| open.number == link.number) {
                core.links.open.remove(&link.agent);
            }
        });
        self.write(|state, step| {
            step.grows = false;
            state.unlink(step, link.agent, link.number);
            Ok(())
        })
        .await
    }

    /// A message for an agent: handed over, or kept.
    pub async fn send_to_agent(&self, once: Option<Once>, id: &str, message: AgentMessage) -> Result<SentToAgent, Error> {
        self.room()?;
        self.once(once, |parts, step| {
            let key = parts.state.agents.find(id)?.key;
            let message_id = parts.state.send_to_agent(step, key, message)?;
            Ok(SentToAgent { message_id, timestamp: Some(crate::domain::event::timestamp(step.now)) })
        })
        .await
    }

    /// What an agent said on its stream.
    pub async fn agent_said(&self, from: u64, message: AgentMessage) -> Result<(), Error> {
        let kind = MessageType::try_from(message.r#type).unwrap_or_default();
        let target = message.target_id.clone();
        if !target.is_empty() && target != "orchestrator" && kind != MessageType::Heartbeat {
            let sent = self.send_to_agent(None, &target, message).await;
            return sent.map(drop);
        }
        match (kind, message.payload) {
            (MessageType::Event, Some(agent_message::Payload::EventMessage(event))) => {
                let Some((session, correlation)) = self.turn_of(message.metadata.as_ref(), &HashMap::new()) else {
                    return Ok(());
                };
                if event.event_type == "delta" {
                    let delta = event.data.get("delta").map(String::as_str).unwrap_or_default();
                    let index = event.data.get("index").and_then(|index| index.parse().ok()).unwrap_or(usize::MAX);
                    self.delta(from, session, &correlation, index, delta).await
                } else if event.event_type.starts_with("tool") {
                    self.write(|state, step| {
                        state.tool_ran(step, from, session, &correlation);
                        Ok(())
                    })
                    .await
                } else {
                    Ok(())
                }
            }
            (MessageType::Data | MessageType::Error, Some(agent_message::Payload::DataMessage(data))) => {
                let Some((session, correlation)) = self.turn_of(message.metadata.as_ref(), &data.headers) else {
                    tracing::info!(agent = from, "an answer of nothing that was asked is dropped");
                    return Ok(());
                };
                let text = text_of(&data.data);
                let known = self
                    .write(move |state, step| {
                        Ok(if kind == MessageType::Error {
                            let code = data.headers.get("code").map_or("INTERNAL", String::as_str);
                            let error = if text.is_empty() { "the assistant failed" } else { &text };
                            state.answer_failed(step, from, session, &correlation, &format!("{code}: {error}"))
                        } else {
                            let kept = ["model", "provider", "finish_reason", "input_tokens", "output_tokens"];
                            let extra = kept.iter().filter_map(|name| Some((*name, data.headers.get(*name)?)));
                            let extra = extra.map(|(name, value)| (name.to_owned(), value.clone())).collect();
                            state.answer(step, from, session, &correlation, text, extra)
                        })
                    })
                    .await?;
                if !known {
                    tracing::info!(agent = from, "an answer came too late, or from another agent; it is dropped");
                }
                Ok(())
            }
            (MessageType::Error, _) => {
                let Some((session, correlation)) = self.turn_of(message.metadata.as_ref(), &HashMap::new()) else {
                    return Ok(());
                };
                self.write(|state, step| {
                    state.answer_failed(step, from, session, &correlation, "INTERNAL: the assistant failed");
                    Ok(())
                })
                .await
            }
            (kind, _) => {
                tracing::debug!(agent = from, ?kind, "a message for nobody is dropped");
                Ok(())
            }
        }
    }

    /// A piece of an answer: not in the log, shown to the session's streams at once.
    async fn delta(&self, from: u64, session: u64, correlation: &str, index: usize, delta: &str) -> Result<(), Error> {
        self.write(|state, step| Ok(state.delta(step, from, session, correlation, index, delta))).await?;
        self.look(|core| core.streams.wake(session));
        Ok(())
    }

    /// The session and correlation id that an agent's message is about, from its metadata or else its headers.
    fn turn_of(
        &self,
        metadata: Option<&nexus_proto::agent::v1::AgentMessageMetadata>,
        headers: &HashMap<String, String>,
    ) -> Option<(u64, String)> {
        let pick = |from: Option<&str>, name: &str| {
            let from = from.map(str::trim).filter(|value| !value.is_empty());
            from.or_else(|| headers.get(name).map(|value| value.trim())).unwrap_or_default().to_owned()
        };
        let session = pick(metadata.map(|m| m.session_id.as_str()), "session_id");
        let correlation = pick(metadata.map(|m| m.correlation_id.as_str()), "correlation_id");
        self.look(|core| Some((core.state.sessions.find(&session)?.key, correlation)))
    }

    /// All agents, oldest first.
    pub fn agents(&self) -> Vec<Agent> {
        self.look(|core| core.state.agents.iter().map(|agent| core.state.agents.wire(agent)).collect())
    }

    /// The sockets that live daemons registered, by service, newest first.
    pub fn daemons(&self) -> Daemons {
        self.look(|core| {
            let mut daemons = Daemons::new();
            let mut alive: Vec<_> = core.state.agents.iter().filter(|agent| agent.is_alive()).collect();
            alive.sort_by_key(|agent| std::cmp::Reverse(agent.registered));
            for agent in alive {
                let Some((socket, services)) = agent.daemon() else { continue };
                for service in services {
                    daemons.entry(service.to_owned()).or_default().push(socket.into());
                }
            }
            daemons
        })
    }
}

pub use nexus_proto::agent::v1::AgentSendMessageResponse as SentToAgent;

/// Who speaks for an agent.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Arc<str>,
    pub admin: bool,
}

/// The agent, if this caller may speak for it.
fn owned(agents: &crate::domain::agent::Agents, id: &str, caller: &Caller) -> Result<u64, Error> {
    let agent = agents.find(id)?;
    if *agent.owner != *caller.principal && !caller.admin {
        let (owner, caller) = (agent.owner.to_string(), caller.principal.to_string());
        return Err(Error::NotYourAgent { id: id.into(), owner, caller });
    }
    Ok(agent.key)
}

/// An agent's bytes as text; what is no UTF-8 is marked as such.
fn text_of(data: &Bytes) -> String {
    String::from_utf8_lossy(data).into_owned()
}
