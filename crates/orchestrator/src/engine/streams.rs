//! Open StreamMessages: each holds a cursor, not a queue of messages.
//!
//! A stream takes messages after its cursor from memory or from disk, and of the running answer whatever is new since it
//! last looked. So a slow reader gets bigger pieces, never fewer bytes, and costs nothing while it does not read. Only
//! what is in no log (heartbeats, acknowledgements, errors) is queued, within a bound; a stream that lets that overflow
//! is ended and told so.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use nexus_proto::orchestrator::v1::{
    Event, EventType, Message, MessageRole, StreamMessageResponse, stream_message_response::Payload,
};
use tokio::sync::Notify;

use super::{Core, Engine};
use crate::domain::session::{Session, Stored};
use crate::domain::turn::Phase;
use crate::domain::{Error, event};

/// Frames that may wait for a stream which does not read.
const QUEUED: usize = 1024;

pub type StreamId = u64;

#[derive(Debug, Default)]
pub(crate) struct Streams {
    last: StreamId,
    open: HashMap<StreamId, Stream>,
    of_session: HashMap<u64, Vec<StreamId>>,
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
    /// The answer whose pieces it gets, its attempt, and how many bytes it has.
    answer: Option<(Arc<str>, u32)>,
    at: usize,
    /// Frames that are in no log, each after the message that it follows.
    queue: VecDeque<(u64, Payload)>,
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
    Read { session: u64, after: u64, before: u64 },
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
                owed: HashSet::new(),
                half_closed: false,
                end: None,
            },
        );
        Opened { id: self.last, more }
    }

    /// The sessions of all open streams, one for each stream.
    pub fn sessions(&self) -> Vec<u64> {
        self.open.values().filter_map(|stream| stream.session).collect()
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
        let Some(stream) = self.open.get_mut(&id).filter(|stream| stream.end.is_none()) else { return };
        if stream.queue.len() >= QUEUED {
            stream.queue.clear();
            stream.end = Some(Err(Error::TooSlow(QUEUED)));
        } else {
            stream.queue.push_back((after, payload));
        }
        stream.more.notify_one();
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

impl Core {
    /// Joins a stream to a session, where that may have one more.
    pub fn join(&mut self, id: StreamId, key: u64, joined: Joined) -> Result<(), Error> {
        let session = self.state.sessions.get(key).expect("the caller looked it up");
        if session.is_closed() {
            return Err(Error::SessionNotActive { id: session.id.to_string(), state: session.state_name() });
        }
        let head = session.committed;
        if let Some(after) = joined.after.filter(|after| *after > session.head) {
            return Err(Error::OutOfRange(format!("after_sequence {after} is beyond the newest message, {head}")));
        }
        self.state.count_stream(key, true)?;
        let Some(stream) = self.streams.open.get_mut(&id) else { return Ok(()) };
        stream.session = Some(key);
        stream.cursor = joined.after.unwrap_or(head);
        stream.history = if joined.after.is_some() { head } else { 0 };
        stream.more.notify_one();
        self.streams.of_session.entry(key).or_default().push(id);
        Ok(())
    }

    pub fn leave(&mut self, id: StreamId) {
        let Some(stream) = self.streams.open.remove(&id) else { return };
        let Some(key) = stream.session else { return };
        if let Some(of) = self.streams.of_session.get_mut(&key) {
            of.retain(|other| *other != id);
            if of.is_empty() {
                self.streams.of_session.remove(&key);
            }
        }
        let counted = self.state.count_stream(key, false);
        debug_assert!(counted.is_ok(), "one stream less is never refused");
    }

    pub fn close_streams(&mut self, key: u64) {
        let id = self.state.sessions.get(key).map(|session| session.id.to_string()).unwrap_or_default();
        for stream in self.streams.of_session.get(&key).into_iter().flatten() {
            if let Some(stream) = self.streams.open.get_mut(stream) {
                stream.end.get_or_insert(Err(Error::SessionNotActive { id: id.clone(), state: "closed" }));
                stream.more.notify_one();
            }
        }
    }

    /// Shows the error of a turn to every stream of its session, and frees whoever waited for the answer.
    pub fn turn_over(&mut self, key: u64, n: u64, error: Option<Event>) {
        let after = self.state.sessions.get(key).map_or(0, |session| session.committed);
        for id in self.streams.of_session.get(&key).cloned().unwrap_or_default() {
            if let Some(stream) = self.streams.open.get_mut(&id) {
                stream.owed.remove(&n);
                stream.more.notify_one();
            }
            if let Some(error) = &error {
                self.streams.push(id, after, Payload::Event(error.clone()));
            }
        }
    }

    /// What a stream should be sent next.
    pub fn pull(&mut self, id: StreamId, most: usize) -> Pull {
        let Some(stream) = self.streams.open.get_mut(&id) else { return Pull::End(Ok(())) };
        let session = stream.session.and_then(|key| self.state.sessions.get(key));
        let committed = session.map_or(0, |session| session.committed);
        let mut frames = Vec::new();
        while frames.len() < most {
            if stream.queue.front().is_some_and(|(after, _)| *after <= stream.cursor || session.is_none()) {
                let (_, payload) = stream.queue.pop_front().expect("it was just seen");
                frames.push(StreamMessageResponse { payload: Some(payload) });
            } else if let Some(session) = session.filter(|_| stream.cursor < committed) {
                let Some(stored) = session.in_tail(stream.cursor + 1) else {
                    if !frames.is_empty() {
                        break;
                    }
                    let before = session.tail_start().min(committed + 1);
                    return Pull::Read { session: session.key, after: stream.cursor, before };
                };
                stream.show(id, session, stored, &mut frames);
            } else {
                break;
            }
        }
        if let Some(session) = session.filter(|_| stream.cursor == committed) {
            stream.new_pieces(session, &mut frames);
        }
        if !frames.is_empty() {
            return Pull::Frames(frames);
        }
        if let Some(end) = stream.end.take() {
            return Pull::End(end);
        }
        if stream.half_closed && stream.owed.is_empty() && stream.cursor >= committed {
            return Pull::End(Ok(()));
        }
        Pull::Wait
    }

    /// Delivers messages that were read from disk.
    pub fn pull_read(&mut self, id: StreamId, read: Vec<Message>) -> Vec<StreamMessageResponse> {
        let mut frames = Vec::new();
        let Some(stream) = self.streams.open.get_mut(&id) else { return frames };
        let Some(session) = stream.session.and_then(|key| self.state.sessions.get(key)) else { return frames };
        for message in read {
            if message.sequence == stream.cursor + 1 {
                let stored = Stored { message: Arc::new(message), origin: 0 };
                stream.show(id, session, &stored, &mut frames);
            }
        }
        frames
    }
}

impl Stream {
    /// Shows a message in the form that suits this stream, and moves its cursor.
    fn show(&mut self, id: StreamId, session: &Session, stored: &Stored, frames: &mut Vec<StreamMessageResponse>) {
        let message = &stored.message;
        self.cursor = message.sequence;
        if stored.origin == id {
            return;
        }
        let history = message.sequence <= self.history;
        if message.role == i32::from(MessageRole::User) && !history {
            frames.push(frame(Payload::Event(users_words(session, message))));
            return;
        }
        let in_pieces = session.streamed.as_deref() == Some(&message.id) && !history;
        if in_pieces {
            if self.answer.as_ref().is_none_or(|(answer, _)| **answer != message.id) {
                self.at = 0;
            }
            if self.at < message.content.len() && message.content.is_char_boundary(self.at) {
                let asked = message.metadata.as_ref().and_then(|m| m.extra.get("in_reply_to")).map_or("", String::as_str);
                let rest = &message.content[self.at..];
                frames.push(frame(Payload::Event(piece(session, &message.id, asked, self.at, rest))));
            }
            self.answer = None;
        }
        frames.push(frame(Payload::Message(Message::clone(message))));
    }

    /// Of the running answer, what this stream does not have yet.
    fn new_pieces(&mut self, session: &Session, frames: &mut Vec<StreamMessageResponse>) {
        let Some(turn) = session.turns.front() else { return };
        let Phase::Running { text, .. } = &turn.phase else { return };
        let same = self.answer.as_ref().is_some_and(|(id, attempt)| *id == turn.answer_id && *attempt == turn.attempt);
        if !same || text.len() < self.at {
            self.answer = Some((turn.answer_id.clone(), turn.attempt));
            self.at = 0;
        }
        if text.len() > self.at {
            let piece = piece(session, &turn.answer_id, &turn.message_id, self.at, &text[self.at..]);
            frames.push(frame(Payload::Event(piece)));
            self.at = text.len();
        }
    }
}

fn frame(payload: Payload) -> StreamMessageResponse {
    StreamMessageResponse { payload: Some(payload) }
}

fn ephemeral(session: &Session, data: &[(&str, &str)]) -> Event {
    Event {
        r#type: EventType::IpcMessage.into(),
        source: event::SYSTEM.into(),
        timestamp: Some(event::timestamp(super::wall())),
        data: data.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        metadata: Some(nexus_proto::orchestrator::v1::EventMetadata {
            session_id: session.id.to_string(),
            ..Default::default()
        }),
        name: "ipc.message".into(),
        ..Event::default()
    }
}

fn piece(session: &Session, message_id: &str, in_reply_to: &str, index: usize, delta: &str) -> Event {
    let index = index.to_string();
    let data = [("delta", delta), ("message_id", message_id), ("index", &index), ("in_reply_to", in_reply_to)];
    ephemeral(session, &data)
}

/// Another's words: an event, since old clients would show any message as the assistant's.
fn users_words(session: &Session, message: &Message) -> Event {
    ephemeral(session, &[("role", "user"), ("message_id", &message.id), ("content", &message.content)])
}

impl Engine {
    pub fn open_stream(&self) -> Opened {
        self.look_mut(|core| core.streams.open())
    }

    pub fn leave_stream(&self, id: StreamId) {
        self.look_mut(|core| core.leave(id));
    }

    /// Answers a heartbeat, to its sender only.
    pub fn stream_heartbeat(&self, id: StreamId) {
        self.look_mut(|core| {
            let after = core.stream_head(id);
            core.streams.push(id, after, Payload::Heartbeat(()));
        });
    }

    /// Tells one stream that its message is on disk.
    pub fn stream_ack(&self, id: StreamId, message_id: &str, n: u64) {
        self.look_mut(|core| {
            let Some(session) = core.streams.session_of(id).and_then(|key| core.state.sessions.get(key)) else { return };
            let mut ack = ephemeral(session, &[("ack", message_id), ("sequence", &n.to_string())]);
            ack.sequence = n;
            core.streams.push(id, 0, Payload::Event(ack));
        });
    }

    /// Tells one stream what became of its message, where that is an error.
    pub fn stream_error(&self, id: StreamId, message_id: &str, error: &str) {
        self.look_mut(|core| {
            let after = core.stream_head(id);
            let Some(session) = core.streams.session_of(id).and_then(|key| core.state.sessions.get(key)) else { return };
            let mut event = ephemeral(session, &[("error", error), ("message_id", message_id)]);
            event.r#type = EventType::TaskFailed.into();
            event.name = event::TURN_FAILED.into();
            core.streams.push(id, after, Payload::Event(event));
        });
    }

    /// Gives one stream a message again that it asked for again.
    pub fn stream_again(&self, id: StreamId, message: Message) {
        self.look_mut(|core| {
            let after = core.stream_head(id);
            if message.sequence <= after {
                core.streams.push(id, after, Payload::Message(message));
            }
        });
    }

    pub fn end_stream(&self, id: StreamId, end: Result<(), Error>) {
        self.look_mut(|core| {
            if let Some(stream) = core.streams.open.get_mut(&id) {
                match end {
                    Ok(()) => stream.half_closed = true,
                    Err(error) => {
                        stream.end.get_or_insert(Err(error));
                    }
                }
                stream.more.notify_one();
            }
        });
    }

    pub fn pull(&self, id: StreamId, most: usize) -> Pull {
        self.look_mut(|core| core.pull(id, most))
    }

    /// Delivers what [`Pull::Read`] asked for.
    pub async fn pull_read(
        &self,
        id: StreamId,
        session: u64,
        after: u64,
        before: u64,
        most: usize,
    ) -> Result<Vec<StreamMessageResponse>, Error> {
        let read = self.read_messages(session, after, before, most, false).await?;
        if read.is_empty() {
            return Err(Error::SessionNotFound(format!("{session:016x}")));
        }
        Ok(self.look_mut(|core| core.pull_read(id, read)))
    }

    pub fn join(&self, id: StreamId, session: u64, joined: Joined) -> Result<(), Error> {
        self.look_mut(|core| core.join(id, session, joined))
    }
}

impl Core {
    /// The newest message that this stream has been shown, or will have been when its queue is reached.
    fn stream_head(&self, id: StreamId) -> u64 {
        self.streams.open.get(&id).map_or(0, |stream| stream.cursor)
    }
}
