//! `StreamMessages`: one task reads what the client sends, the answer stream delivers what its session has for it.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesOrdered, Stream};
use nexus_daemon::Caller;
use nexus_daemon::spans::{self, Span, TraceParent};
use nexus_proto::orchestrator::v1::{
    Message, StreamMessageRequest, StreamMessageResponse, stream_message_request::Payload,
};
use tokio::task::JoinHandle;
use tonic::{Status, Streaming};

use super::status::refuse;
use super::{DecodeFailure, in_band};
use crate::domain::Error;
use crate::domain::sessions::View;
use crate::engine::{Engine, Joined, Opened, Pull, StreamId, Submitted};

/// Frames taken from the engine at once.
const AT_ONCE: usize = 64;
/// Messages read from disk at once by a stream that is behind.
const ROWS: usize = 256;
/// Messages of one client that may wait for the disk.
const IN_FLIGHT: usize = 256;

/// What the delivering side holds; dropping it is leaving.
struct Delivery {
    engine: Engine,
    opened: Opened,
    reader: JoinHandle<()>,
    decode_failure: DecodeFailure,
    ready: VecDeque<StreamMessageResponse>,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.reader.abort();
        self.engine.leave_stream(self.opened.id);
    }
}

pub fn stream(
    engine: Engine,
    caller: Caller,
    inbound: Streaming<StreamMessageRequest>,
) -> impl Stream<Item = Result<StreamMessageResponse, Status>> + Send {
    let opened = engine.open_stream();
    let decode_failure = DecodeFailure::default();
    let reader = read(
        engine.clone(),
        caller,
        opened.id,
        inbound,
        decode_failure.clone(),
        spans::current(),
    );
    let reader = tokio::spawn(reader);
    stream::try_unfold(
        Delivery {
            engine,
            opened,
            reader,
            decode_failure,
            ready: VecDeque::new(),
        },
        deliver,
    )
}

async fn deliver(mut d: Delivery) -> Result<Option<(StreamMessageResponse, Delivery)>, Status> {
    loop {
        if let Some(frame) = d.ready.pop_front() {
            return Ok(Some((frame, d)));
        }
        match d.engine.pull(d.opened.id, AT_ONCE) {
            Pull::Frames(frames) => d.ready.extend(frames),
            Pull::Read { session, after, before } => {
                let frames = d
                    .engine
                    .pull_read(d.opened.id, session, after, before, ROWS)
                    .await
                    .map_err(refuse)?;
                d.ready.extend(frames);
            }
            Pull::Wait => d.opened.more.notified().await,
            Pull::End(Ok(())) => return d.decode_failure.get().map_or(Ok(None), |status| Err(status.clone())),
            Pull::End(Err(error)) => return Err(refuse(error)),
        }
    }
}

/// Reads until the client ends its side, or breaks a rule.
async fn read(
    engine: Engine,
    caller: Caller,
    id: StreamId,
    mut inbound: Streaming<StreamMessageRequest>,
    decode_failure: DecodeFailure,
    parent: Option<TraceParent>,
) {
    let mut reading = Reading {
        engine: &engine,
        caller: &caller,
        id,
        session: None,
        acks: false,
        parent,
    };
    let mut waiting = FuturesOrdered::new();
    let end = loop {
        tokio::select! {
            biased;
            Some(()) = waiting.next(), if !waiting.is_empty() => {}
            frame = inbound.message(), if waiting.len() < IN_FLIGHT => match frame {
                Ok(Some(frame)) => match reading.frame(frame).await {
                    Ok(None) => {}
                    Ok(Some(stored)) => waiting.push_back(reading.settle(stored)),
                    Err(error) => break Err(error),
                },
                Ok(None) => break Ok(()),
                Err(status) => {
                    let _first = decode_failure.set(status);
                    break Ok(());
                }
            },
        }
    };
    while waiting.next().await.is_some() {}
    engine.end_stream(id, end);
}

struct Reading<'a> {
    engine: &'a Engine,
    caller: &'a Caller,
    id: StreamId,
    session: Option<u64>,
    acks: bool,
    /// The stream's own, for messages that bring none.
    parent: Option<TraceParent>,
}

/// A message on its way to the disk.
struct Storing {
    message_id: String,
    submitted: Submitted,
    /// Both end when its sender is told.
    _spans: (Span, Span),
}

impl<'a> Reading<'a> {
    /// One frame. What was sent to be stored is returned, to be waited for in order.
    async fn frame(&mut self, frame: StreamMessageRequest) -> Result<Option<Storing>, Error> {
        self.acks |= frame.acks;
        let beat = matches!(frame.payload, Some(Payload::Heartbeat(())));
        if self.session.is_none() {
            match self.join(&frame).await {
                Err(_) if beat => {} // a heartbeat for a session that is not there is only a heartbeat
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        match frame.payload {
            Some(Payload::Heartbeat(())) => self.engine.stream_heartbeat(self.id),
            Some(Payload::Message(message)) => {
                let parent = frame
                    .traceparent
                    .parse::<TraceParent>()
                    .ok()
                    .or_else(|| self.parent.clone());
                let received = Span::receive("receive message", parent.as_ref());
                return self.message(message, received).await;
            }
            Some(Payload::Cancel(cancel)) => {
                let session = self.session.ok_or(Error::FirstMessage("session_id"))?;
                self.engine.cancel(session, &cancel.message_id).await?;
            }
            None => {} // a first frame may only join
        }
        Ok(None)
    }

    async fn join(&mut self, frame: &StreamMessageRequest) -> Result<(), Error> {
        if frame.session_id.is_empty() {
            return Err(Error::FirstMessage("session_id"));
        }
        let view = View::of(self.caller, "exchange messages")?;
        let session = self.engine.open_session(&frame.session_id, view).await?;
        self.engine.join(
            self.id,
            session,
            Joined {
                after: frame.after_sequence,
            },
        )?;
        self.session = Some(session);
        Ok(())
    }

    /// An error with a message is told in band: the stream goes on for the next one.
    async fn message(&self, message: Message, received: Span) -> Result<Option<Storing>, Error> {
        let session = self.session.ok_or(Error::FirstMessage("session_id"))?;
        let id = message.id.clone();
        let storing = received
            .traceparent()
            .map(|parent| Span::within("store message", &parent));
        match received.over(self.engine.submit(session, message, self.id, None)).await {
            Ok(submitted) => Ok(Some(Storing {
                message_id: id,
                submitted,
                _spans: (storing.unwrap_or_default(), received),
            })),
            Err(error @ (Error::SessionClosed { .. } | Error::SessionNotFound(_))) => Err(error),
            Err(error) => {
                self.engine.stream_error(self.id, &id, &in_band(&error));
                Ok(None)
            }
        }
    }

    /// Waits until a message is on disk and tells its sender.
    fn settle(&self, storing: Storing) -> impl Future<Output = ()> + use<'a> {
        let (engine, id, acks) = (self.engine, self.id, self.acks);
        async move {
            let Storing {
                message_id,
                submitted,
                _spans,
            } = storing;
            let (sent, answer) = match submitted {
                Submitted::Repeat { sent, answer } => (Ok(sent), answer),
                Submitted::New(queued) => (queued.done().await, None),
            };
            match sent {
                Ok(sent) if acks => engine.stream_ack(id, &sent.id, sent.n),
                Ok(_) => {}
                Err(error) => engine.stream_error(id, &message_id, &in_band(&error)),
            }
            if let Some(answer) = answer {
                engine.stream_again(id, answer);
            }
        }
    }
}
