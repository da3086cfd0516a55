//! After a failed group the state is reloaded from disk, and open streams and agents are attached to it again.

use super::{Core, Engine, traces::Traces, wall};
use crate::domain::timers::Timer;
use crate::domain::turn::Phase;
use crate::domain::{Error, State};

impl Engine {
    pub(super) fn rebuild(&self, core: &mut Core) {
        let rules = self.inner.options.rules.clone();
        let loaded = self.inner.stored.load(rules, wall());
        let mut state = match loaded {
            Ok((state, _)) => state,
            Err(error) => {
                tracing::error!(%error, "failed to read the state back; the next failed write tries again");
                return;
            }
        };
        core.epoch += 1;
        state.sessions.removals = core.state.sessions.removals + 1;
        state.grace_until = core.state.grace_until;
        carry_agents(core, &mut state);
        carry_streams(core, &mut state);
        carry_turns(&core.state, &mut state);
        core.watchers.end_unknown(|task| state.tasks.get(task).is_some());
        for session in &state.agents.waiting {
            self.dispatch_later(*session);
        }
        core.state = state;
        // Numbers may be given again.
        core.traces = Traces::default();
        self.inner.timer_moved.notify_one();
        tracing::warn!(
            epoch = core.epoch,
            "the state was read back from the disk after a failed write"
        );
    }
}

/// Agents keep their streams, and what was heard of them.
fn carry_agents(core: &mut Core, state: &mut State) {
    state.agents.links = core.state.agents.links;
    state.agents.assistant_seen = state.agents.assistant_seen.max(core.state.agents.assistant_seen);
    for old in core.state.agents.iter() {
        if let Some(agent) = state.agents.get_mut(old.key) {
            agent.heartbeat = old.heartbeat;
            agent.silent = old.silent;
            agent.resources = old.resources;
        }
    }
    for (agent, link) in core.links.numbers() {
        match state.agents.get_mut(agent) {
            Some(found) => {
                found.link = Some(link);
                found.lost = None;
                found.silent = false;
            }
            None => drop(core.links.end(agent, Error::AgentNotFound)),
        }
    }
}

/// Streams keep their sessions; one whose session never came to be ends.
fn carry_streams(core: &mut Core, state: &mut State) {
    core.streams
        .forget_unstored(|session| state.sessions.get(session).map_or(0, |session| session.committed));
    for session in core.streams.sessions() {
        match state.sessions.get_mut(session) {
            Some(found) => {
                found.streams += 1;
                state.sessions.recount(session);
            }
            None => {
                let id = core
                    .state
                    .sessions
                    .get(session)
                    .map(|session| session.id.clone())
                    .unwrap_or_default();
                core.close_streams(session, &id);
            }
        }
    }
}

/// What an assistant works on goes on. A turn that was over, and whose end could not be stored, must not be given away
/// again as if nothing had been: it fails, and may be asked for again.
fn carry_turns(old: &State, state: &mut State) {
    for before in old.sessions.iter() {
        let Some(session) = state.sessions.get_mut(before.key) else {
            continue;
        };
        session.turns_over = before.turns_over + 1;
        session.streamed = before.streamed.clone();
        for turn in &mut session.turns {
            match before.turns.iter().find(|known| known.n == turn.n) {
                Some(known) => {
                    turn.refused = known.refused.clone();
                    let Phase::Running { agent, until, .. } = known.phase else {
                        continue;
                    };
                    turn.phase = known.phase.clone();
                    state.agents.turn_began(agent, before.key);
                    state.agents.waiting.remove(&before.key);
                    state.timers.set(until, Timer::Turn(before.key));
                }
                None => turn.refused = Some("UNAVAILABLE: the end of the answer could not be stored".into()),
            }
        }
    }
}
