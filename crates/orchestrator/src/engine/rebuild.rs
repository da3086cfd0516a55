//! After a failed group the state is reloaded from disk, and open streams and agents are attached to it again.

use super::{Core, Engine, traces::Traces, wall};
use crate::domain::Effect;
use crate::domain::reload::Attached;

impl Engine {
    pub(super) fn rebuild(&self, core: &mut Core) {
        let rules = self.inner.options.rules.clone();
        let loaded = match self.inner.stored.load(rules, wall()) {
            Ok((loaded, _)) => loaded,
            Err(error) => {
                tracing::error!(%error, "failed to read the state back; the next failed write tries again");
                return;
            }
        };
        core.epoch += 1;
        let attached = Attached {
            agent_streams: core.links.numbers(),
            session_streams: core.streams.sessions(),
        };
        let (state, effects) = core.state.reload(loaded, &attached);
        core.state = state;
        core.cache.reload(&core.state);
        let (state, cache) = (&core.state, &core.cache);
        core.streams.forget_unstored(|session| cache.committed(state, session));
        core.watchers.end_unknown(|task| state.tasks.get(task).is_some());
        // Numbers may be given again.
        core.traces = Traces::default();
        self.run_effects(core, effects);
        self.inner.timer_moved.notify_one();
        tracing::warn!(
            epoch = core.epoch,
            "the state was read back from the disk after a failed write"
        );
    }

    /// Offers that were decided in a group that failed were never sent: their turns are given away again.
    pub(super) fn take_back_offers(&self, core: &mut Core, dropped: Vec<Effect>) {
        for effect in dropped {
            if let Effect::Offer {
                session,
                agent,
                request,
                ..
            } = effect
            {
                let correlation = request.metadata.unwrap_or_default().correlation_id;
                core.state.take_back_offer(session, agent, &correlation);
                self.dispatch_later(session);
            }
        }
    }
}
