//! Runs one client's stream: its messages go to the orchestrator, answers come back as chunks.
//!
//! ```text
//! client ──frames──▶ ┌──────────────┐ ──messages──▶ line ──▶ orchestrator
//!                    │ conversation │
//! client ◀──frames── └──────────────┘ ◀──incoming── line
//! ```
//!
//! One task for each stream, one loop, every arm safe to drop. A client that takes too slowly makes the line rest; a
//! line that breaks comes back by itself. The task ends when the client is gone.

use nexus_proto::words;
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use nexus_daemon::spans::{Span, TraceParent};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{ClientFrame, Handle, Reply, Request, nanos, new_id, now};
use crate::{
    Error,
    domain::{
        self,
        answers::{Cut, Frame},
        conversation::{Conversation, Follow, Noted},
        event::{Event, Kind},
        session::{Session, StreamConfig},
    },
    remote::{Line, LineSender, Signal, Slot},
};

/// The longest pause between two chunks that a client may ask for.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// From a cancel to the end, for what was produced.
const CANCEL_WITHIN: Duration = Duration::from_secs(2);
/// The longest sleep, so that a clock that jumps is noticed.
const LONGEST: Duration = Duration::from_secs(60);

pub(super) struct Talk {
    handle: Handle,
    session: Session,
    ended: CancellationToken,
    pub conversation: Conversation,
    line: Line,
    out: mpsc::Sender<Result<Reply, Error>>,
    delay: Duration,
    /// False until listening has begun: then it begins at the newest message.
    pub cursor_known: bool,
    pub heartbeat: Option<Duration>,
    next_chunk: Instant,
    quiet_since: Instant,
    down_since: Option<Instant>,
    patience: Duration,
    stage: Stage,
    /// Where the client's stream belongs in a trace, if it says so.
    pub parent: Option<TraceParent>,
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Open,
    /// The client has said everything.
    HalfClosed,
    Cancelling {
        reason: String,
        until: Instant,
    },
    /// What is queued goes out, and then it is over.
    Ending,
}

impl Talk {
    pub fn new(
        handle: &Handle,
        (session, ended): (Session, CancellationToken),
        follow: Follow,
        cut: Cut,
        out: mpsc::Sender<Result<Reply, Error>>,
    ) -> Self {
        let config = handle.config();
        Talk {
            line: handle.inner.orchestrator.line(&session.orchestrator_session),
            conversation: Conversation::new(follow, cut, nanos(config.answer_timeout), now()),
            delay: delay(session.requested.stream()),
            handle: handle.clone(),
            session,
            ended,
            out,
            cursor_known: false,
            heartbeat: None,
            next_chunk: Instant::now(),
            quiet_since: Instant::now(),
            down_since: Some(Instant::now()),
            patience: config.orchestrator_patience,
            stage: Stage::Open,
            parent: None,
        }
    }

    /// Until everything owed is said, or either side ends it.
    pub async fn run(
        &mut self,
        mut client: Option<impl Stream<Item = Option<ClientFrame>> + Unpin>,
    ) -> Result<(), Error> {
        while !self.is_over() {
            let out = self.out.clone();
            let line_out = self.line.out();
            let chunk_waits = self.conversation.is_chunk_next() && self.next_chunk > Instant::now();
            let may_speak = self.conversation.has_frame() && !chunk_waits;
            let listens = matches!(self.stage, Stage::Open) && self.conversation.may_ask();
            let may_send = self.conversation.has_message() && line_out.is_some();
            let rests = self.conversation.is_full();
            if rests && !self.line.is_parked() {
                self.line.park();
            }
            let cursor = self.cursor_known.then(|| self.conversation.cursor());
            let wake = self.wakes_at();
            tokio::select! {
                () = self.ended.cancelled() => return Err(Error::SessionClosed),
                permit = out.reserve(), if may_speak => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(frame) = self.conversation.next_frame(now()) {
                        if matches!(frame, Frame::Chunk(_)) {
                            self.next_chunk = Instant::now() + self.delay;
                        }
                        self.quiet_since = Instant::now();
                        permit.send(Ok(Reply::Frame(frame)));
                    }
                }
                frame = next(&mut client), if listens && client.is_some() => match frame {
                    Some(Some(frame)) => self.heard(frame).await?,
                    Some(None) => return Ok(()),
                    None => self.stage = Stage::HalfClosed,
                },
                slot = slot(line_out.as_ref()), if may_send => {
                    // A line that was lost meanwhile says so itself, and everything owed goes out again.
                    if let (Some(slot), Some(message)) = (slot, self.conversation.next_message()) {
                        let followed_by = message.extra.get(words::extra::CORRELATION_ID).unwrap_or(&message.id);
                        tracing::debug!(correlation_id = followed_by, session_id = self.session.id, "message sent");
                        slot.send(message);
                    }
                }
                signal = self.line.next(cursor), if !rests && self.stage != Stage::Ending => self.signal(signal).await?,
                () = sleep_until(wake) => self.time().await?,
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let silent = !self.conversation.has_frame();
        let settled = match self.stage {
            Stage::Open => self.conversation.is_done(),
            Stage::HalfClosed => self.conversation.is_settled(),
            Stage::Cancelling { .. } => false,
            Stage::Ending => true,
        };
        silent && settled
    }

    async fn heard(&mut self, frame: ClientFrame) -> Result<(), Error> {
        if !frame.session_id.is_empty() && frame.session_id != self.session.id {
            return Err(domain::Error::OtherSession(self.session.id.clone()).into());
        }
        self.hear(frame.request).await
    }

    pub async fn hear(&mut self, request: Request) -> Result<(), Error> {
        match request {
            Request::Join => {}
            Request::Heartbeat => {
                // The client's own room: as long as it does not read, it is not read from.
                let _gone = self.out.send(Ok(Reply::Heartbeat)).await;
            }
            Request::Bad(error) => self.conversation.refuse(&format!("INVALID_ARGUMENT: {error}")),
            Request::Message(asked) => match self.handle.touch(&self.session.id, asked.content.len()).await {
                Ok(()) => {
                    let fresh = new_id()?;
                    let received = Span::receive("receive message", self.parent.as_ref());
                    let mut outgoing = asked.outgoing(|| fresh);
                    received.note("nexus.session_id", self.session.id.clone());
                    outgoing.traceparent = received.traceparent().map(|parent| parent.to_string());
                    self.conversation.ask(outgoing, now());
                }
                Err(Error::Domain(error @ domain::Error::TooLarge { .. })) => {
                    self.conversation.refuse(&format!("RESOURCE_EXHAUSTED: {error}"));
                }
                Err(error) => return Err(error),
            },
            Request::Cancel { reason, force } => self.cancel(reason, force).await,
        }
        Ok(())
    }

    async fn cancel(&mut self, reason: String, force: bool) {
        let turns = self.conversation.under_way();
        let waits = !turns.is_empty() || self.conversation.is_answering();
        if !force
            && waits
            && let Some(out) = self.line.out()
        {
            self.conversation.cancelling();
            // The line is open and read from here on, so this cannot wait long.
            let told = tokio::time::timeout(CANCEL_WITHIN, out.cancel(turns.clone())).await;
            if told.is_ok() {
                self.stage = Stage::Cancelling {
                    reason,
                    until: Instant::now() + CANCEL_WITHIN,
                };
                return;
            }
        }
        let fresh = self.handle.inner.orchestrator.line(&self.session.orchestrator_session);
        std::mem::replace(&mut self.line, fresh).cancel_and_leave(turns);
        self.conversation.cancelled(&reason, force);
        self.stage = Stage::Ending;
    }

    fn cancelled_if_done(&mut self, late: bool) {
        if let Stage::Cancelling { reason, .. } = &self.stage {
            let quiet = self.conversation.under_way().is_empty() && !self.conversation.is_answering();
            if quiet || late {
                let reason = reason.clone();
                self.conversation.cancelled(&reason, false);
                self.stage = Stage::Ending;
            }
        }
    }

    async fn signal(&mut self, signal: Signal) -> Result<(), Error> {
        match signal {
            Signal::Up { cursor } => {
                self.cursor_known = true;
                self.down_since = None;
                self.conversation.heard_up_to(cursor);
                self.conversation.resumed();
            }
            Signal::Frame(incoming) => {
                if let Some(noted) = self.conversation.take(incoming, now()) {
                    self.note(noted).await;
                }
                self.cancelled_if_done(false);
            }
            Signal::Lost(error) => {
                tracing::debug!(%error, session = self.session.id, "the conversation will be resumed");
                self.down_since.get_or_insert_with(Instant::now);
                self.conversation.lost();
                self.cancelled_if_done(true);
            }
            Signal::Ended(error) => return Err(self.handle.refused(&self.session.id, error).await),
        }
        Ok(())
    }

    /// The earliest of everything that only waits for time.
    fn wakes_at(&self) -> Instant {
        let in_nanos = |at: i64| Instant::now() + Duration::from_nanos(u64::try_from(at - now()).unwrap_or(0));
        let chunk = self
            .conversation
            .is_chunk_next()
            .then_some(self.next_chunk)
            .filter(|at| *at > Instant::now());
        let cancel = match &self.stage {
            Stage::Cancelling { until, .. } => Some(*until),
            Stage::Open | Stage::HalfClosed | Stage::Ending => None,
        };
        let all = [
            self.conversation.deadline().map(in_nanos),
            self.gives_up_at(),
            self.heartbeat.map(|every| self.quiet_since + every),
            chunk,
            cancel,
        ];
        let latest = Instant::now() + LONGEST;
        all.into_iter().flatten().min().unwrap_or(latest).min(latest)
    }

    fn gives_up_at(&self) -> Option<Instant> {
        let waits = !self.conversation.is_settled() || self.conversation.is_waiting();
        self.down_since.filter(|_| waits).map(|since| since + self.patience)
    }

    async fn time(&mut self) -> Result<(), Error> {
        let instant = Instant::now();
        let mut noted = self.conversation.tick(now());
        if self.gives_up_at().is_some_and(|at| at <= instant) {
            noted.extend(
                self.conversation
                    .give_up("UNAVAILABLE: the orchestrator cannot be reached"),
            );
            self.down_since = Some(instant);
        }
        for one in noted {
            self.note(one).await;
        }
        if self.heartbeat.is_some_and(|every| self.quiet_since + every <= instant) {
            self.quiet_since = instant;
            // One that finds no room is not missed: the client has enough to read.
            let _full = self.out.try_send(Ok(Reply::Heartbeat));
        }
        if matches!(&self.stage, Stage::Cancelling { until, .. } if *until <= instant) {
            self.cancelled_if_done(true);
        }
        Ok(())
    }

    async fn note(&mut self, noted: Noted) {
        let (session, handle) = (&self.session, &self.handle);
        let event = |kind| Event::of(session, kind);
        match noted {
            Noted::Stored { id } => handle.note(event(Kind::MessageSent).about(&id, "")).await,
            Noted::Begun { in_reply_to } => {
                handle.note(event(Kind::StreamStarted).about(&in_reply_to, "")).await;
            }
            Noted::Answered {
                id,
                sequence,
                in_reply_to,
                error,
            } => {
                if handle.tells(&session.id, sequence) {
                    let received = event(Kind::MessageReceived)
                        .about(&id, "")
                        .with(words::extra::IN_REPLY_TO, &in_reply_to);
                    handle.note(received.with("sequence", sequence.to_string())).await;
                }
                let ended = match error {
                    Some(error) => event(Kind::StreamError).about(&in_reply_to, "").with("error", error),
                    None => event(Kind::StreamComplete)
                        .about(&id, "")
                        .with(words::extra::IN_REPLY_TO, in_reply_to),
                };
                handle.note(ended).await;
            }
            Noted::Failed { message_id, error } => {
                handle
                    .note(event(Kind::StreamError).about(&message_id, "").with("error", error))
                    .await;
            }
        }
    }
}

async fn next<S: Stream<Item = Option<ClientFrame>> + Unpin>(client: &mut Option<S>) -> Option<Option<ClientFrame>> {
    match client {
        Some(client) => client.next().await,
        None => std::future::pending().await,
    }
}

async fn slot(out: Option<&LineSender>) -> Option<Slot<'_>> {
    match out {
        Some(out) => out.slot().await,
        None => std::future::pending().await,
    }
}

/// `size`, if it is set, goes before the session's own.
pub(super) fn cut(config: Option<StreamConfig>, size: Option<i64>) -> Cut {
    let size = size
        .filter(|size| *size > 0)
        .or(config.map(|config| config.chunk_size))
        .unwrap_or(0);
    Cut {
        deltas: config.is_none_or(|config| config.enable_delta),
        size: usize::try_from(size).unwrap_or(0),
    }
}

fn delay(config: Option<StreamConfig>) -> Duration {
    let delay = config.map_or(0, |config| config.chunk_delay_ns);
    Duration::from_nanos(u64::try_from(delay).unwrap_or(0)).min(LONGEST_DELAY)
}
