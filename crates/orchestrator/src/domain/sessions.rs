//! All sessions in memory: those that are open, and closed ones that were used recently.

mod changes;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::event::About;
use super::session::Session;
use super::{Error, ids};

#[derive(Debug, Default)]
pub struct Sessions {
    by_key: BTreeMap<u64, Session>,
    /// Sessions that count against the limit.
    counted: HashSet<u64>,
    /// The sessions that are not closed, by creator.
    live: HashMap<Arc<str>, BTreeSet<u64>>,
}

/// Whose sessions a caller may see.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    All,
    Own(&'a str),
}

impl View<'_> {
    pub fn shows(self, session: &Session) -> bool {
        match self {
            View::All => true,
            View::Own(principal) => *session.creator == *principal,
        }
    }
}

impl Sessions {
    pub fn get(&self, key: u64) -> Option<&Session> {
        self.by_key.get(&key)
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut Session> {
        self.by_key.get_mut(&key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_key.values()
    }

    pub fn find(&self, id: &str) -> Option<&Session> {
        ids::number(id)
            .and_then(|key| self.by_key.get(&key))
            .filter(|session| *session.id == *id)
    }

    /// The session, if this caller may know of it.
    pub fn visible(&self, id: &str, view: View<'_>) -> Result<&Session, Error> {
        if id.is_empty() {
            return Err(Error::Required("session_id"));
        }
        let found = self.find(id).filter(|session| view.shows(session));
        found.ok_or_else(|| Error::SessionNotFound(id.into()))
    }

    /// Takes in a session from disk, or a new one.
    pub fn insert(&mut self, session: Session) {
        let key = session.key;
        self.by_key.insert(key, session);
        self.recount(key);
    }

    fn remove(&mut self, key: u64) -> Option<Session> {
        let session = self.by_key.remove(&key)?;
        self.counted.remove(&key);
        self.count_live(key, &session.creator, false);
        Some(session)
    }

    /// Drops a closed session from memory, where no stream is open on it. It can be read from disk again.
    pub fn unload(&mut self, key: u64) -> bool {
        let idle = |session: &Session| session.is_closed() && session.streams() == 0;
        self.by_key.get(&key).is_some_and(idle) && self.remove(key).is_some()
    }

    /// How many sessions count against the limit.
    pub fn counted(&self) -> usize {
        self.counted.len()
    }

    /// A stream stays with its session while the state is reloaded.
    pub(super) fn attach_stream(&mut self, key: u64) {
        if let Some(session) = self.by_key.get_mut(&key) {
            session.count_stream(true);
        }
        self.recount(key);
    }

    /// Brings the counts up to date with one session.
    fn recount(&mut self, key: u64) {
        let Some(session) = self.by_key.get(&key) else {
            return;
        };
        let (live, creator) = (!session.is_closed(), session.creator.clone());
        if session.counts() {
            self.counted.insert(key);
        } else {
            self.counted.remove(&key);
        }
        self.count_live(key, &creator, live);
    }

    fn count_live(&mut self, key: u64, creator: &Arc<str>, live: bool) {
        if live {
            self.live.entry(creator.clone()).or_default().insert(key);
        } else if let Some(keys) = self.live.get_mut(creator) {
            keys.remove(&key);
            if keys.is_empty() {
                self.live.remove(creator);
            }
        }
    }

    /// How many sessions of this creator are not closed.
    pub fn live_of(&self, creator: &str) -> usize {
        self.live.get(creator).map_or(0, BTreeSet::len)
    }

    /// How many sessions that are not closed there are.
    pub fn all_live(&self) -> usize {
        self.live.values().map(BTreeSet::len).sum()
    }

    /// Sessions that are not closed and that this caller may see, after a key, in the order of their making.
    pub fn live_after<'a>(&'a self, view: View<'a>, after: u64) -> Box<dyn Iterator<Item = &'a Session> + 'a> {
        let after = (Bound::Excluded(after), Bound::Unbounded);
        match view {
            View::All => Box::new(
                self.by_key
                    .range(after)
                    .map(|(_, session)| session)
                    .filter(|s| !s.is_closed()),
            ),
            View::Own(creator) => {
                let keys = self
                    .live
                    .get(creator)
                    .into_iter()
                    .flat_map(move |keys| keys.range(after));
                Box::new(keys.filter_map(|key| self.by_key.get(key)))
            }
        }
    }
}

/// What an event of this session says beside its data. Its labels were said when it was made, or given others.
pub fn about(session: &Session) -> About {
    About {
        session_id: session.id.as_ref().into(),
        user_id: session.metadata.owner_id.clone(),
        ..About::default()
    }
}

/// What there is to say of a session that went away while a call was on its way to it.
pub fn session_not_found(key: u64) -> Error {
    Error::SessionNotFound(format!("{key:016x}"))
}
