//! What memory knows of sessions beside their rules: the newest messages, which of them are on disk, the ids that clients
//! chose, and the transaction that a reader has to wait for.
//!
//! A session without an entry has nothing here: all its messages are on disk, and none is in memory. Entries follow the
//! facts of each decision ([`Cache::follow`]) and the commits ([`Cache::stored`]).

mod held;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nexus_proto::orchestrator::v1::Message;

use crate::domain::session::Session;
use crate::domain::sessions::Sessions;
use crate::domain::step::MessageOrigin;
use crate::domain::{Fact, State};

pub(crate) use held::Held;

/// Messages of one session, at most, and their bytes.
const SESSION_MESSAGES: usize = 64;
const SESSION_BYTES: usize = 64 << 10;
/// Bytes of the messages of all sessions together.
const ALL_BYTES: usize = 8 << 20;
/// Message ids chosen by clients that are remembered for a session, beside those that are not on disk yet.
pub(crate) const KNOWN_IDS: usize = 1024;
/// Closed sessions kept in memory.
const CLOSED_SESSIONS: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Cache {
    sessions: HashMap<u64, Entry>,
    bytes: usize,
    /// Session and number of the messages in memory, in the order of their arrival: the oldest is dropped first.
    arrivals: VecDeque<(u64, u64)>,
    /// Closed sessions in memory, in the order in which they were closed or read.
    closed: VecDeque<u64>,
    /// How many sessions ever left the memory: whoever read one from disk meanwhile may hold an outdated one.
    pub removals: u64,
}

#[derive(Debug, Default)]
struct Entry {
    /// Number of the newest message that is on disk.
    committed: u64,
    /// The newest messages, oldest first, without a hole up to the head of the session.
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    /// Ids chosen by clients, newest last, with the numbers of their messages.
    known: VecDeque<(Box<str>, u64)>,
    /// Every id that a client ever chose in the session is in `known`.
    knows_all: bool,
    /// How many ids were ever added to `known`.
    known_added: u64,
    /// How many turns ended since the entry was made.
    turns_over: u64,
    /// Number of the newest answer that was shown in pieces before it was whole.
    in_pieces: Option<u64>,
    /// The newest transaction that changed the session.
    version: u64,
}

impl Cache {
    /// Follows a fact that was just decided, in transaction `tx`.
    pub fn follow(&mut self, fact: &Fact, state: &mut State, tx: u64) {
        match fact {
            Fact::Message {
                session,
                n,
                message,
                origin,
            } => {
                let entry = self.sessions.entry(*session).or_insert_with(|| Entry {
                    committed: *n - 1,
                    knows_all: *n == 1,
                    ..Entry::default()
                });
                entry.version = tx;
                entry.committed = entry.committed.min(*n - 1);
                match origin {
                    MessageOrigin::Client { chose_id: true } => entry.remember(&message.id, *n),
                    MessageOrigin::Answer { in_pieces: true } => entry.in_pieces = Some(*n),
                    MessageOrigin::Client { .. } | MessageOrigin::Answer { .. } => {}
                }
                let before = entry.bytes;
                entry.push(message.clone());
                self.bytes = self.bytes + entry.bytes - before;
                self.arrivals.push_back((*session, *n));
                self.make_room();
            }
            Fact::Session(key) => {
                let Some(session) = state.sessions.get(*key) else {
                    return;
                };
                self.entry(session).version = tx;
                if session.is_closed() {
                    self.keep_closed(&mut state.sessions, *key);
                }
            }
            Fact::TurnEnded { session, .. } => {
                if let Some(session) = state.sessions.get(*session) {
                    self.entry(session).turns_over += 1;
                }
            }
            Fact::SessionGone { session, .. } => self.remove(*session),
            _ => {}
        }
    }

    /// Messages up to `n` are on disk.
    pub fn stored(&mut self, session: u64, n: u64) {
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.committed = entry.committed.max(n);
        }
    }

    /// A session was read from disk into memory.
    pub fn loaded(&mut self, sessions: &mut Sessions, key: u64) {
        if sessions.get(key).is_some_and(Session::is_closed) {
            self.keep_closed(sessions, key);
        }
    }

    pub fn of<'a>(&'a self, session: &'a Session) -> Held<'a> {
        Held::new(session, self.sessions.get(&session.key))
    }

    /// Number of the newest message of a session that is on disk; 0 for a session that is not in memory.
    pub fn committed(&self, state: &State, session: u64) -> u64 {
        let found = state.sessions.get(session);
        found.map_or(0, |session| self.of(session).committed())
    }

    /// A message that is in memory.
    pub fn message(&self, session: u64, n: u64) -> Option<&Arc<Message>> {
        self.sessions.get(&session).and_then(|entry| entry.message(n))
    }

    /// Takes in the ids that clients chose in a session, as they were read from disk; `None` for too many.
    pub fn remember_ids(&mut self, session: &Session, ids: Option<&[(String, u64)]>) {
        let entry = self.entry(session);
        for (id, n) in ids.unwrap_or_default() {
            entry.remember(id, *n);
        }
        // At least one was added, so that the ids of a session with too many are not read again for each message.
        entry.known_added = entry.known_added.max(1);
        entry.knows_all = ids.is_some();
    }

    /// After a failed group: what is in memory may never have come to be. Answers on disk stay known as shown in pieces.
    pub fn reload(&mut self, state: &State) {
        let before = std::mem::take(self);
        self.removals = before.removals + 1;
        for (key, entry) in before.sessions {
            let Some(session) = state.sessions.get(key) else {
                continue;
            };
            if let Some(n) = entry.in_pieces.filter(|n| *n <= session.head()) {
                self.entry(session).in_pieces = Some(n);
            }
        }
    }

    /// Bytes of all messages in memory.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The sum of the bytes of each session, which [`Cache::bytes`] has to be.
    #[cfg(test)]
    pub fn counted_bytes(&self) -> usize {
        self.sessions.values().map(|entry| entry.bytes).sum()
    }

    fn entry(&mut self, session: &Session) -> &mut Entry {
        let head = session.head();
        self.sessions.entry(session.key).or_insert_with(|| Entry {
            committed: head,
            knows_all: head == 0,
            ..Entry::default()
        })
    }

    fn remove(&mut self, session: u64) {
        self.removals += 1;
        if let Some(entry) = self.sessions.remove(&session) {
            self.bytes -= entry.bytes;
        }
    }

    fn keep_closed(&mut self, sessions: &mut Sessions, key: u64) {
        self.closed.push_back(key);
        for _ in CLOSED_SESSIONS..self.closed.len() {
            let Some(oldest) = self.closed.pop_front() else { break };
            if sessions.unload(oldest) {
                self.remove(oldest);
            } else if sessions.get(oldest).is_some_and(|session| session.streams() > 0) {
                // Its streams are ending: it leaves when they are gone.
                self.closed.push_back(oldest);
            }
        }
    }

    /// Drops the oldest messages that are on disk, where all messages together take too much.
    fn make_room(&mut self) {
        let mut looked = self.arrivals.len();
        while looked > 0 && (self.bytes > ALL_BYTES || self.arrivals.len() > 4 * (ALL_BYTES >> 8)) {
            looked -= 1;
            let Some((key, n)) = self.arrivals.pop_front() else {
                break;
            };
            let Some(entry) = self.sessions.get_mut(&key) else {
                continue;
            };
            if n > entry.committed {
                self.arrivals.push_back((key, n)); // nobody could read it from disk yet
            } else if entry.messages.front().is_some_and(|oldest| oldest.sequence <= n) {
                self.bytes -= entry.drop_oldest();
            }
        }
    }
}

impl Entry {
    fn push(&mut self, message: Arc<Message>) {
        self.bytes += weight(&message);
        self.messages.push_back(message);
        while self.messages.len() > SESSION_MESSAGES || (self.bytes > SESSION_BYTES && self.messages.len() > 1) {
            self.drop_oldest();
        }
    }

    /// Returns the bytes that are free now.
    fn drop_oldest(&mut self) -> usize {
        let freed = self.messages.pop_front().map_or(0, |oldest| weight(&oldest));
        self.bytes -= freed;
        freed
    }

    fn message(&self, n: u64) -> Option<&Arc<Message>> {
        let place = n.checked_sub(self.messages.front()?.sequence)?;
        self.messages.get(usize::try_from(place).ok()?)
    }

    fn remember(&mut self, id: &str, n: u64) {
        self.known_added += 1;
        self.known.push_back((id.into(), n));
        let committed = self.committed;
        while self.known.len() > KNOWN_IDS && self.known.front().is_some_and(|(_, n)| *n <= committed) {
            self.known.pop_front();
            self.knows_all = false;
        }
    }
}

fn weight(message: &Message) -> usize {
    let extra = message
        .metadata
        .as_ref()
        .map_or(0, |m| m.extra.iter().map(|(k, v)| k.len() + v.len() + 64).sum());
    message.content.len() + message.id.len() + extra + 160
}
