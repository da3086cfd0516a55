//! The operations that both sides of an open StreamMessages need from the engine.

use nexus_proto::orchestrator::v1::{EventType, Message, StreamMessageResponse, stream_message_response::Payload};
use nexus_proto::words;

use super::show::ephemeral;
use super::{Joined, Opened, Pull, StreamId, Streams};
use crate::domain::sessions::session_not_found;
use crate::domain::{Error, event};
use crate::engine::Engine;

impl Engine {
    pub fn open_stream(&self) -> Opened {
        self.look_mut(|ledger| ledger.outlets.of::<Streams>().open())
    }

    pub fn leave_stream(&self, id: StreamId) {
        self.look_mut(|ledger| ledger.leave(id));
    }

    /// Answers a heartbeat, to its sender only.
    pub fn stream_heartbeat(&self, id: StreamId) {
        self.look_mut(|ledger| {
            let streams = ledger.outlets.of::<Streams>();
            let after = streams.shown(id);
            streams.push(id, after, Payload::Heartbeat(()));
        });
    }

    /// Tells one stream that its message is on disk.
    pub fn stream_ack(&self, id: StreamId, message_id: &str, n: u64) {
        self.look_mut(|ledger| {
            let streams = ledger.outlets.of::<Streams>();
            let Some(session) = streams.session_of(id).and_then(|key| ledger.state.sessions.get(key)) else {
                return;
            };
            let mut ack = ephemeral(session, &[("ack", message_id), ("sequence", &n.to_string())]);
            ack.sequence = n;
            streams.push(id, 0, Payload::Event(ack));
        });
    }

    /// Tells one stream what became of its message, where that is an error.
    pub fn stream_error(&self, id: StreamId, message_id: &str, error: &str) {
        self.look_mut(|ledger| {
            let streams = ledger.outlets.of::<Streams>();
            let after = streams.shown(id);
            let Some(session) = streams.session_of(id).and_then(|key| ledger.state.sessions.get(key)) else {
                return;
            };
            let mut event = ephemeral(session, &[("error", error), (words::data::MESSAGE_ID, message_id)]);
            event.r#type = EventType::TaskFailed.into();
            event.name = event::TURN_FAILED.into();
            streams.push(id, after, Payload::Event(event));
        });
    }

    /// Gives one stream a message again that it asked for again.
    pub fn stream_again(&self, id: StreamId, message: Message) {
        self.look_mut(|ledger| {
            let streams = ledger.outlets.of::<Streams>();
            let after = streams.shown(id);
            if message.sequence <= after {
                streams.push(id, after, Payload::Message(message));
            }
        });
    }

    pub fn end_stream(&self, id: StreamId, end: Result<(), Error>) {
        self.look_mut(|ledger| {
            if let Some(stream) = ledger.outlets.of::<Streams>().open.get_mut(&id) {
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
        self.look_mut(|ledger| ledger.pull(id, most))
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
            return Err(session_not_found(session));
        }
        Ok(self.look_mut(|ledger| ledger.pull_read(id, read)))
    }

    pub fn join(&self, id: StreamId, session: u64, joined: Joined) -> Result<(), Error> {
        self.look_mut(|ledger| ledger.join(id, session, joined))
    }
}

impl Streams {
    /// The newest message that this stream has been shown, or will have been when its queue is reached.
    fn shown(&self, id: StreamId) -> u64 {
        self.open.get(&id).map_or(0, |stream| stream.cursor)
    }
}
