//! Open StreamMessages: each holds a cursor, not a queue of messages.
//!
//! A stream takes messages after its cursor from memory or from disk, and of the running answer whatever is new since it
//! last looked. So a slow reader gets bigger pieces, never fewer bytes, and costs nothing while it does not read. Only
//! what is in no log (heartbeats, acknowledgements, errors) is queued, within a bound; a stream that lets that overflow
//! is ended and told so.

mod calls;
mod show;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use nexus_proto::orchestrator::v1::{Event, StreamMessageResponse, stream_message_response::Payload};
use tokio::sync::Notify;

use super::Ledger;
use super::cache::Cache;
use super::outlets::Outlet;
use crate::domain::reload::Attached;
use crate::domain::sessions::session_not_found;
use crate::domain::{Error, State};

/// Frames that may wait for a stream which does not read.
const QUEUED: usize = 1024;
/// Messages that a stream may have sent beyond what it has read.
const UNREAD: usize = 64 << 10;

/// Streams whose tables are not worth to be made smaller.
const FEW: usize = 1024;

pub type StreamId = u64;

#[derive(Debug, Default)]
pub(crate) struct Streams {
    last: StreamId,
    open: HashMap<StreamId, Stream>,
    /// A set: of 20,000 streams of one session each leaves without a look at all others.
    of_session: HashMap<u64, BTreeSet<StreamId>>,
}

#[derive(Debug)]
struct Stream {
    /// Wakes the one task that delivers.
    more: Arc<Notify>,
    session: Option<u64>,
    /// Messages up to this number were delivered, or are of no interest.
    cursor: u64,
    /// Messages up to this number are history: they are shown as they are, whoever sent them.
    history: u64,
    /// The answer whose pieces it gets, its attempt and how often that was started over, and how many bytes it has.
    answer: Option<(Arc<str>, u32, u32)>,
    at: usize,
    /// Frames that are in no log, each after the message that it follows.
    queue: VecDeque<(u64, Payload)>,
    /// Messages after the cursor that came from this stream: they are not shown to it.
    own: BTreeSet<u64>,
    /// USER messages of this stream whose turns are not over.
    owed: HashSet<u64>,
    /// The client sends no more: the stream ends when nothing is owed.
    half_closed: bool,
    end: Option<Result<(), Error>>,
}

/// A stream that was just opened.
#[derive(Debug)]
pub struct Opened {
    pub id: StreamId,
    pub more: Arc<Notify>,
}

/// How a stream joins its session.
#[derive(Clone, Copy, Debug)]
pub struct Joined {
    /// Messages after this; absent: from now on.
    pub after: Option<u64>,
}

/// What a look at a stream found.
#[derive(Debug)]
pub enum Pull {
    Frames(Vec<StreamMessageResponse>),
    /// Older messages have to be read from disk: after the first number and before the second.
    Read {
        session: u64,
        after: u64,
        before: u64,
    },
    Wait,
    End(Result<(), Error>),
}

impl Streams {
    pub fn open(&mut self) -> Opened {
        self.last += 1;
        let more = Arc::new(Notify::new());
        self.open.insert(
            self.last,
            Stream {
                more: more.clone(),
                session: None,
                cursor: 0,
                history: 0,
                answer: None,
                at: 0,
                queue: VecDeque::new(),
                own: BTreeSet::new(),
                owed: HashSet::new(),
                half_closed: false,
                end: None,
            },
        );
        Opened { id: self.last, more }
    }

    /// After very many streams have gone, so does the memory of the tables that they were in.
    fn give_back(&mut self) {
        if self.open.capacity() > FEW && self.open.len() < self.open.capacity() / 8 {
            self.open.shrink_to(2 * self.open.len());
            self.of_session.shrink_to(2 * self.of_session.len());
        }
    }

    pub fn wake(&self, session: u64) {
        for id in self.of_session.get(&session).into_iter().flatten() {
            if let Some(stream) = self.open.get(id) {
                stream.more.notify_one();
            }
        }
    }

    /// Queues a frame that is in no log.
    fn push(&mut self, id: StreamId, after: u64, payload: Payload) {
        let Some(stream) = self.open.get_mut(&id).filter(|stream| stream.end.is_none()) else {
            return;
        };
        if stream.queue.len() >= QUEUED {
            stream.queue.clear();
            stream.end = Some(Err(Error::TooSlow(QUEUED)));
        } else {
            stream.queue.push_back((after, payload));
        }
        stream.more.notify_one();
    }

    /// A message came from this stream.
    pub fn sent(&mut self, id: StreamId, n: u64, asks: bool) {
        let Some(stream) = self.open.get_mut(&id) else { return };
        stream.own.insert(n);
        if asks {
            stream.owed.insert(n);
        }
        if stream.own.len() > UNREAD {
            stream.end.get_or_insert(Err(Error::TooSlow(UNREAD)));
            stream.more.notify_one();
        }
    }

    /// This stream waits for the answer to its message.
    pub fn owes(&mut self, id: StreamId, n: u64) {
        if let Some(stream) = self.open.get_mut(&id) {
            stream.owed.insert(n);
        }
    }

    pub fn session_of(&self, id: StreamId) -> Option<u64> {
        self.open.get(&id).and_then(|stream| stream.session)
    }
}

impl Outlet for Streams {
    fn attached(&self, to: &mut Attached) {
        let sessions = self.open.values().filter_map(|stream| stream.session);
        to.session_streams.extend(sessions);
    }

    /// Messages beyond what is on disk were not stored, and their numbers go to others.
    fn reloaded(&mut self, state: &State, cache: &Cache) {
        for stream in self.open.values_mut() {
            let committed = stream.session.map_or(0, |session| cache.committed(state, session));
            stream.own.split_off(&(committed + 1));
            stream.owed.retain(|n| *n <= committed);
            stream.more.notify_one();
        }
    }
}

impl Ledger {
    /// Messages up to `n` are on disk: readers of the session may have them.
    pub fn show_stored(&mut self, session: u64, n: u64) {
        self.cache.stored(session, n);
        self.outlets.of::<Streams>().wake(session);
    }

    /// Joins a stream to a session, where that may have one more.
    pub fn join(&mut self, id: StreamId, key: u64, joined: Joined) -> Result<(), Error> {
        let session = self.state.sessions.get(key).ok_or_else(|| session_not_found(key))?;
        if session.is_closed() {
            return Err(Error::SessionNotActive {
                id: session.id.to_string(),
                state: session.state_name(),
            });
        }
        let head = self.cache.of(session).committed();
        if let Some(after) = joined.after.filter(|after| *after > head) {
            return Err(Error::OutOfRange(format!(
                "after_sequence {after} is beyond the newest message, {head}"
            )));
        }
        self.state.count_stream(key, true)?;
        let streams = self.outlets.of::<Streams>();
        let Some(stream) = streams.open.get_mut(&id) else {
            return Ok(());
        };
        stream.session = Some(key);
        stream.cursor = joined.after.unwrap_or(head);
        stream.history = if joined.after.is_some() { head } else { 0 };
        stream.more.notify_one();
        streams.of_session.entry(key).or_default().insert(id);
        Ok(())
    }

    pub fn leave(&mut self, id: StreamId) {
        let streams = self.outlets.of::<Streams>();
        let Some(stream) = streams.open.remove(&id) else {
            return;
        };
        streams.give_back();
        let Some(key) = stream.session else { return };
        if let Some(of) = streams.of_session.get_mut(&key) {
            of.remove(&id);
            if of.is_empty() {
                streams.of_session.remove(&key);
            }
        }
        let counted = self.state.count_stream(key, false);
        debug_assert!(counted.is_ok(), "one stream less is never refused");
    }

    pub fn close_streams(&mut self, key: u64, id: &str) {
        let streams = self.outlets.of::<Streams>();
        for stream in streams.of_session.get(&key).into_iter().flatten() {
            if let Some(stream) = streams.open.get_mut(stream) {
                stream.end.get_or_insert(Err(Error::SessionNotActive {
                    id: id.into(),
                    state: "closed",
                }));
                stream.more.notify_one();
            }
        }
    }

    /// Shows the error of a turn to every stream of its session, and frees whoever waited for the answer.
    pub fn turn_ended(&mut self, key: u64, n: u64, error: Option<Event>) {
        let after = self.cache.committed(&self.state, key);
        let streams = self.outlets.of::<Streams>();
        for id in streams.of_session.get(&key).cloned().unwrap_or_default() {
            if let Some(stream) = streams.open.get_mut(&id) {
                stream.owed.remove(&n);
                stream.more.notify_one();
            }
            if let Some(error) = &error {
                streams.push(id, after, Payload::Event(error.clone()));
            }
        }
    }
}
