//! Decides, in the order of the log. The ledger holds the state and knows its epoch and the newest transaction; whoever
//! receives effects is an outlet, which it holds without knowing it.

use std::sync::Arc;

use nexus_store::{Permit, Transaction};
use tokio::sync::oneshot;

use super::cache::Cache;
use super::group::EventSession;
use super::outlets::Outlets;
use super::publish::{Draft, Pending};
use super::timers::Alarm;
use super::{random, wall};
use crate::domain::ids::Ids;
use crate::domain::{Effect, Error, Fact, State, Step, Time};
use crate::store::{Answer, Changes};

/// What one lock guards.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub state: State,
    pub cache: Cache,
    pub outlets: Outlets,
    pub alarm: Alarm,
    /// Number of the newest transaction that was queued.
    pub tx: u64,
    /// Rises when the state is reloaded from disk.
    pub epoch: u64,
    ids: Ids,
    last_time: Time,
}

/// What a decision may touch: the state, and what has to be seen together with it.
pub(crate) struct Parts<'a> {
    pub state: &'a mut State,
    pub cache: &'a Cache,
    pub outlets: &'a mut Outlets,
    /// Rises when the state is reloaded from disk: what was looked up before may no longer hold.
    pub epoch: u64,
}

/// The outcome of a change, once it is on disk or undone.
pub(super) type Outcome = oneshot::Receiver<Result<(), Error>>;

/// What follows a decision.
pub(super) enum Next {
    /// It changes nothing on disk, and nothing before it is under way: its effects run now.
    Run(Vec<Effect>),
    Wait(Outcome),
}

impl Ledger {
    pub fn new(state: State, last_key: u64, now: Time) -> Self {
        Ledger {
            state,
            cache: Cache::default(),
            outlets: Outlets::default(),
            alarm: Alarm::default(),
            tx: 0,
            epoch: 1,
            ids: Ids::new(last_key, random::number),
            last_time: now,
        }
    }

    /// The wall clock, never falling.
    pub fn now(&mut self) -> Time {
        self.last_time = self.last_time.max(wall());
        self.last_time
    }

    /// Decides a change, and queues it with `beside`, one more change on disk that is made of the answer. Transactions up
    /// to `committed` are on disk.
    pub(super) fn decide<R>(
        &mut self,
        permit: Permit<'_, Pending>,
        committed: u64,
        decide: impl FnOnce(&mut Parts<'_>, &mut Step<'_>) -> Result<R, Error>,
        beside: impl FnOnce(&R) -> Option<Answer>,
    ) -> Result<(R, Next), Error> {
        let now = self.now();
        let mut step = Step::new(now, &mut self.ids);
        let mut parts = Parts {
            state: &mut self.state,
            cache: &self.cache,
            outlets: &mut self.outlets,
            epoch: self.epoch,
        };
        let answer = decide(&mut parts, &mut step)?;
        let Step {
            facts, effects, grows, ..
        } = step;
        let mut changes = Changes::with_capacity(facts.len());
        for fact in &facts {
            changes.fact(fact, &self.state, now);
        }
        if let Some(answer) = beside(&answer) {
            changes.keep(&answer);
        }
        // What follows from changes that are not on disk yet waits for them, even if it changes nothing itself.
        let follows = !effects.is_empty() && committed < self.tx;
        if changes.is_empty() && !follows {
            self.alarm.check(&self.state);
            return Ok((answer, Next::Run(effects)));
        }
        self.tx += 1;
        let drafts = facts.into_iter().filter_map(|fact| self.draft(now, fact)).collect();
        let (transaction, outcome) = self.transaction(changes, grows, drafts, effects);
        permit.send(transaction);
        self.alarm.check(&self.state);
        Ok((answer, Next::Wait(outcome)))
    }

    /// Queues changes that touch nothing in memory.
    pub(super) fn append(&mut self, permit: Permit<'_, Pending>, changes: Changes) -> Outcome {
        self.tx += 1;
        let (transaction, outcome) = self.transaction(changes, false, Vec::new(), Vec::new());
        permit.send(transaction);
        outcome
    }

    fn transaction(
        &self,
        changes: Changes,
        grows: bool,
        drafts: Vec<Draft>,
        effects: Vec<Effect>,
    ) -> (Transaction<Pending>, Outcome) {
        let (tell, outcome) = oneshot::channel();
        let receipt = Pending {
            tx: self.tx,
            epoch: self.epoch,
            drafts,
            first: 0,
            effects,
            tell: Some(tell),
        };
        (changes.into_transaction(self.epoch, grows, receipt), outcome)
    }

    /// The event that a fact is, if it is one, with what is needed to show it.
    fn draft(&mut self, time: Time, fact: Fact) -> Option<Draft> {
        self.cache.follow(&fact, &mut self.state, self.tx);
        match fact {
            Fact::Message { session, message, .. } => {
                let found = self.state.sessions.get(session);
                let found = found.expect("a message is decided with its session");
                let of = EventSession {
                    session,
                    creator: found.creator.clone(),
                    metadata: found.metadata.clone(),
                };
                let id = found.id.clone();
                Some(Draft::Message { id, of, message, time })
            }
            Fact::Event { session, event } => {
                let found = self.state.sessions.get(session);
                let (creator, metadata) = found.map_or_else(
                    || ("".into(), Arc::default()),
                    |session| (session.creator.clone(), session.metadata.clone()),
                );
                let of = EventSession {
                    session,
                    creator,
                    metadata,
                };
                let event = Box::new(event);
                Some(Draft::Event { of, event })
            }
            _ => None,
        }
    }
}
