//! After the commit: events go into the ring, effects run, callers are answered. One task, in the order of the log.

use std::sync::Arc;

use nexus_daemon::Stop;
use nexus_proto::orchestrator::v1::{Event, Message};
use nexus_store::{Committed, Receipt};
use tokio::sync::{mpsc, oneshot};

use super::group::{EventSession, Group, Writing};
use super::{Engine, outlets};
use crate::domain::{Effect, Error, Time};

/// Committed groups that may wait to be published before the writer has to.
const GROUPS: usize = 8;

/// What becomes an event once its place in the log is known.
#[derive(Debug)]
pub(crate) enum Draft {
    Message {
        id: Arc<str>,
        of: EventSession,
        message: Arc<Message>,
        time: Time,
    },
    Event {
        of: EventSession,
        event: Box<Event>,
    },
}

/// What comes back from the writer.
#[derive(Debug)]
pub(crate) struct Pending {
    pub tx: u64,
    pub epoch: u64,
    pub drafts: Vec<Draft>,
    /// The place of the first draft in the log, once it has one.
    pub first: u64,
    pub effects: Vec<Effect>,
    pub tell: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Receipt for Pending {
    fn committed(&mut self, first_seq: u64) {
        self.first = first_seq;
    }
}

/// What arrives after a commit: its events, and who waits for it.
pub(crate) type Published = (Group, Committed<Pending>);

/// The callback for the writer's thread, and where its groups arrive.
pub(crate) fn channel() -> (
    impl FnMut(Committed<Pending>) + Send + 'static,
    mpsc::Receiver<Published>,
) {
    let (send, receive) = mpsc::channel(GROUPS);
    let tell = move |committed: Committed<Pending>| {
        // A group that nobody takes is one of a runtime that is gone; its callers are gone too.
        drop(send.blocking_send((encode(&committed), committed)));
    };
    (tell, receive)
}

/// Encodes each event, once for all readers, on the writer's thread.
fn encode(committed: &Committed<Pending>) -> Group {
    let mut group = Writing::room_for(committed.receipts.len());
    for (pending, _) in committed.receipts.iter().filter(|(_, result)| result.is_ok()) {
        for (seq, draft) in (pending.first..).zip(&pending.drafts) {
            match draft {
                Draft::Message { id, of, message, time } => group.message(seq, id, of.clone(), message, *time),
                Draft::Event { of, event } => group.event(seq, of.clone(), event),
            }
        }
    }
    group.done()
}

pub(crate) async fn run(engine: Engine, mut groups: mpsc::Receiver<Published>, stop: Stop) {
    while let Some((events, group)) = groups.recv().await {
        let mut newest = 0;
        let mut failed = false;
        let mut dropped = Vec::new();
        {
            let mut ledger = engine.shared.ledger.lock();
            engine.shared.ring.push(events);
            for (pending, result) in group.receipts {
                newest = newest.max(pending.tx);
                match &result {
                    Ok(()) => outlets::follow(&engine, &mut ledger, pending.effects),
                    // Later groups of a failed epoch come back too, after the state was reloaded from disk.
                    Err(error) => {
                        give_up(error, &stop);
                        failed |= pending.epoch == ledger.epoch;
                        dropped.extend(pending.effects);
                    }
                }
                if let Some(tell) = pending.tell {
                    // A caller that went away needs no answer.
                    let _gone = tell.send(result.map_err(Error::Store));
                }
            }
            if failed {
                engine.rebuild(&mut ledger);
            }
            engine.take_back_offers(&mut ledger, dropped);
        }
        engine.shared.committed.send_if_modified(|at| {
            let rises = newest > *at;
            *at = newest.max(*at);
            rises
        });
    }
}

/// After some failures nothing can be promised any more: whether a group is on disk, or who writes now. The daemon stops,
/// and its supervisor starts it again with what is on disk.
fn give_up(error: &nexus_store::Error, stop: &Stop) {
    if matches!(
        error,
        nexus_store::Error::Unknown { .. } | nexus_store::Error::LeaseLost
    ) {
        stop.fail(format!("the store cannot go on: {error}"));
    }
}
