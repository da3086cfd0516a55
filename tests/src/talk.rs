//! One StreamMessages, and its frames as a person would tell them apart.

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{
    CancelTurn, Event, Message, MessageRole, StreamMessageRequest, StreamMessageResponse, stream_message_request,
    stream_message_response,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::PATIENCE;

/// Frames of ours that may wait to be sent.
const QUEUED: usize = 64;

pub struct Talk {
    session: String,
    say: Option<mpsc::Sender<StreamMessageRequest>>,
    frames: Streaming<StreamMessageResponse>,
}

/// What came.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    Message(Message),
    /// A piece of the coming answer `message_id`, at this byte.
    Delta {
        message_id: String,
        index: usize,
        text: String,
    },
    /// A message of ours is stored, at this place.
    Ack {
        message_id: String,
        sequence: u64,
    },
    /// There is no answer to a message.
    Failed {
        message_id: String,
        error: String,
    },
    /// What another one said in this session.
    Words {
        message_id: String,
        content: String,
    },
    Heartbeat,
    Other(Event),
}

impl Talk {
    pub async fn open(connection: &Connection, session: &str, after: Option<u64>, acks: bool) -> Result<Talk, Status> {
        let (say, said) = mpsc::channel(QUEUED);
        let first = StreamMessageRequest {
            session_id: session.into(),
            after_sequence: after,
            acks,
            ..StreamMessageRequest::default()
        };
        say.try_send(first).expect("the queue is new");
        let mut client = connection.orchestrator();
        let opening = client.stream_messages(ReceiverStream::new(said));
        let frames = within("the stream to open", opening).await?.into_inner();
        Ok(Talk {
            session: session.into(),
            say: Some(say),
            frames,
        })
    }

    async fn send(&self, payload: stream_message_request::Payload) -> bool {
        let Some(say) = &self.say else { return false };
        let frame = StreamMessageRequest {
            session_id: self.session.clone(),
            payload: Some(payload),
            ..StreamMessageRequest::default()
        };
        within("a frame to be sent", say.send(frame)).await.is_ok()
    }

    /// A user's message. False if the stream is gone.
    pub async fn say(&self, id: &str, content: &str) -> bool {
        let message = crate::ask::message(id, MessageRole::User, content);
        self.send(stream_message_request::Payload::Message(message)).await
    }

    pub async fn message(&self, message: Message) -> bool {
        self.send(stream_message_request::Payload::Message(message)).await
    }

    pub async fn cancel(&self, message_id: &str) -> bool {
        let cancel = CancelTurn {
            message_id: message_id.into(),
        };
        self.send(stream_message_request::Payload::Cancel(cancel)).await
    }

    pub async fn heartbeat(&self) -> bool {
        self.send(stream_message_request::Payload::Heartbeat(())).await
    }

    /// Nothing more will be said.
    pub fn half_close(&mut self) {
        self.say = None;
    }

    /// The next frame; `None` once the stream has ended with OK.
    pub async fn next(&mut self) -> Result<Option<Frame>, Status> {
        let next = within("a frame", self.frames.message()).await?;
        Ok(next.map(frame))
    }

    /// The next frame that is neither an acknowledgement nor a piece.
    pub async fn next_whole(&mut self) -> Result<Option<Frame>, Status> {
        loop {
            match self.next().await? {
                Some(Frame::Ack { .. } | Frame::Delta { .. }) => {}
                frame => return Ok(frame),
            }
        }
    }

    /// How it ends, whatever comes before.
    pub async fn end(&mut self) -> Result<(), Status> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

fn frame(response: StreamMessageResponse) -> Frame {
    use stream_message_response::Payload;
    let mut event = match response.payload {
        Some(Payload::Message(message)) => return Frame::Message(message),
        Some(Payload::Heartbeat(())) => return Frame::Heartbeat,
        Some(Payload::Event(event)) => event,
        None => panic!("a frame without a payload"),
    };
    let data = &mut event.data;
    let message_id = data.get("message_id").cloned().unwrap_or_default();
    if let Some(error) = data.remove("error") {
        Frame::Failed { message_id, error }
    } else if let Some(message_id) = data.remove("ack") {
        Frame::Ack {
            message_id,
            sequence: event.sequence,
        }
    } else if let Some(text) = data.remove("delta") {
        let index = data.get("index").and_then(|index| index.parse().ok());
        Frame::Delta {
            message_id,
            index: index.expect("a piece says where it belongs"),
            text,
        }
    } else if data.get("role").is_some_and(|role| role == "user") {
        let content = data.remove("content").expect("words have a content");
        Frame::Words { message_id, content }
    } else {
        Frame::Other(event)
    }
}

/// The message that an answer answers.
pub fn in_reply_to(message: &Message) -> Option<&str> {
    let extra = &message.metadata.as_ref()?.extra;
    extra.get("in_reply_to").map(String::as_str)
}
