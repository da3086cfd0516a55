//! The calls about agents, and delivery to their streams.

use std::path::Path;
use std::sync::Arc;

use nexus_daemon::Caller;
use nexus_proto::agent::v1::{
    Agent, AgentMessage, AgentState, HeartbeatRequest, HeartbeatResponse, RegisterRequest, RegisterResponse,
    UnregisterRequest, UnregisterResponse,
};

use super::links::{Links, QUEUED};
use super::{Daemons, Engine, Ledger, Link, Once};
use crate::domain;
use crate::domain::event::timestamp;
use crate::domain::{Effect, Error};

impl Engine {
    /// Registers an agent. The token is drawn with the registration, so that a repeat gets the same.
    pub async fn register(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: RegisterRequest,
    ) -> Result<RegisterResponse, Error> {
        self.room()?;
        self.once(once, |parts, step| {
            let key = parts.state.register(step, caller, request)?;
            let agent = parts
                .state
                .agents
                .wire(parts.state.agents.get(key).expect("it was just registered"));
            Ok(RegisterResponse {
                agent_id: agent.id.clone(),
                agent: Some(Agent {
                    state: AgentState::Idle.into(),
                    ..agent
                }),
                registration_token: step.ids.plain(),
            })
        })
        .await
    }

    pub async fn unregister(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: UnregisterRequest,
    ) -> Result<UnregisterResponse, Error> {
        self.once(once, |parts, step| {
            let key = parts.state.agents.owned(&request.agent_id, caller)?;
            parts.state.unregister(step, key, &request.reason);
            let message = match request.reason.as_str() {
                "" => "Agent unregistered".to_owned(),
                reason => format!("Agent unregistered: {reason}"),
            };
            Ok(UnregisterResponse { success: true, message })
        })
        .await
    }

    /// An agent lives; it is told the tasks that it is offered.
    pub async fn heartbeat(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: HeartbeatRequest,
    ) -> Result<HeartbeatResponse, Error> {
        self.once(once, |parts, step| {
            let key = parts.state.agents.owned(&request.agent_id, caller)?;
            let pending_tasks = parts
                .state
                .heartbeat(step, key, request.resources, &request.active_tasks);
            Ok(HeartbeatResponse {
                timestamp: Some(timestamp(step.now)),
                pending_tasks,
            })
        })
        .await
    }

    /// Opens an agent's stream; an older one of the same agent ends.
    pub async fn link(&self, id: &str, caller: &Caller) -> Result<Arc<Link>, Error> {
        let linked = self
            .queue(|parts, step| {
                let agent = parts.state.linkable(id, caller)?;
                let (number, kept) = parts.state.link(step, agent);
                Ok(parts
                    .outlets
                    .of::<Links>()
                    .open(agent, number, id, caller.clone(), kept))
            })
            .await?;
        // What was kept is delivered from here on; a crash before it is forgotten delivers it again.
        Ok(linked.answer_now())
    }

    /// An agent's stream ended. Mail that it did not deliver is kept for the next.
    pub async fn unlink(&self, link: &Link) -> Result<(), Error> {
        let unlinked = self
            .queue(|parts, step| {
                parts.outlets.of::<Links>().close(link);
                parts.state.unlink(step, link.agent, link.number);
                for message in link.leftovers() {
                    parts.state.keep(step, link.agent, message);
                }
                Ok(())
            })
            .await?;
        unlinked.done().await
    }

    /// A heartbeat on an agent's stream.
    pub async fn link_heartbeat(&self, link: &Link) -> Result<(), Error> {
        link.heartbeat();
        self.write(|state, step| {
            state.seen(step, link.agent);
            Ok(())
        })
        .await
    }

    /// Hands a message to an agent's stream. A stream whose queue is full is ended, and its turns are offered to another agent.
    pub(super) fn deliver(&self, ledger: &mut Ledger, agent: u64, message: AgentMessage, mail: bool) {
        let Some(refused) = ledger.outlets.of::<Links>().send(agent, message, mail) else {
            return;
        };
        let link = ledger.outlets.of::<Links>().end(agent, Error::LinkFull(QUEUED));
        let engine = self.clone();
        tokio::spawn(async move {
            if let Some(link) = link
                && let Err(error) = engine.unlink(&link).await
            {
                tracing::warn!(%error, agent, "failed to record the end of an agent's stream");
            }
            if mail && let Err(error) = engine.deliver_later(agent, refused).await {
                tracing::warn!(%error, agent, "failed to keep a message for an agent");
            }
        });
    }

    /// A message that was taken for an agent's stream, and found none.
    async fn deliver_later(&self, agent: u64, message: AgentMessage) -> Result<(), Error> {
        self.write(|state, step| {
            if state.agents.get(agent).is_some_and(|agent| agent.link.is_some()) {
                step.effect(Effect::Deliver {
                    agent,
                    message: Box::new(message),
                    mail: true,
                });
            } else {
                step.grows = false;
                state.keep(step, agent, message);
            }
            Ok(())
        })
        .await
    }

    /// A message for an agent from a caller: handed over, or kept.
    pub async fn send_to_agent(
        &self,
        once: Option<Once>,
        caller: &Caller,
        id: &str,
        message: AgentMessage,
    ) -> Result<SentToAgent, Error> {
        self.room()?;
        self.once(once, |parts, step| {
            let message_id = parts.state.message_agent(step, caller, id, message)?;
            Ok(SentToAgent {
                message_id,
                timestamp: Some(timestamp(step.now)),
            })
        })
        .await
    }

    /// The agents that this caller may know of, oldest first.
    pub fn agents(&self, caller: &Caller) -> Vec<Agent> {
        self.look(|ledger| {
            ledger
                .state
                .agents
                .visible(caller)
                .map(|agent| ledger.state.agents.wire(agent))
                .collect()
        })
    }

    /// The uid that a registered daemon's process must have: that of who registered it, `None` for this process's own.
    pub fn server_uid(&self, socket: &Path) -> Option<u32> {
        self.look(|ledger| {
            let mut agents = ledger.state.agents.iter();
            let serves = |agent: &&domain::agent::Agent| agent.daemon().is_some_and(|(at, _)| Path::new(at) == socket);
            let agent = agents.find(serves)?;
            let named = ledger.state.rules.front_door.contains(&*agent.owner);
            agent.owner.strip_prefix("uid:").filter(|_| named)?.parse().ok()
        })
    }

    /// The sockets that live daemons registered, by service, newest first.
    pub fn daemons(&self) -> Daemons {
        self.look(|ledger| {
            let mut daemons = Daemons::new();
            let mut alive: Vec<_> = ledger.state.agents.iter().filter(|agent| agent.is_alive()).collect();
            alive.sort_by_key(|agent| std::cmp::Reverse(agent.registered));
            for agent in alive {
                let Some((socket, services)) = agent.daemon() else {
                    continue;
                };
                for service in services {
                    daemons.entry(service.to_owned()).or_default().push(socket.into());
                }
            }
            daemons
        })
    }
}

pub use nexus_proto::agent::v1::AgentSendMessageResponse as SentToAgent;
