//! Gives waiting turns to assistants, one session after the other, and hands messages to agents.

use bytes::Bytes;
use nexus_proto::agent::v1::{AgentMessage, agent_message::Payload};
use tokio_util::sync::CancellationToken;

use super::{Core, Engine};

pub(super) async fn run(engine: Engine, stop: CancellationToken) {
    let waiting: Vec<u64> = engine.look(|core| core.state.agents.waiting.iter().copied().collect());
    for session in waiting {
        engine.dispatch_later(session);
    }
    loop {
        let next = engine.inner.dispatch.lock().pop_first();
        let Some(session) = next else {
            tokio::select! {
                () = engine.inner.dispatch_more.notified() => continue,
                () = stop.cancelled() => return,
            }
        };
        let dispatched = engine.write(|state, step| {
            state.dispatch(step, session);
            Ok(())
        });
        if let Err(error) = dispatched.await {
            tracing::warn!(%error, "failed to dispatch a turn; its session waits for the next message");
            if stop.is_cancelled() {
                return;
            }
        }
    }
}

impl Engine {
    /// Offers a turn. Its content is in memory, but for one that waited for long.
    pub(super) fn offer(&self, core: &mut Core, session: u64, n: u64, agent: u64, mut request: AgentMessage) {
        let content = core.state.sessions.get(session).and_then(|session| session.in_tail(n));
        if let Some(stored) = content {
            fill(&mut request, &stored.message.content);
            self.deliver(core, agent, request);
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            match engine.message_at(session, n).await {
                Ok(Some(message)) => {
                    fill(&mut request, &message.content);
                    engine.look_mut(|core| engine.deliver(core, agent, request));
                }
                Ok(None) => tracing::warn!(n, "a turn's message is gone; the turn ends by its timeout"),
                Err(error) => tracing::warn!(%error, n, "failed to read a turn's message; the turn ends by its timeout"),
            }
        });
    }

    /// Hands a message to an agent's stream. A stream that is full is no stream: it is ended, and its turns move on.
    pub(super) fn deliver(&self, core: &mut Core, agent: u64, message: AgentMessage) {
        if !core.links.send(agent, message) {
            core.links.end(agent);
        }
    }
}

fn fill(request: &mut AgentMessage, content: &str) {
    if let Some(Payload::DataMessage(data)) = &mut request.payload {
        data.data = Bytes::copy_from_slice(content.as_bytes());
    }
}
