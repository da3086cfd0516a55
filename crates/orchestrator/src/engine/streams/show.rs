//! Selects what a stream is sent: messages, and pieces of the running answer.

use nexus_proto::orchestrator::v1::{
    Event, EventMetadata, EventType, Message, MessageRole, StreamMessageResponse, stream_message_response::Payload,
};
use nexus_proto::words;

use super::{Pull, Stream, StreamId, Streams};
use crate::domain::event;
use crate::domain::session::Session;
use crate::domain::turn::Phase;
use crate::engine::Ledger;
use crate::engine::cache::Held;

impl Ledger {
    /// What a stream should be sent next.
    pub fn pull(&mut self, id: StreamId, most: usize) -> Pull {
        let Some(stream) = self.outlets.of::<Streams>().open.get_mut(&id) else {
            return Pull::End(Ok(()));
        };
        let session = stream.session.and_then(|key| self.state.sessions.get(key));
        let session = session.map(|session| (session, self.cache.of(session)));
        let committed = session.map_or(0, |(_, held)| held.committed());
        let mut frames = Vec::new();
        while frames.len() < most {
            if stream
                .queue
                .front()
                .is_some_and(|(after, _)| *after <= stream.cursor || session.is_none())
            {
                let (_, payload) = stream.queue.pop_front().expect("it was just seen");
                frames.push(StreamMessageResponse { payload: Some(payload) });
            } else if let Some((session, held)) = session.filter(|_| stream.cursor < committed) {
                let Some(stored) = held.message(stream.cursor + 1) else {
                    if !frames.is_empty() {
                        break;
                    }
                    let before = held.start().min(committed + 1);
                    return Pull::Read {
                        session: session.key,
                        after: stream.cursor,
                        before,
                    };
                };
                stream.show((session, held), stored, &mut frames);
            } else {
                break;
            }
        }
        if let Some((session, _)) = session.filter(|_| stream.cursor == committed) {
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
        let Some(stream) = self.outlets.of::<Streams>().open.get_mut(&id) else {
            return frames;
        };
        let Some(session) = stream.session.and_then(|key| self.state.sessions.get(key)) else {
            return frames;
        };
        let held = self.cache.of(session);
        for message in read {
            if message.sequence == stream.cursor + 1 {
                stream.show((session, held), &message, &mut frames);
            }
        }
        frames
    }
}

impl Stream {
    /// Shows a message in the form that suits this stream, and moves its cursor.
    fn show(
        &mut self,
        (session, held): (&Session, Held<'_>),
        message: &Message,
        frames: &mut Vec<StreamMessageResponse>,
    ) {
        self.cursor = message.sequence;
        if self.own.remove(&message.sequence) {
            return;
        }
        let history = message.sequence <= self.history;
        if message.role == i32::from(MessageRole::User) && !history {
            frames.push(frame(Payload::Event(users_words(session, message))));
            return;
        }
        let in_pieces = held.in_pieces(message.sequence) && !history;
        if in_pieces {
            if self.answer.as_ref().is_none_or(|(answer, ..)| **answer != message.id) {
                self.at = 0;
            }
            if self.at < message.content.len() && message.content.is_char_boundary(self.at) {
                let asked = message
                    .metadata
                    .as_ref()
                    .and_then(|m| m.extra.get(words::extra::IN_REPLY_TO))
                    .map_or("", String::as_str);
                let rest = &message.content[self.at..];
                frames.push(frame(Payload::Event(piece(session, &message.id, asked, self.at, rest))));
            }
            self.answer = None;
        }
        frames.push(frame(Payload::Message(message.clone())));
    }

    /// Of the running answer, what this stream does not have yet.
    fn new_pieces(&mut self, session: &Session, frames: &mut Vec<StreamMessageResponse>) {
        let Some(turn) = session.turn() else { return };
        let Phase::Running { text, restarts, .. } = &turn.phase else {
            return;
        };
        let same = self.answer.as_ref().is_some_and(|(id, attempt, restarted)| {
            *id == turn.answer_id && (*attempt, *restarted) == (turn.revision(), *restarts)
        });
        if !same {
            self.answer = Some((turn.answer_id.clone(), turn.revision(), *restarts));
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

pub(super) fn ephemeral(session: &Session, data: &[(&str, &str)]) -> Event {
    Event {
        r#type: EventType::IpcMessage.into(),
        source: event::SYSTEM.into(),
        timestamp: Some(event::timestamp(crate::engine::wall())),
        data: data.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        metadata: Some(EventMetadata {
            session_id: session.id.to_string(),
            ..Default::default()
        }),
        name: words::event::IPC_MESSAGE.into(),
        ..Event::default()
    }
}

fn piece(session: &Session, message_id: &str, in_reply_to: &str, index: usize, delta: &str) -> Event {
    let index = index.to_string();
    let data = [
        ("delta", delta),
        (words::data::MESSAGE_ID, message_id),
        ("index", &index),
        (words::extra::IN_REPLY_TO, in_reply_to),
    ];
    ephemeral(session, &data)
}

/// Another's words: an event, since old clients would show any message as the assistant's.
fn users_words(session: &Session, message: &Message) -> Event {
    ephemeral(
        session,
        &[
            ("role", "user"),
            (words::data::MESSAGE_ID, &message.id),
            ("content", &message.content),
        ],
    )
}
