//! What memory knows of one session.

use std::sync::Arc;

use nexus_proto::orchestrator::v1::Message;

use super::Entry;
use crate::domain::session::Session;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Held<'a> {
    session: &'a Session,
    entry: Option<&'a Entry>,
}

impl<'a> Held<'a> {
    pub(super) fn new(session: &'a Session, entry: Option<&'a Entry>) -> Self {
        Held { session, entry }
    }

    /// Number of the newest message that is on disk.
    pub fn committed(self) -> u64 {
        self.entry.map_or(self.session.head(), |entry| entry.committed)
    }

    /// Number of the oldest message in memory; `head + 1` if there is none.
    pub fn start(self) -> u64 {
        let oldest = self.entry.and_then(|entry| entry.messages.front());
        oldest.map_or(self.session.head() + 1, |oldest| oldest.sequence)
    }

    pub fn message(self, n: u64) -> Option<&'a Arc<Message>> {
        self.entry?.message(n)
    }

    /// The transaction that a reader of the session waits for.
    pub fn version(self) -> u64 {
        self.entry.map_or(0, |entry| entry.version)
    }

    /// Number of the message for which a client chose this id.
    pub fn known(self, id: &str) -> Option<u64> {
        let mut known = self.entry?.known.iter().rev();
        known.find(|(known, _)| **known == *id).map(|(_, n)| *n)
    }

    /// Whether every id that clients chose is in memory.
    pub fn knows_all_ids(self) -> bool {
        self.entry.map_or(self.session.head() == 0, |entry| entry.knows_all)
    }

    /// How many ids that clients chose were ever added to memory.
    pub fn ids_added(self) -> u64 {
        self.entry.map_or(0, |entry| entry.known_added)
    }

    /// Rises with each turn that ends.
    pub fn turns_over(self) -> u64 {
        self.entry.map_or(0, |entry| entry.turns_over)
    }

    /// Whether this message is an answer that was shown in pieces before.
    pub fn in_pieces(self, n: u64) -> bool {
        self.entry.is_some_and(|entry| entry.in_pieces == Some(n))
    }
}
