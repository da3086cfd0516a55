//! Offers waiting turns to assistants, one session after the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexus_daemon::spans::Span;
use nexus_proto::agent::v1::{AgentMessage, agent_message::Payload};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::outlets::Outlet;
use super::traces::Traces;
use super::{Engine, Ledger};
use crate::domain::Error;
use crate::domain::turn::{FOLLOWED_BY, TRACEPARENT};

/// Pause before the next try after a store refused a change.
const PAUSE: Duration = Duration::from_secs(1);

/// Sessions whose first turn wants an assistant; a set, so that it is bounded by the sessions there are.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    sessions: BTreeSet<u64>,
    more: Arc<Notify>,
}

impl Outlet for Dispatch {}

impl Dispatch {
    pub fn add(&mut self, session: u64) {
        self.sessions.insert(session);
        self.more.notify_one();
    }
}

pub(super) async fn run(engine: Engine, stop: CancellationToken) {
    let more = engine.look_mut(|ledger| {
        let dispatch = ledger.outlets.of::<Dispatch>();
        dispatch.sessions.extend(&ledger.state.agents.waiting);
        dispatch.more.clone()
    });
    loop {
        let next = engine.look_mut(|ledger| ledger.outlets.of::<Dispatch>().sessions.pop_first());
        let Some(session) = next else {
            tokio::select! {
                () = more.notified() => continue,
                () = stop.cancelled() => return,
            }
        };
        if let Err(error) = engine.dispatch(session).await {
            tracing::warn!(%error, "failed to dispatch a turn; it is tried again");
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => engine.look_mut(|ledger| ledger.outlets.of::<Dispatch>().add(session)),
                () = stop.cancelled() => return,
            }
        }
    }
}

impl Engine {
    async fn dispatch(&self, session: u64) -> Result<(), Error> {
        let queued = self.queue(|parts, step| {
            let committed = parts.cache.committed(parts.state, session);
            parts.state.dispatch(step, session, committed);
            Ok(())
        });
        queued.await?.done().await
    }

    /// Offers a turn to an agent. The message is in memory, unless the turn waited for long; then it is read from disk.
    pub(super) fn offer(&self, ledger: &mut Ledger, session: u64, n: u64, agent: u64, mut request: AgentMessage) {
        let parent = ledger.outlets.of::<Traces>().of(session, n);
        let dispatched = parent.map_or_else(Span::default, |parent| Span::within("dispatch turn", parent));
        if let Some(metadata) = &mut request.metadata {
            if let Some(own) = dispatched.traceparent() {
                metadata.headers.insert(TRACEPARENT.to_owned(), own.to_string());
                dispatched.note("nexus.session_id", metadata.session_id.clone());
                dispatched.note("nexus.agent_id", request.target_id.clone());
                if let Some(id) = metadata.headers.get(FOLLOWED_BY) {
                    dispatched.note("nexus.correlation_id", id.clone());
                }
            }
            tracing::debug!(
                correlation_id = metadata.headers.get(FOLLOWED_BY),
                message_id = request.id,
                session_id = metadata.session_id,
                agent_id = request.target_id,
                "offered to an assistant"
            );
        }
        let content = ledger.cache.message(session, n);
        if let Some(message) = content {
            fill(&mut request, &message.content);
            return self.deliver(ledger, agent, request, false);
        }
        let engine = self.clone();
        tokio::spawn(async move {
            let correlation = request
                .metadata
                .as_ref()
                .map(|m| m.correlation_id.clone())
                .unwrap_or_default();
            let failed = match engine.message_at(session, n).await {
                Ok(Some(message)) => {
                    fill(&mut request, &message.content);
                    return engine.look_mut(|ledger| {
                        // Meanwhile it may have been cancelled, or offered to another.
                        if ledger.state.is_offered(session, agent, &correlation) {
                            engine.deliver(ledger, agent, request, false);
                        }
                    });
                }
                Ok(None) => "INTERNAL: the message no longer exists".to_owned(),
                Err(error) => format!("INTERNAL: {error}"),
            };
            if let Err(error) = engine.gave_up(agent, session, &correlation, &failed).await {
                tracing::warn!(%error, failed, "failed to end a turn whose message cannot be read; it ends by its timeout");
            }
        });
    }
}

fn fill(request: &mut AgentMessage, content: &str) {
    if let Some(Payload::DataMessage(data)) = &mut request.payload {
        data.data = Bytes::copy_from_slice(content.as_bytes());
    }
}
