//! The table of open sessions.

use std::{collections::HashMap, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::domain::session::{Session, State};

#[derive(Debug, Default)]
pub(super) struct SessionTable {
    entries: HashMap<String, Entry>,
    /// Places taken by sessions that are being made.
    making: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub session: Session,
    /// Ends the session's streams.
    pub ended: CancellationToken,
    /// Held by whoever changes the session.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    /// The newest answer that the log of events tells of: two streams of one session tell of it once.
    pub told: u64,
    /// `used_at` is newer here than on disk.
    pub dirty: bool,
}

impl Entry {
    fn new(session: Session) -> Self {
        Entry {
            session,
            ended: CancellationToken::new(),
            turn: Arc::default(),
            told: 0,
            dirty: false,
        }
    }
}

impl SessionTable {
    /// Those that were never finished are handed back.
    pub fn of(sessions: Vec<Session>) -> (SessionTable, Vec<Session>) {
        let (unfinished, open): (Vec<_>, Vec<_>) = sessions
            .into_iter()
            .partition(|session| session.state == State::Initializing);
        let entries = open
            .into_iter()
            .map(|session| (session.id.clone(), Entry::new(session)))
            .collect();
        (SessionTable { entries, making: 0 }, unfinished)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Entry> {
        self.entries.get_mut(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.values_mut()
    }

    /// Takes a place for a session that is about to be made. False if there is none.
    pub fn reserve(&mut self, most: usize) -> bool {
        let free = self.entries.len() + self.making < most;
        self.making += usize::from(free);
        free
    }

    pub fn release(&mut self) {
        self.making = self.making.saturating_sub(1);
    }

    pub fn insert(&mut self, session: Session) {
        self.entries.insert(session.id.clone(), Entry::new(session));
    }

    /// Ends its streams too.
    pub fn remove(&mut self, id: &str) {
        if let Some(entry) = self.entries.remove(id) {
            entry.ended.cancel();
        }
    }

    pub fn due_at(&self) -> Option<i64> {
        self.entries.values().filter_map(|entry| entry.session.due_at()).min()
    }

    pub fn due(&self, now: i64) -> Vec<String> {
        let due = self
            .entries
            .values()
            .filter(|entry| entry.session.due_at().is_some_and(|at| at <= now));
        due.map(|entry| entry.session.id.clone()).collect()
    }

    pub fn of_orchestrator(&self, session: &str) -> Option<String> {
        let found = self
            .entries
            .values()
            .find(|entry| entry.session.orchestrator_session == session)?;
        Some(found.session.id.clone())
    }
}
