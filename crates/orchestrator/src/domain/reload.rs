//! What the state becomes after a commit group failed: everything decided since the group is undone by reading the disk
//! again, and what only memory knows (streams, heartbeats, running answers) is carried over.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::timers::Timer;
use super::turn::Phase;
use super::{Effect, State};

/// What is attached to the state from outside and outlives a failed group.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    /// Agents with an open stream, and the number of that stream.
    pub agent_streams: Vec<(u64, u64)>,
    /// The sessions of open StreamMessages, one entry for each stream.
    pub session_streams: Vec<u64>,
}

impl State {
    /// The state after a failed group. `self` is the state with everything that was decided, `loaded` is what the disk
    /// has. The effects tell streams of sessions and agents that never came to be, and give waiting turns away.
    #[must_use]
    pub fn reload(&self, mut loaded: State, attached: &Attached) -> (State, Vec<Effect>) {
        let mut effects = Vec::new();
        loaded.grace_until = self.grace_until;
        self.carry_agents(&mut loaded, attached, &mut effects);
        self.carry_streams(&mut loaded, attached, &mut effects);
        self.carry_turns(&mut loaded);
        let waiting = loaded.agents.waiting.iter();
        effects.extend(waiting.map(|session| Effect::Dispatch { session: *session }));
        (loaded, effects)
    }

    /// Agents keep their streams and the times they were heard of. The stream of an agent that never came to be ends.
    fn carry_agents(&self, loaded: &mut State, attached: &Attached, effects: &mut Vec<Effect>) {
        loaded.agents.links = self.agents.links;
        loaded.agents.assistant_seen = loaded.agents.assistant_seen.max(self.agents.assistant_seen);
        for before in self.agents.iter() {
            if let Some(agent) = loaded.agents.get_mut(before.key) {
                agent.heartbeat = before.heartbeat;
                agent.silent = before.silent;
                agent.resources = before.resources;
            }
        }
        for (agent, link) in &attached.agent_streams {
            match loaded.agents.get_mut(*agent) {
                Some(found) => {
                    found.link = Some(*link);
                    found.lost = None;
                    found.silent = false;
                }
                None => effects.push(Effect::Unlink { agent: *agent }),
            }
        }
    }

    /// Streams keep their sessions. The streams of a session that never came to be end.
    fn carry_streams(&self, loaded: &mut State, attached: &Attached, effects: &mut Vec<Effect>) {
        let mut ended = BTreeSet::new();
        for session in &attached.session_streams {
            if loaded.sessions.get(*session).is_some() {
                loaded.sessions.attach_stream(*session);
            } else if ended.insert(*session) {
                let id = self.sessions.get(*session).map(|session| session.id.clone());
                let id = id.unwrap_or_default();
                effects.push(Effect::Close { session: *session, id });
            }
        }
    }

    /// An answer that an assistant works on goes on. A turn that was over, and whose end could not be stored, must not be
    /// given away again as if nothing had happened: it fails, and may be asked for again.
    fn carry_turns(&self, loaded: &mut State) {
        let State {
            sessions,
            agents,
            timers,
            ..
        } = loaded;
        for before in self.sessions.iter() {
            let Some(session) = sessions.get_mut(before.key) else {
                continue;
            };
            session.order_turns(before);
            for turn in session.turns_mut() {
                let Some(known) = before.turn_of(turn.n) else {
                    turn.refused = Some("UNAVAILABLE: the end of the answer could not be stored".into());
                    continue;
                };
                turn.refused.clone_from(&known.refused);
                let Phase::Running { agent, until, .. } = known.phase else {
                    continue;
                };
                if known.step != turn.step || matches!(turn.phase, Phase::Calls) {
                    continue; // the step before it did not end after all, or the calls did not
                }
                turn.began = known.began;
                if agents.get(agent).is_some_and(|agent| agent.link.is_some()) {
                    turn.phase = known.phase.clone();
                    agents.turn_began(agent, before.key);
                    agents.waiting.remove(&before.key);
                    timers.set(until, Timer::Turn(before.key));
                } else if known.attempt > 1 || known.tool_ran {
                    turn.refused = Some(Arc::from(super::turn::ASSISTANT_LOST));
                } else {
                    turn.attempt = known.attempt + 1;
                }
            }
        }
    }
}
