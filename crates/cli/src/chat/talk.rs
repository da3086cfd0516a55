//! Runs one turn of a conversation to its end, across reconnects.
//!
//! ```text
//!        ┌──────────────── lost ◀───────────────┐
//!        ▼                                      │
//!   open both streams ──▶ messages: send, acknowledge, final message or error event
//!        (same id each time) ├──▶ news of the run: pieces of the text, calls, approvals
//!                            └── Ctrl-C, /stop, a limit: cancel, then what was produced
//! ```
//!
//! The message keeps its id, so sending it again after a loss stores it once and gets the stored answer. The cursor
//! only moves over messages that were shown. An orchestrator that shows no news of runs sends the pieces of the text with
//! the messages.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::FutureExt;
use nexus_client::{Connection, Error};
use nexus_proto::orchestrator::v1::{
    CancelTurn, Message, MessageMetadata, MessageRole, SessionConfig, StopResponse, StreamMessageRequest,
    StreamMessageResponse, stream_message_request,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    consent::Consent,
    following::Following,
    limits::Limits,
    lines::{self, Lines},
    news::{News, NewsStream},
    screen::Screen,
    session::{self, Session},
    slash::is_stop,
    stop,
    turn::{Last, Turn},
};
use crate::failure::{Exit, Failure};

/// How long a lost orchestrator is waited for in the middle of a turn.
const RECONNECT: Duration = Duration::from_secs(60);
/// How long a cancelled answer may take to end.
const CANCEL_WAIT: Duration = Duration::from_secs(5);
/// Frames on their way out: the message and a cancel.
const OUTBOX: usize = 4;
/// Between two looks at how long a call has been running.
const LOOK: Duration = Duration::from_millis(250);
/// Lines that were typed ahead and wait for their turn.
const TYPED_AHEAD: usize = 100;

/// What tells one kind of conversation from another.
#[derive(Debug)]
pub struct Style {
    /// The label of sessions that are begun.
    pub client: &'static str,
    /// Of sessions that are begun.
    pub config: Option<SessionConfig>,
    pub consent: Consent,
    pub limits: Limits,
    /// JSON has the pieces of the text as news of the run.
    pub news_text: bool,
}

pub struct Talk {
    connection: Connection,
    session: Option<Session>,
    /// Ids of what was said here: a later stream may bring it again.
    own: HashSet<String>,
    model: Option<String>,
    timeout: Duration,
    interrupts: Signal,
    style: Style,
    /// Typed while an answer was shown, for after it.
    ahead: Vec<String>,
}

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Answered,
    Cancelled,
    /// By `nexus stop` or `/stop`.
    Stopped,
    /// A limit of this command ended it, in words.
    Limit(String),
    /// Without an answer; in the daemon's words.
    Failed(String),
    /// In the middle of its answer.
    BrokeOff(String),
}

/// A turn that is over.
#[derive(Debug)]
pub struct Turned {
    pub end: End,
    pub following: Following,
    /// The final message.
    pub answer: String,
}

impl Talk {
    pub fn new(
        connection: Connection,
        session: Option<Session>,
        model: Option<String>,
        timeout: Duration,
        style: Style,
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
            style,
            ahead: Vec::new(),
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

    /// What was typed while an answer was shown, oldest first.
    pub fn typed_ahead(&mut self) -> Option<String> {
        (!self.ahead.is_empty()).then(|| self.ahead.remove(0))
    }

    /// Makes the session now, for what has to be in it before the first message. `key` makes it the same session however
    /// often it is asked for.
    pub async fn begin(&mut self, first: &str, key: &str) -> Result<String, Failure> {
        if self.session.is_none() {
            let made = session::create(&self.connection, &self.style, first, key);
            let id = tokio::select! {
                id = made => id?,
                _ = self.interrupts.recv() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
            };
            self.session = Some(Session::begun(id));
        }
        Ok(self.session_id().unwrap_or_default().to_owned())
    }

    /// Stops everything that runs in this conversation, also what is no longer followed here, and says what that was.
    pub async fn stop(&mut self) -> Result<String, Failure> {
        const NOTHING: &str = "nothing runs in this conversation";
        let Some(session) = &self.session else {
            return Ok(NOTHING.into());
        };
        match stop::session(&self.connection, &session.id).await {
            Ok(stopped) if stopped == StopResponse::default() => Ok(NOTHING.into()),
            Ok(stopped) => Ok(stop::told(&stopped)),
            Err(error) if error.kind == nexus_client::Kind::Unimplemented => {
                let cancelled = stop::answer(&self.connection, &session.id, session.cursor).await?;
                Ok(if cancelled { "(stopped)" } else { NOTHING }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub async fn turn(&mut self, content: String, screen: &mut Screen<'_>) -> Result<Turned, Failure> {
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
        let sole = self.session.as_ref().is_none_or(|session| session.is_new);
        let mut turn = Turn::new(message, sole, self.style.news_text);
        self.style.consent.clear();
        // What was pressed while nothing was under way is not meant for this turn.
        while let Some(Some(())) = self.interrupts.recv().now_or_never() {}
        let mut lines = if screen.is_json() { None } else { Lines::open() };
        let end = self.follow(&mut turn, &mut lines, screen).await?;
        if let Some(session) = &mut self.session {
            session.is_new = false;
        }
        Ok(Turned {
            end,
            following: turn.following,
            answer: turn.content,
        })
    }

    async fn follow(
        &mut self,
        turn: &mut Turn,
        lines: &mut Option<Lines>,
        screen: &mut Screen<'_>,
    ) -> Result<End, Failure> {
        // Nobody there at the beginning is said at once; whoever goes away after this is waited for.
        self.connection.connect().await?;
        let mut lost: Option<Instant> = None;
        let mut backoff = self.connection.backoff();
        loop {
            let error = match self.attempt(turn, lines, screen).await {
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

    async fn attempt(
        &mut self,
        turn: &mut Turn,
        lines: &mut Option<Lines>,
        screen: &mut Screen<'_>,
    ) -> Result<End, Broken> {
        if self.session.is_none() {
            let id = tokio::select! {
                id = session::create(&self.connection, &self.style, &turn.message.content, &turn.message.id) => id?,
                _ = self.interrupts.recv() => return Ok(End::Cancelled),
            };
            self.session = Some(Session::begun(id));
        }
        let Talk {
            connection,
            session,
            own,
            timeout,
            interrupts,
            style,
            ahead,
            ..
        } = self;
        let session = session.as_mut().expect("it was made a line ago");
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
        let mut news = NewsStream::open(connection, &session.id);
        turn.news_begin();
        let mut client = connection.orchestrator();
        let opening = client.stream_messages(ReceiverStream::new(frames));
        tokio::pin!(opening);
        let mut inbox = loop {
            tokio::select! {
                biased;
                // Asked first: what the run does is then told from its beginning.
                one = news.next() => turn.take_news(one, connection, style, screen, lines.is_some()).await?,
                opened = &mut opening => break opened?.into_inner(),
                _ = interrupts.recv() => return Ok(End::Cancelled),
            }
        };
        let mut look = tokio::time::interval(LOOK);
        loop {
            if let Some(reason) = turn.passed(&style.limits) {
                stop::cancel(connection, turn.following.id(), &reason);
                let _room = outbox.try_send(cancel.clone());
            }
            let until = match turn.cancelled {
                Some(when) => when + CANCEL_WAIT,
                None => turn.heard + *timeout,
            };
            tokio::select! {
                biased;
                _ = interrupts.recv() => {
                    if turn.cancelled.is_some() {
                        screen.stopped()?;
                        return Ok(turn.ended(End::Cancelled));
                    }
                    turn.cancelled = Some(Instant::now());
                    stop::cancel(connection, turn.following.id(), "cancelled at the terminal");
                    let _room = outbox.try_send(cancel.clone());
                }
                // Before the messages: what a run did comes before its answer.
                one = news.next() => {
                    if matches!(one, News::Event(_)) {
                        turn.heard = Instant::now();
                    }
                    turn.take_news(one, connection, style, screen, lines.is_some()).await?;
                }
                frame = inbox.message() => {
                    let frame = next(frame)?;
                    turn.heard = Instant::now();
                    if let Some(last) = Last::of(&frame) {
                        turn.settle(&last, &mut news, connection, style, screen).await?;
                    }
                    if let Some(end) = turn.take(frame, session, own, screen)? {
                        drop(outbox);
                        tokio::spawn(finish(inbox));
                        return Ok(turn.ended(end));
                    }
                }
                line = lines::next(lines) => {
                    if is_stop(&line) {
                        turn.cancelled.get_or_insert_with(Instant::now);
                        turn.stopped = true;
                        match stop::session(connection, &session.id).await {
                            Ok(stopped) => screen.note(&stop::told(&stopped))?,
                            Err(_) => { let _room = outbox.try_send(cancel.clone()); }
                        }
                    } else if let Some(line) = turn.typed(line, connection, style, screen).await?
                        && ahead.len() < TYPED_AHEAD
                    {
                        ahead.push(line);
                    }
                }
                _ = look.tick() => screen.running(&turn.following),
                () = sleep_until(until) => {
                    if turn.cancelled.is_some() {
                        screen.stopped()?;
                        return Ok(turn.ended(End::Cancelled));
                    }
                    let waited = humantime::format_duration(*timeout);
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
pub fn new_id() -> Result<String, Failure> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(Exit::Failed, format!("no randomness from the system: {error}")))?;
    Ok(hex::encode(bytes))
}
