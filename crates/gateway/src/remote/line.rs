//! One conversation with the orchestrator that survives reconnects.
//!
//! ```text
//! opening ──joined after the cursor──▶ open ──lost──▶ pause ──▶ opening
//!    └────────── refused for good ──────┴──▶ ended
//! ```
//!
//! It resumes after the cursor that its owner gives, and leaves to the owner what to send again. [`Line::next`] may be
//! dropped at any await without losing a frame.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use nexus_client::{Backoff, Connection, Error};
use nexus_proto::orchestrator::v1::{
    CancelTurn, StreamMessageRequest, StreamMessageResponse, stream_message_request::Payload,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{convert, orchestrator::newest};
use crate::domain::message::{Incoming, Outgoing};

/// Frames on their way out.
const OUTBOUND: usize = 32;
/// For a last word, while nobody waits.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

type Opening = Pin<Box<dyn Future<Output = Result<Open, Error>> + Send>>;

pub struct Line {
    connection: Connection,
    session: String,
    state: State,
    backoff: Backoff,
    /// Holds the place on the connection.
    _place: Arc<()>,
}

enum State {
    Closed,
    Opening(Opening),
    Open(Box<Open>),
    Pause(Pin<Box<dyn Future<Output = ()> + Send>>),
}

struct Open {
    cursor: u64,
    out: mpsc::Sender<StreamMessageRequest>,
    frames: Streaming<StreamMessageResponse>,
}

#[derive(Debug)]
pub enum Signal {
    /// Joined; everything after this message will come.
    Up {
        cursor: u64,
    },
    Frame(Incoming),
    /// It will come back by itself.
    Lost(Error),
    /// It will not.
    Ended(Error),
}

impl Line {
    pub(super) fn new(connection: Connection, place: Arc<()>, session: &str) -> Self {
        let backoff = connection.backoff().endless();
        Line {
            connection,
            session: session.into(),
            state: State::Closed,
            backoff,
            _place: place,
        }
    }

    /// `cursor`: what was heard before; `None` means that listening begins at the newest message.
    pub async fn next(&mut self, cursor: Option<u64>) -> Signal {
        loop {
            match &mut self.state {
                State::Closed => {
                    self.state = State::Opening(Box::pin(open(self.connection.clone(), self.session.clone(), cursor)));
                }
                State::Pause(pause) => {
                    pause.await;
                    self.state = State::Closed;
                }
                State::Opening(opening) => match opening.await {
                    Ok(open) => {
                        let cursor = open.cursor;
                        self.state = State::Open(Box::new(open));
                        return Signal::Up { cursor };
                    }
                    Err(error) => return self.lost(error),
                },
                State::Open(open) => match open.frames.message().await {
                    Ok(Some(frame)) => {
                        self.backoff.reset();
                        return Signal::Frame(convert::incoming(frame));
                    }
                    Ok(None) => return self.lost(unavailable("the orchestrator ended the conversation")),
                    Err(status) => return self.lost(status.into()),
                },
            }
        }
    }

    /// Where to send, while it is open.
    pub fn out(&self) -> Option<LineSender> {
        match &self.state {
            State::Open(open) => Some(LineSender {
                frames: open.out.clone(),
                session: self.session.clone(),
            }),
            _ => None,
        }
    }

    /// Lets the connection go; `next` opens it again.
    pub fn park(&mut self) {
        self.state = State::Closed;
    }

    pub fn is_parked(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Asks that turns be cancelled (the present one if none is named) and sees that it is heard, while the client's
    /// stream may already be gone.
    pub fn cancel_and_leave(self, turns: Vec<String>) {
        let State::Open(open) = self.state else { return };
        let session = self.session;
        let Open { out, mut frames, .. } = *open;
        tokio::spawn(async move {
            let leave = async move {
                for message_id in all_or_present(turns) {
                    if out.send(cancel(&session, message_id)).await.is_err() {
                        return;
                    }
                }
                drop(out);
                while let Ok(Some(_)) = frames.message().await {}
            };
            // Without an end in time the orchestrator is gone, and with it whatever there was to cancel.
            let _ended = tokio::time::timeout(GOODBYE_WITHIN, leave).await;
        });
    }

    fn lost(&mut self, error: Error) -> Signal {
        if !error.is_retryable() {
            self.state = State::Closed;
            return Signal::Ended(error);
        }
        self.state = match self.backoff.pause() {
            Some(pause) => State::Pause(Box::pin(pause)),
            None => return Signal::Ended(error),
        };
        Signal::Lost(error)
    }
}

/// The sending side of an open stream.
#[derive(Clone)]
pub struct LineSender {
    frames: mpsc::Sender<StreamMessageRequest>,
    session: String,
}

/// A reserved slot for one frame.
pub struct Slot<'a> {
    permit: mpsc::Permit<'a, StreamMessageRequest>,
    session: &'a str,
}

impl LineSender {
    /// Waits for room; `None` if the line was lost meanwhile.
    pub async fn slot(&self) -> Option<Slot<'_>> {
        let permit = self.frames.reserve().await.ok()?;
        Some(Slot {
            permit,
            session: &self.session,
        })
    }

    /// Asks that turns be cancelled; the present one if none is named.
    pub async fn cancel(&self, turns: Vec<String>) {
        for message_id in all_or_present(turns) {
            // A line that is lost has nothing to cancel any more.
            let _sent = self.frames.send(cancel(&self.session, message_id)).await;
        }
    }
}

impl Slot<'_> {
    pub fn send(self, mut message: Outgoing) {
        self.permit.send(StreamMessageRequest {
            session_id: self.session.to_owned(),
            traceparent: message.traceparent.take().unwrap_or_default(),
            payload: Some(Payload::Message(convert::outgoing(message))),
            ..StreamMessageRequest::default()
        });
    }
}

fn all_or_present(turns: Vec<String>) -> Vec<String> {
    if turns.is_empty() { vec![String::new()] } else { turns }
}

fn cancel(session: &str, message_id: String) -> StreamMessageRequest {
    StreamMessageRequest {
        session_id: session.to_owned(),
        payload: Some(Payload::Cancel(CancelTurn { message_id })),
        ..StreamMessageRequest::default()
    }
}

fn unavailable(message: &str) -> Error {
    Error::new(nexus_client::Kind::Unavailable, message)
}

async fn open(connection: Connection, session: String, cursor: Option<u64>) -> Result<Open, Error> {
    let cursor = match cursor {
        Some(cursor) => cursor,
        None => newest(&connection, &session).await?,
    };
    let (out, frames) = mpsc::channel(OUTBOUND);
    let join = StreamMessageRequest {
        session_id: session,
        payload: Some(Payload::Heartbeat(())),
        after_sequence: Some(cursor),
        acks: true,
        ..StreamMessageRequest::default()
    };
    out.try_send(join).expect("the channel is new and has room");
    let call = async move {
        connection
            .orchestrator()
            .stream_messages(ReceiverStream::new(frames))
            .await
    };
    // Headers come at once from an orchestrator that is well.
    let frames = match tokio::time::timeout(Duration::from_secs(10), call).await {
        Ok(answer) => answer?.into_inner(),
        Err(_) => return Err(unavailable("the orchestrator did not take the conversation in time")),
    };
    Ok(Open { cursor, out, frames })
}
