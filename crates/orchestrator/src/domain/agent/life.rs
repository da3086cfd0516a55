//! Registration, heartbeats, and what follows when heartbeats stop.

use std::collections::BTreeMap;

use nexus_daemon::Caller;
use nexus_proto::agent::v1::{AgentMessage, AgentType, RegisterRequest};
use nexus_proto::common::v1::ResourceUsage;
use nexus_proto::words;

use super::{Agent, PROTOCOL, SOCKET, label};
use crate::domain::event::{self, About};
use crate::domain::timers::Timer;
use crate::domain::{Effect, Error, Fact, State, Step};

impl State {
    /// Registers an agent. A daemon that comes again from the same place gets its old id back.
    pub fn register(&mut self, step: &mut Step<'_>, caller: &Caller, request: RegisterRequest) -> Result<u64, Error> {
        if request.name.is_empty() {
            return Err(Error::Required("name"));
        }
        self.may_register(caller, &request)?;
        let owner = &caller.principal;
        let labels = request.metadata.as_ref().map(|m| &m.labels);
        if let Some(theirs) = labels
            .and_then(|l| l.get(PROTOCOL))
            .filter(|p| **p != nexus_proto::PROTOCOL.to_string())
        {
            let (ours, theirs) = (nexus_proto::PROTOCOL, theirs.clone());
            return Err(Error::Protocol {
                ours,
                theirs,
                version: env!("CARGO_PKG_VERSION"),
            });
        }
        let socket = labels.and_then(|l| l.get(SOCKET));
        if let Some(relative) = socket.filter(|socket| !socket.starts_with('/')) {
            return Err(Error::Invalid(format!(
                "the label {SOCKET} must be an absolute path, not {relative:?}"
            )));
        }
        let same = |agent: &&Agent| agent.request.name == request.name && *agent.owner == **owner;
        let before = socket.and_then(|socket| {
            self.agents
                .iter()
                .filter(same)
                .find(|agent| label(&agent.request, SOCKET) == Some(socket))
                .map(|agent| agent.key)
        });
        let key = match before {
            Some(key) => {
                self.worker_restarted(step, key);
                let agent = self.agents.get_mut(key).expect("it was just found");
                agent.request = request;
                agent.trusted = caller.is_admin();
                agent.heartbeat = step.now;
                agent.registered = step.now;
                agent.lost = None;
                agent.silent = false;
                key
            }
            None => {
                self.share_of_agents(caller)?;
                self.room_for_agent(step)?;
                let (key, id) = step.ids.keyed(step.now);
                self.agents.insert(Agent {
                    key,
                    id: id.into(),
                    request,
                    owner: owner.clone(),
                    trusted: caller.is_admin(),
                    registered: step.now,
                    heartbeat: step.now,
                    lost: None,
                    silent: false,
                    resources: None,
                    link: None,
                    kept_next: 1,
                    kept: BTreeMap::new(),
                });
                key
            }
        };
        self.timers
            .set(step.now.saturating_add(self.rules.agent_ttl), Timer::Agent(key));
        step.fact(Fact::Agent(key));
        self.agent_event(step, key, words::event::AGENT_REGISTERED, "");
        step.effect(Effect::Daemons);
        Ok(key)
    }

    /// Where there is no room for one more, the one that was lost for the longest is forgotten early.
    fn room_for_agent(&mut self, step: &mut Step<'_>) -> Result<(), Error> {
        let max = self.rules.max_agents;
        if self.agents.len() < max {
            return Ok(());
        }
        let lost = self
            .agents
            .iter()
            .filter_map(|agent| Some((agent.lost?, agent.key)))
            .min();
        let (_, key) = lost.ok_or(Error::Limit {
            what: "agents",
            max,
            setting: "orchestrator.max_agents",
        })?;
        self.agent_gone(step, key);
        Ok(())
    }

    pub fn unregister(&mut self, step: &mut Step<'_>, key: u64, reason: &str) {
        step.grows = false;
        self.agent_event(step, key, words::event::AGENT_UNREGISTERED, reason);
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
        if let Some(agent) = self.agents.get_mut(key).filter(|_| resources.is_some()) {
            agent.resources = resources;
        }
        self.sweep();
        self.worker_reported(step, key, active);
        for id in active {
            self.take_task(step, key, id);
        }
        self.start_waiting_calls(step);
        self.offered_tasks(step, key)
    }

    /// Any sign of life. One that was lost is back.
    pub fn seen(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(agent) = self.agents.get_mut(key) else { return };
        agent.heartbeat = step.now;
        let lost = agent.lost.take().is_some();
        if std::mem::take(&mut agent.silent) || lost {
            step.fact(Fact::Agent(key));
            self.timers
                .set(step.now.saturating_add(self.rules.agent_ttl), Timer::Agent(key));
            self.agent_event(step, key, words::event::AGENT_RECOVERED, "");
            step.effect(Effect::Daemons);
        }
    }

    /// The agent whose stream this caller may open.
    pub fn linkable(&self, id: &str, caller: &Caller) -> Result<u64, Error> {
        let key = self.agents.owned(id, caller)?;
        // It may have been registered when the settings said otherwise.
        let agent = self.agents.get(key).expect("it was just found");
        self.may_register(caller, &agent.request)?;
        Ok(key)
    }

    /// An agent opened a StreamAgent: the newest wins. Returns the link's number and what was kept for it, in order.
    pub fn link(&mut self, step: &mut Step<'_>, key: u64) -> (u64, Vec<AgentMessage>) {
        self.seen(step, key);
        if self.agents.get(key).is_some_and(|agent| agent.link.is_some()) {
            self.assistant_lost(step, key);
        }
        self.agents.links += 1;
        let link = self.agents.links;
        let agent = self.agents.get_mut(key).expect("the caller looked it up");
        agent.link = Some(link);
        let assistant = agent.is_assistant();
        let kept = self.take_kept(step, key);
        self.worker_linked(step, key);
        if assistant {
            self.agents.assistant_seen = Some(step.now);
            self.wake_waiting(step);
        }
        (link, kept)
    }

    /// A StreamAgent ended. One that was replaced by a newer one changes nothing.
    pub fn unlink(&mut self, step: &mut Step<'_>, key: u64, link: u64) {
        let Some(agent) = self.agents.get_mut(key).filter(|agent| agent.link == Some(link)) else {
            return;
        };
        step.grows = false;
        agent.link = None;
        agent.heartbeat = agent.heartbeat.max(step.now);
        agent.silent = true;
        self.timers
            .set(step.now.saturating_add(self.rules.agent_ttl), Timer::Agent(key));
        self.agent_event(step, key, words::event::AGENT_LOST, "");
        self.assistant_left(step, key);
        self.sweep();
        self.worker_unlinked(step, key);
    }

    /// Moves on the turns of an agent that holds no stream any more, and those that waited for a place with it.
    fn assistant_left(&mut self, step: &mut Step<'_>, key: u64) {
        self.assistant_lost(step, key);
        if self.agents.get(key).is_some_and(Agent::is_assistant) {
            self.agents.assistant_seen = Some(step.now);
            self.wake_waiting(step);
        }
    }

    fn wake_waiting(&mut self, step: &mut Step<'_>) {
        for session in &self.agents.waiting {
            step.effect(Effect::Dispatch { session: *session });
        }
    }

    /// Looks at an agent whose timer came due.
    pub fn agent_due(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(agent) = self.agents.get(key) else { return };
        if agent.link.is_some() {
            return; // looked at again when its stream ends
        }
        step.grows = false;
        if let Some(lost) = agent.lost {
            let forget = lost.saturating_add(self.rules.forget_agent_after);
            if forget <= step.now {
                self.agent_gone(step, key);
            } else {
                self.timers.set(forget, Timer::Agent(key));
            }
            return;
        }
        let until = agent.heartbeat.saturating_add(self.rules.agent_ttl);
        if until > step.now {
            self.timers.set(until, Timer::Agent(key));
            return;
        }
        if self.put_off(step, Timer::Agent(key)) {
            return;
        }
        let agent = self.agents.get_mut(key).expect("it was here a line ago");
        agent.lost = Some(step.now);
        let told = std::mem::take(&mut agent.silent);
        self.timers.set(
            step.now.saturating_add(self.rules.forget_agent_after),
            Timer::Agent(key),
        );
        step.fact(Fact::Agent(key));
        if !told {
            self.agent_event(step, key, words::event::AGENT_LOST, "");
        }
        self.tasks_of_lost(step, key, false);
        step.effect(Effect::Daemons);
    }

    fn agent_gone(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(agent) = self.agents.get_mut(key) else { return };
        if agent.link.take().is_some() {
            step.effect(Effect::Unlink { agent: key });
            self.assistant_left(step, key);
        }
        self.tasks_of_lost(step, key, true);
        self.agents.remove(key);
        step.fact(Fact::AgentGone(key));
        step.effect(Effect::Daemons);
    }

    fn agent_event(&mut self, step: &mut Step<'_>, key: u64, name: &str, reason: &str) {
        let Some(agent) = self.agents.get(key) else { return };
        let kind = AgentType::try_from(agent.request.r#type).unwrap_or_default();
        let mut data = vec![
            ("agent_id", &*agent.id),
            ("name", &*agent.request.name),
            ("type", kind.as_str_name()),
        ];
        if !reason.is_empty() {
            data.push(("reason", reason));
        }
        let event = event::build(step, name, event::AGENT, About::default(), &data);
        step.fact(Fact::Event { session: 0, event });
    }
}
