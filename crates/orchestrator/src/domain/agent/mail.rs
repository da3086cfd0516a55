//! Messages for agents without a stream: kept in order, within a bound, until they expire.

use nexus_daemon::Caller;
use nexus_proto::agent::v1::AgentMessage;

use super::Kept;
use crate::domain::event::timestamp;
use crate::domain::{Effect, Error, Fact, State, Step};

impl State {
    /// A message from a caller to an agent that it may speak for. Returns its id.
    pub fn message_agent(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        id: &str,
        mut message: AgentMessage,
    ) -> Result<String, Error> {
        let key = self.agents.owned(id, caller)?;
        self.sign(&mut message, caller);
        self.send_to_agent(step, key, message)
    }

    /// A message from one agent to another, sent over the first one's stream by its caller.
    pub fn relay(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        from: u64,
        mut message: AgentMessage,
    ) -> Result<String, Error> {
        let key = self.agents.owned(&message.target_id, caller)?;
        let from = self.agents.get(from).ok_or(Error::AgentNotFound)?;
        message.source_id = from.id.to_string();
        self.send_to_agent(step, key, message)
    }

    /// Keeps a message for an agent that holds no stream, or hands it over. Returns its id.
    pub(in crate::domain) fn send_to_agent(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        mut message: AgentMessage,
    ) -> Result<String, Error> {
        let max = self.rules.max_kept_messages;
        let agent = self.agents.get_mut(key).ok_or(Error::AgentNotFound)?;
        if message.id.is_empty() {
            message.id = step.ids.plain();
        }
        if message.timestamp.is_none_or(|t| t.seconds == 0 && t.nanos == 0) {
            message.timestamp = Some(timestamp(step.now));
        }
        let id = message.id.clone();
        if agent.link.is_some() {
            step.effect(Effect::Deliver {
                agent: key,
                message: Box::new(message),
                mail: true,
            });
            return Ok(id);
        }
        let live = agent.kept.values().filter(|kept| kept.expires > step.now).count();
        if live >= max {
            let (what, setting) = ("messages kept for the agent", "orchestrator.max_kept_messages");
            return Err(Error::Limit { what, max, setting });
        }
        agent.kept.retain(|n, kept| {
            let keep = kept.expires > step.now;
            if !keep {
                step.facts.push(Fact::Kept {
                    agent: key,
                    n: *n,
                    message: None,
                });
            }
            keep
        });
        self.keep(step, key, message);
        Ok(id)
    }

    /// Keeps a message, whatever the bound: it was taken from its sender before.
    pub fn keep(&mut self, step: &mut Step<'_>, key: u64, message: AgentMessage) {
        let expires = step.now.saturating_add(self.rules.kept_message_ttl);
        let Some(agent) = self.agents.get_mut(key) else { return };
        let kept = Kept { message, expires };
        let n = agent.kept_next;
        agent.kept_next += 1;
        agent.kept.insert(n, kept.clone());
        step.fact(Fact::Kept {
            agent: key,
            n,
            message: Some(Box::new(kept)),
        });
    }

    /// What was kept for an agent that opened a stream, in order; what expired is dropped.
    pub(super) fn take_kept(&mut self, step: &mut Step<'_>, key: u64) -> Vec<AgentMessage> {
        let Some(agent) = self.agents.get_mut(key) else {
            return Vec::new();
        };
        let mut messages = Vec::new();
        for (n, kept) in std::mem::take(&mut agent.kept) {
            step.fact(Fact::Kept {
                agent: key,
                n,
                message: None,
            });
            if kept.expires > step.now {
                messages.push(kept.message);
            }
        }
        messages
    }
}
