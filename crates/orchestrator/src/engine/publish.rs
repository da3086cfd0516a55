//! After the commit: events go into the ring, effects run, callers are answered. One task, in the order of the log.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use nexus_proto::orchestrator::v1::{Event, Message, SessionMetadata};
use nexus_store::{Committed, Receipt};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use super::{Engine, Published};
use crate::domain::{Effect, Error, Time, event};

/// Committed groups that may wait to be published before the writer has to.
const GROUPS: usize = 8;

/// What becomes an event once its place in the log is known.
#[derive(Debug)]
pub(crate) enum Draft {
    Message { id: Arc<str>, metadata: Arc<SessionMetadata>, creator: Arc<str>, message: Arc<Message>, time: Time },
    Event { creator: Arc<str>, event: Event },
}

/// What comes back from the writer.
#[derive(Debug)]
pub(crate) struct Pending {
    pub tx: u64,
    pub epoch: u64,
    pub drafts: Vec<Draft>,
    pub published: Vec<Arc<Published>>,
    pub effects: Vec<Effect>,
    pub tell: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Receipt for Pending {
    /// Encodes each event, once for all readers, on the writer's thread.
    fn committed(&mut self, first_seq: u64) {
        for (seq, draft) in (first_seq..).zip(self.drafts.drain(..)) {
            let (creator, event) = match draft {
                Draft::Message { id, metadata, creator, message, time } => {
                    (creator, event::of_message(&message, &id, &metadata.labels, time))
                }
                Draft::Event { creator, event } => (creator, event),
            };
            self.published.push(Arc::new(publish(seq, creator, event)));
        }
    }
}

/// Puts an event and its place in the log into the form that readers get.
pub(crate) fn publish(seq: u64, creator: Arc<str>, mut event: Event) -> Published {
    event.sequence = seq;
    let mut wire = BytesMut::with_capacity(event.encoded_len());
    event.encode(&mut (&mut wire).limit(usize::MAX)).expect("a growing buffer has room");
    Published { seq, creator, event, wire: wire.freeze() }
}

/// The wire form of an event that stands for rows that are gone.
pub(crate) fn gap(first: u64, last: u64) -> Bytes {
    let gap = nexus_proto::orchestrator::v1::EventGap { first, last };
    Event { gap: Some(gap), ..Event::default() }.encode_to_vec().into()
}

/// The callback for the writer's thread, and where its groups arrive.
pub(crate) fn channel() -> (impl FnMut(Committed<Pending>) + Send + 'static, mpsc::Receiver<Committed<Pending>>) {
    let (send, receive) = mpsc::channel(GROUPS);
    // A group that nobody takes is one of a runtime that is gone; its callers are gone too.
    (move |group| drop(send.blocking_send(group)), receive)
}

pub(crate) async fn run(engine: Engine, mut groups: mpsc::Receiver<Committed<Pending>>) {
    while let Some(group) = groups.recv().await {
        let mut newest = 0;
        let mut failed = false;
        {
            let mut core = engine.inner.core.lock();
            let events = group.receipts.iter().filter(|(_, r)| r.is_ok()).flat_map(|(p, _)| p.published.iter().cloned());
            engine.inner.ring.extend(events);
            for (pending, result) in group.receipts {
                newest = newest.max(pending.tx);
                match &result {
                    Ok(()) => engine.run_effects(&mut core, pending.effects),
                    // Later groups of a failed epoch come back too, after the state was made anew.
                    Err(_) => failed |= pending.epoch == core.epoch,
                }
                if let Some(tell) = pending.tell {
                    // A caller that went away needs no answer.
                    let _gone = tell.send(result.map_err(Error::Store));
                }
            }
            if failed {
                engine.rebuild(&mut core);
            }
        }
        engine.inner.committed.send_if_modified(|at| {
            let rises = newest > *at;
            *at = newest.max(*at);
            rises
        });
    }
}
