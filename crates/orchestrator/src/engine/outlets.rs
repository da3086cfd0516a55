//! The receivers of effects. Each has a file and a type of its own and is found by that type, so that a new one changes
//! no struct of the ledger.

use std::any::Any;
use std::fmt::Debug;

use super::cache::Cache;
use super::containers::ContainerWork;
use super::daemons::Registered;
use super::dispatch::Dispatch;
use super::links::Links;
use super::run_watch::RunWatchers;
use super::{Engine, Ledger};
use crate::domain::reload::Attached;
use crate::domain::{Effect, Error, State};

/// Something that receives effects, or is attached to the state.
pub(crate) trait Outlet: Any + Debug + Send {
    /// Adds what it has attached to the state.
    fn attached(&self, _to: &mut Attached) {}

    /// After a failed group the state was reloaded from disk: numbers that were given since may be given again.
    fn reloaded(&mut self, _state: &State, _cache: &Cache) {}
}

/// The outlets that are in use. There are few of them: a look at each is cheaper than a hash.
#[derive(Debug, Default)]
pub(crate) struct Outlets {
    all: Vec<Box<dyn Outlet>>,
}

impl Outlets {
    /// The outlet of this type, if it was used before.
    pub fn get<T: Outlet>(&self) -> Option<&T> {
        self.all
            .iter()
            .find_map(|outlet| (&**outlet as &dyn Any).downcast_ref())
    }

    /// The outlet of this type; it is made when it is used first.
    pub fn of<T: Outlet + Default>(&mut self) -> &mut T {
        let place = self.all.iter().position(|outlet| (&**outlet as &dyn Any).is::<T>());
        let place = place.unwrap_or_else(|| {
            self.all.push(Box::<T>::default());
            self.all.len() - 1
        });
        (&mut *self.all[place] as &mut dyn Any)
            .downcast_mut()
            .expect("it was found by its type")
    }

    /// What all of them have attached to the state.
    pub fn attached(&self) -> Attached {
        let mut attached = Attached::default();
        self.all.iter().for_each(|outlet| outlet.attached(&mut attached));
        attached
    }

    pub fn reloaded(&mut self, state: &State, cache: &Cache) {
        self.all.iter_mut().for_each(|outlet| outlet.reloaded(state, cache));
    }
}

/// Hands committed effects to their outlets, in the order of the log.
pub(super) fn follow(engine: &Engine, ledger: &mut Ledger, effects: Vec<Effect>) {
    for effect in effects {
        match effect {
            Effect::Stored { session, n } => ledger.show_stored(session, n),
            Effect::TurnEnded { session, n, error } => ledger.turn_ended(session, n, error),
            Effect::Close { session, id } => {
                ledger.close_streams(session, &id);
                ledger.outlets.of::<RunWatchers>().end_session(session);
            }
            Effect::Dispatch { session } => ledger.outlets.of::<Dispatch>().add(session),
            Effect::Offer {
                session,
                n,
                agent,
                request,
            } => engine.offer(ledger, session, n, agent, *request),
            Effect::Deliver { agent, message, mail } => engine.deliver(ledger, agent, *message, mail),
            Effect::Unlink { agent } => drop(ledger.outlets.of::<Links>().end(agent, Error::AgentNotFound)),
            Effect::Task { task, note } => ledger.tell_task(task, &note),
            Effect::HashFiles { call } => engine.hash_files(ledger, call),
            Effect::LookAtEdit { call } => engine.look_at_edit(ledger, call),
            Effect::Run { session, event } => ledger.tell_run(session, &event),
            Effect::Daemons => ledger.outlets.of::<Registered>().changed(),
            Effect::Containers => ledger.outlets.of::<ContainerWork>().changed(),
            Effect::SessionGone { id } => ledger.outlets.of::<ContainerWork>().session_gone(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct One(u64);
    #[derive(Debug, Default)]
    struct Other(u64);
    impl Outlet for One {}
    impl Outlet for Other {}

    #[test]
    fn an_outlet_is_found_by_its_type() {
        let mut outlets = Outlets::default();
        assert!(outlets.get::<One>().is_none());
        outlets.of::<One>().0 = 1;
        outlets.of::<Other>().0 = 2;
        outlets.of::<One>().0 += 10;
        assert_eq!((outlets.of::<One>().0, outlets.get::<Other>().unwrap().0), (11, 2));
        assert_eq!(outlets.all.len(), 2);
    }
}
