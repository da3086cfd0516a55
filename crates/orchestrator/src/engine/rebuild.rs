//! After a failed group the state is reloaded from disk, and open streams and agents are attached to it again.

use nexus_proto::agent::v1::agent_message::Payload;

use super::dispatch::Dispatch;
use super::{Engine, Ledger, outlets, wall};
use crate::domain::Effect;

impl Engine {
    pub(super) fn rebuild(&self, ledger: &mut Ledger) {
        let rules = self.shared.options.rules.clone();
        let loaded = match self.shared.stored.load(rules, wall()) {
            Ok((loaded, _)) => loaded,
            Err(error) => {
                tracing::error!(%error, "failed to read the state back; the next failed write tries again");
                return;
            }
        };
        ledger.epoch += 1;
        let attached = ledger.outlets.attached();
        let (state, effects) = ledger.state.reload(loaded, &attached);
        ledger.state = state;
        ledger.cache.reload(&ledger.state);
        ledger.outlets.reloaded(&ledger.state, &ledger.cache);
        outlets::follow(self, ledger, effects);
        ledger.alarm.ring();
        tracing::warn!(
            epoch = ledger.epoch,
            "the state was read back from the disk after a failed write"
        );
    }

    /// Offers that were decided in a group that failed were never sent: their turns are given away again.
    pub(super) fn take_back_offers(&self, ledger: &mut Ledger, dropped: Vec<Effect>) {
        for effect in dropped {
            if let Effect::Offer {
                session,
                agent,
                request,
                ..
            } = effect
            {
                let correlation = request.metadata.unwrap_or_default().correlation_id;
                ledger.state.take_back_offer(session, agent, &correlation);
                ledger.outlets.of::<Dispatch>().add(session);
            } else if let Effect::Deliver { agent, message, .. } = effect
                && matches!(message.payload, Some(Payload::Step(_)))
            {
                let about = message.metadata.unwrap_or_default();
                let session = ledger.state.sessions.find(&about.session_id).map(|session| session.key);
                let Some(session) = session else { continue };
                ledger.state.take_back_offer(session, agent, &about.correlation_id);
                ledger.outlets.of::<Dispatch>().add(session);
            }
        }
    }
}
