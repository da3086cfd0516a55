//! The queue of turns: which one runs, which one waits, and which one is refused.
//!
//! ```text
//!            offer                 a place is free
//!   ──────────────▶ waiting ──────────────────────▶ active ── ended ──▶ gone
//!                     │ cancel                        │ cancel
//!                     ▼                               ▼
//!                    gone                    active, told to stop ── ended ──▶ gone
//! ```
//!
//! A turn keeps its place until it has really ended; so there are never more running than allowed, cancelled ones
//! included.

use std::collections::{BTreeSet, VecDeque};

/// A turn's name: the correlation id that the orchestrator gave it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TurnId(pub String);

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub active: usize,
    pub waiting: usize,
}

#[derive(Debug)]
pub enum Command<T> {
    Offer(TurnId, T),
    Cancel(TurnId),
    Ended(TurnId),
}

/// What the caller has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    Start(TurnId, T),
    Stop(TurnId),
    /// It was waiting, and is removed.
    Dropped(TurnId),
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("queue limit reached: {waiting} turns are waiting")]
    Full { waiting: usize },
    #[error("the turn is already queued or running")]
    Known,
    #[error("no such turn")]
    Unknown,
}

#[derive(Debug)]
pub struct TurnQueue<T> {
    limits: Limits,
    active: BTreeSet<TurnId>,
    waiting: VecDeque<(TurnId, T)>,
}

impl<T> TurnQueue<T> {
    pub fn new(limits: Limits) -> Self {
        TurnQueue {
            limits,
            active: BTreeSet::new(),
            waiting: VecDeque::new(),
        }
    }

    pub fn step(&mut self, command: Command<T>) -> Result<Outcome<T>, Error> {
        match command {
            Command::Offer(id, work) => self.offer(id, work),
            Command::Cancel(id) => self.cancel(id),
            Command::Ended(id) => {
                if !self.active.remove(&id) {
                    return Err(Error::Unknown);
                }
                Ok(match self.waiting.pop_front() {
                    Some((next, work)) => self.start(next, work),
                    None => Outcome::Nothing,
                })
            }
        }
    }

    pub fn active(&self) -> impl Iterator<Item = &TurnId> {
        self.active.iter()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn offer(&mut self, id: TurnId, work: T) -> Result<Outcome<T>, Error> {
        if self.active.contains(&id) || self.waiting.iter().any(|(known, _)| *known == id) {
            return Err(Error::Known);
        }
        if self.active.len() < self.limits.active {
            return Ok(self.start(id, work));
        }
        if self.waiting.len() >= self.limits.waiting {
            return Err(Error::Full {
                waiting: self.waiting.len(),
            });
        }
        self.waiting.push_back((id, work));
        Ok(Outcome::Nothing)
    }

    fn cancel(&mut self, id: TurnId) -> Result<Outcome<T>, Error> {
        if self.active.contains(&id) {
            return Ok(Outcome::Stop(id));
        }
        let at = self.waiting.iter().position(|(known, _)| *known == id);
        match at.and_then(|at| self.waiting.remove(at)) {
            Some(_) => Ok(Outcome::Dropped(id)),
            None => Err(Error::Unknown),
        }
    }

    fn start(&mut self, id: TurnId, work: T) -> Outcome<T> {
        self.active.insert(id.clone());
        Outcome::Start(id, work)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> TurnId {
        TurnId(n.to_string())
    }

    fn queue() -> TurnQueue<u8> {
        TurnQueue::new(Limits { active: 1, waiting: 1 })
    }

    #[test]
    fn the_next_begins_when_a_place_is_free() {
        let mut queue = queue();
        assert_eq!(queue.step(Command::Offer(id(1), 1)), Ok(Outcome::Start(id(1), 1)));
        assert_eq!(queue.step(Command::Offer(id(2), 2)), Ok(Outcome::Nothing));
        assert_eq!(queue.step(Command::Offer(id(3), 3)), Err(Error::Full { waiting: 1 }));
        assert_eq!(queue.step(Command::Ended(id(1))), Ok(Outcome::Start(id(2), 2)));
    }

    #[test]
    fn a_cancelled_turn_holds_its_place_until_it_has_ended() {
        let mut queue = queue();
        queue.step(Command::Offer(id(1), 1)).unwrap();
        assert_eq!(queue.step(Command::Cancel(id(1))), Ok(Outcome::Stop(id(1))));
        assert_eq!(queue.step(Command::Offer(id(2), 2)), Ok(Outcome::Nothing));
        assert_eq!(queue.step(Command::Cancel(id(2))), Ok(Outcome::Dropped(id(2))));
        assert_eq!(queue.step(Command::Ended(id(1))), Ok(Outcome::Nothing));
    }

    #[test]
    fn an_offer_heard_twice_is_one_turn() {
        let mut queue = queue();
        queue.step(Command::Offer(id(1), 1)).unwrap();
        assert_eq!(queue.step(Command::Offer(id(1), 1)), Err(Error::Known));
    }

    #[derive(Clone, Debug)]
    enum Move {
        Offer(u8),
        Cancel(u8),
        EndOldest,
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            4 => (0..20_u8).prop_map(Move::Offer),
            2 => (0..20_u8).prop_map(Move::Cancel),
            3 => Just(Move::EndOldest)
        ];
        prop::collection::vec(one, 0..200)
    }

    proptest! {
        /// A model beside it: what waits begins in order of offer, never more run than may, and no turn that was
        /// accepted is forgotten.
        #[test]
        fn no_turn_is_lost_and_no_limit_is_passed(moves in moves(), active in 1..4_usize, waiting in 0..4_usize) {
            let mut queue = TurnQueue::new(Limits { active, waiting });
            let mut running: Vec<TurnId> = Vec::new();
            let mut queued: Vec<TurnId> = Vec::new();
            let mut begun: BTreeMap<TurnId, usize> = BTreeMap::new();
            for one in moves {
                match one {
                    Move::Offer(n) => match queue.step(Command::Offer(id(n), n)) {
                        Ok(Outcome::Start(turn, work)) => {
                            prop_assert_eq!((&turn, work), (&id(n), n));
                            prop_assert!(queued.is_empty());
                            *begun.entry(turn.clone()).or_default() += 1;
                            running.push(turn);
                        }
                        Ok(Outcome::Nothing) => queued.push(id(n)),
                        Err(Error::Known) => prop_assert!(running.contains(&id(n)) || queued.contains(&id(n))),
                        Err(Error::Full { .. }) => prop_assert_eq!((running.len(), queued.len()), (active, waiting)),
                        other => prop_assert!(false, "{other:?}"),
                    },
                    Move::Cancel(n) => match queue.step(Command::Cancel(id(n))) {
                        Ok(Outcome::Stop(turn)) => prop_assert!(running.contains(&turn)),
                        Ok(Outcome::Dropped(turn)) => {
                            prop_assert!(queued.contains(&turn));
                            queued.retain(|known| *known != turn);
                        }
                        Err(Error::Unknown) => prop_assert!(!running.contains(&id(n)) && !queued.contains(&id(n))),
                        other => prop_assert!(false, "{other:?}"),
                    },
                    Move::EndOldest if running.is_empty() => {}
                    Move::EndOldest => match queue.step(Command::Ended(running.remove(0))) {
                        Ok(Outcome::Start(turn, _)) => {
                            prop_assert_eq!(&turn, &queued.remove(0));
                            running.push(turn);
                        }
                        Ok(Outcome::Nothing) => prop_assert!(queued.is_empty()),
                        other => prop_assert!(false, "{other:?}"),
                    },
                }
                prop_assert!(running.len() <= active && queued.len() <= waiting);
                prop_assert_eq!(queue.active().count(), running.len());
                prop_assert_eq!(queue.waiting(), queued.len());
            }
        }
    }
}
