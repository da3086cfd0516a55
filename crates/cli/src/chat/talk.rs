//! Runs one turn of a conversation to its end, across reconnects.
//!
//! ```text
//!        ┌──────────────── lost ◀───────────────┐
//!        ▼                                      │
//!   open stream, after cursor ──▶ send message ──▶ deltas ──▶ final message, or error event
//!        (same id each time)                    └── Ctrl-C: cancel, then what was produced
//! ```
//!
//! The message keeps its id, so sending it again after a loss stores it once and gets the stored answer. The cursor
//! only moves over messages that were shown.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::FutureExt;
use nexus_client::{Connection, Error};
use nexus_proto::orchestrator::v1::{
    CancelTurn, Event, Message, MessageMetadata, MessageRole, StreamMessageRequest, StreamMessageResponse,
    stream_message_request, stream_message_response::Payload,
};
use nexus_proto::words;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    answer::Answer,
    screen::Screen,
    session::{self, Session},
};
use crate::{
    failure::{Exit, Failure},
    output::ended::{Ended, ended},
};

/// How long a lost orchestrator is waited for in the middle of a turn.
const RECONNECT: Duration = Duration::from_secs(60);
/// How long a cancelled answer may take to end.
const CANCEL_WAIT: Duration = Duration::from_secs(5);
/// Frames on their way out: the message and a cancel.
const OUTBOX: usize = 4;

pub struct Talk {
    connection: Connection,
    session: Option<Session>,
    /// Ids of what was said here: a later stream may bring it again.
    own: HashSet<String>,
    model: Option<String>,
    timeout: Duration,
    interrupts: Signal,
}

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Answered,
    Cancelled,
    /// Without an answer; in the daemon's words.
    Failed(String),
    /// In the middle of its answer.
    BrokeOff(String),
}

/// A turn under way.
struct Turn {
    message: Message,
    answer: Answer,
    cancelled: Option<Instant>,
    heard: Instant,
}

impl Talk {
    pub fn new(
        connection: Connection,
        session: Option<Session>,
        model: Option<String>,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let interrupts = signal(SignalKind::interrupt())
            .map_err(|error| Failure::new(Exit::Failed, format!("failed to listen for Ctrl-C: {error}")))?;
        Ok(Talk {
            connection,
            session,
            own: HashSet::new(),
            model,
            timeout,
            interrupts,
        })
    }

    pub fn session_id(&self) -> Option<&str> {
        self.session.as_ref().map(|session| session.id.as_str())
    }

    pub fn recent(&self) -> &[Message] {
        self.session.as_ref().map_or(&[], |session| &session.recent)
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// As `provider/model`.
    pub fn ask_model(&mut self, name: String) {
        self.model = Some(name);
    }

    pub fn begin_another(&mut self) {
        self.session = None;
        self.own.clear();
    }

    /// Stops whatever answer is being written in this conversation, also one that is no longer followed here. False: there
    /// is none.
    pub async fn stop(&mut self) -> Result<bool, Failure> {
        let Some(session) = &self.session else { return Ok(false) };
        let cancel = StreamMessageRequest {
            session_id: session.id.clone(),
            payload: Some(stream_message_request::Payload::Cancel(CancelTurn::default())),
            after_sequence: Some(session.cursor),
            ..StreamMessageRequest::default()
        };
        let frames = tokio_stream::once(cancel);
        let mut inbox = self
            .connection
            .orchestrator()
            .stream_messages(frames)
            .await?
            .into_inner();
        // Our half is closed: the stream delivers the answer that is still owed, and ends.
        let ended = async {
            while let Some(frame) = inbox.message().await? {
                if let Some(Payload::Message(message)) = frame.payload {
                    let extra = message.metadata.map(|metadata| metadata.extra).unwrap_or_default();
                    if extra.contains_key("cancelled") {
                        return Ok(true);
                    }
                }
            }
            Ok::<bool, tonic::Status>(false)
        };
        match tokio::time::timeout(CANCEL_WAIT, ended).await {
            Ok(ended) => Ok(ended?),
            Err(_) => Ok(false),
        }
    }

    pub async fn turn(&mut self, content: String, screen: &mut Screen<'_>) -> Result<End, Failure> {
        let extra: HashMap<String, String> = self
            .model
            .iter()
            .map(|model| ("model".to_owned(), model.clone()))
            .collect();
        let message = Message {
            id: new_id()?,
            role: MessageRole::User.into(),
            content,
            metadata: (!extra.is_empty()).then(|| MessageMetadata {
                extra,
                ..MessageMetadata::default()
            }),
            ..Message::default()
        };
        self.own.insert(message.id.clone());
        let mut turn = Turn {
            message,
            answer: Answer::default(),
            cancelled: None,
            heard: Instant::now(),
        };
        // What was pressed while nothing was under way is not meant for this turn.
        while let Some(Some(())) = self.interrupts.recv().now_or_never() {}
        // Nobody there at the beginning is said at once; whoever goes away after this is waited for.
        self.connection.connect().await?;
        let mut lost: Option<Instant> = None;
        let mut backoff = self.connection.backoff();
        loop {
            let error = match self.attempt(&mut turn, screen).await {
                Ok(end) => return Ok(end),
                Err(Broken::For(failure)) => return Err(failure),
                Err(Broken::Connection(error)) => error,
            };
            if lost.is_some_and(|since| turn.heard > since) {
                // Something was heard since the last loss: this is a new one.
                lost = None;
                backoff.reset();
            }
            if !error.is_retryable() || lost.is_some_and(|since| since.elapsed() > RECONNECT) {
                return Err(error.into());
            }
            if lost.is_none() {
                lost = Some(Instant::now());
                screen.reconnecting()?;
            }
            tokio::select! {
                more = backoff.wait() => if !more { return Err(error.into()) },
                _ = self.interrupts.recv() => return Ok(End::Cancelled),
            }
        }
    }

    async fn attempt(&mut self, turn: &mut Turn, screen: &mut Screen<'_>) -> Result<End, Broken> {
        if self.session.is_none() {
            let id = tokio::select! {
                id = session::create(&self.connection, &turn.message.content, &turn.message.id) => id?,
                _ = self.interrupts.recv() => return Ok(End::Cancelled),
            };
            self.session = Some(Session {
                id,
                cursor: 0,
                recent: Vec::new(),
            });
        }
        let session = self.session.as_mut().expect("it was made a line ago");
        let (outbox, frames) = mpsc::channel(OUTBOX);
        let first = StreamMessageRequest {
            session_id: session.id.clone(),
            payload: Some(stream_message_request::Payload::Message(turn.message.clone())),
            after_sequence: Some(session.cursor),
            acks: true,
            ..StreamMessageRequest::default()
        };
        let cancel = StreamMessageRequest {
            session_id: session.id.clone(),
            payload: Some(stream_message_request::Payload::Cancel(CancelTurn {
                message_id: turn.message.id.clone(),
            })),
            ..StreamMessageRequest::default()
        };
        // There is room for both, and the receiver is ours until the stream ends.
        let _room = outbox.try_send(first);
        if turn.cancelled.is_some() {
            let _room = outbox.try_send(cancel.clone());
        }
        let mut client = self.connection.orchestrator();
        let mut inbox = tokio::select! {
            opened = client.stream_messages(ReceiverStream::new(frames)) => opened?.into_inner(),
            _ = self.interrupts.recv() => return Ok(End::Cancelled),
        };
        loop {
            let until = match turn.cancelled {
                Some(when) => when + CANCEL_WAIT,
                None => turn.heard + self.timeout,
            };
            tokio::select! {
                frame = inbox.message() => {
                    let frame = next(frame)?;
                    turn.heard = Instant::now();
                    if let Some(end) = turn.take(frame, session, &self.own, screen)? {
                        drop(outbox);
                        finish(inbox).await;
                        return Ok(end);
                    }
                }
                _ = self.interrupts.recv() => {
                    if turn.cancelled.is_some() {
                        screen.stopped()?;
                        return Ok(End::Cancelled);
                    }
                    turn.cancelled = Some(Instant::now());
                    let _room = outbox.try_send(cancel.clone());
                }
                () = sleep_until(until) => {
                    if turn.cancelled.is_some() {
                        screen.stopped()?;
                        return Ok(End::Cancelled);
                    }
                    let waited = humantime::format_duration(self.timeout);
                    return Err(Broken::For(Failure::new(Exit::TimedOut, format!("no sign of an answer for {waited}"))
                        .hint("the message is kept, and its answer will be: nexus sessions show; wait longer with: --timeout")));
                }
            }
        }
    }
}

/// Lets the stream end in good order, so that the daemon sees no broken one; but not for long.
async fn finish(mut inbox: Streaming<StreamMessageResponse>) {
    let drained = async { while let Ok(Some(_)) = inbox.message().await {} };
    let _late = tokio::time::timeout(Duration::from_millis(50), drained).await;
}

impl Turn {
    /// `Some`: the turn is over.
    fn take(
        &mut self,
        frame: StreamMessageResponse,
        session: &mut Session,
        own: &HashSet<String>,
        screen: &mut Screen<'_>,
    ) -> Result<Option<End>, Failure> {
        match frame.payload {
            Some(Payload::Message(message)) => self.take_message(&message, session, own, screen),
            Some(Payload::Event(event)) => self.take_event(&event, session, screen),
            Some(Payload::Heartbeat(())) | None => Ok(None),
        }
    }

    fn take_message(
        &mut self,
        message: &Message,
        session: &mut Session,
        own: &HashSet<String>,
        screen: &mut Screen<'_>,
    ) -> Result<Option<End>, Failure> {
        if message.sequence != 0 && message.sequence <= session.cursor {
            return Ok(None);
        }
        session.cursor = session.cursor.max(message.sequence);
        if own.contains(&message.id) {
            return Ok(None);
        }
        let extra = message.metadata.as_ref().map(|metadata| &metadata.extra);
        // A server without that extension answers one message at a time, so the next answer is ours.
        let replies_to = extra.and_then(|extra| extra.get(words::extra::IN_REPLY_TO));
        let ours = message.role() == MessageRole::Assistant && replies_to.is_none_or(|id| *id == self.message.id);
        if !ours {
            screen.message(&session.id, message, false)?;
            return Ok(None);
        }
        if screen.wants_text()
            && let Some(show) = self.answer.whole(&message.content)
        {
            screen.text(&show)?;
        }
        screen.message(&session.id, message, true)?;
        let stopped = extra.is_some_and(|extra| extra.contains_key("cancelled"));
        if stopped || self.cancelled.is_some() {
            screen.stopped()?;
            return Ok(Some(End::Cancelled));
        }
        match ended(message) {
            Some(Ended::Incomplete(error)) => {
                screen.failed(&session.id, &error)?;
                return Ok(Some(End::BrokeOff(error)));
            }
            Some(how) => screen.ended(&how)?,
            None => {}
        }
        Ok(Some(End::Answered))
    }

    fn take_event(
        &mut self,
        event: &Event,
        session: &mut Session,
        screen: &mut Screen<'_>,
    ) -> Result<Option<End>, Failure> {
        let data = |key: &str| event.data.get(key).map(String::as_str);
        if let Some(error) = data("error") {
            if data(words::data::MESSAGE_ID).is_some_and(|id| id != self.message.id) {
                return Ok(None);
            }
            if self.cancelled.is_some() {
                screen.stopped()?;
                return Ok(Some(End::Cancelled));
            }
            screen.failed(&session.id, error)?;
            return Ok(Some(End::Failed(error.to_owned())));
        }
        if let (Some(delta), Some(id)) = (data("delta"), data(words::data::MESSAGE_ID)) {
            let index = data("index").and_then(|index| index.parse().ok()).unwrap_or_default();
            if !screen.wants_text() {
                screen.delta(&session.id, id, index, delta)?;
            } else if let Some(show) = self.answer.delta(id, index, delta) {
                screen.text(&show)?;
            }
            return Ok(None);
        }
        if let (Some(_), Some(content)) = (data("role"), data("content")) {
            screen.other(MessageRole::User, content)?;
        }
        Ok(None)
    }
}

fn next(frame: Result<Option<StreamMessageResponse>, tonic::Status>) -> Result<StreamMessageResponse, Broken> {
    match frame {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => {
            let error = Error::new(
                nexus_client::Kind::Unavailable,
                "the orchestrator ended the stream before the answer",
            );
            Err(Broken::Connection(error))
        }
        Err(status) => Err(Broken::Connection(status.into())),
    }
}

/// Why an attempt came to no end.
enum Broken {
    /// It may be worth another attempt.
    Connection(Error),
    For(Failure),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Broken::Connection(error)
    }
}

impl From<tonic::Status> for Broken {
    fn from(status: tonic::Status) -> Self {
        Broken::Connection(status.into())
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Broken::For(failure)
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Broken::For(error.into())
    }
}

/// As the orchestrator makes them: 16 random bytes in hex.
fn new_id() -> Result<String, Failure> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(Exit::Failed, format!("no randomness from the system: {error}")))?;
    Ok(hex::encode(bytes))
}
