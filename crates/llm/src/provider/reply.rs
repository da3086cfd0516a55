//! A streamed HTTP answer as pieces: bytes to events to what the dialect makes of them.

use std::{collections::VecDeque, future::Future, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream};
use reqwest::{Response, header};
use tokio::time::timeout;

use super::{
    Pieces, http,
    sse::{Decoder, Event},
};
use crate::{
    domain::{
        answer::Piece,
        failure::{Failure, Kind},
    },
    keys::Key,
};

/// After the last event the connection is free again once its body has ended, which is usually at once.
const DRAIN: Duration = Duration::from_millis(50);

/// How one family of providers words its events.
pub trait Dialect: Send + 'static {
    fn read(&mut self, event: &Event, out: &mut VecDeque<Piece>) -> Result<(), Failure>;

    /// The answer is whole; nothing more is read.
    fn is_done(&self) -> bool;

    /// The connection ended. An error unless the answer is whole after all.
    fn at_end(&mut self, out: &mut VecDeque<Piece>) -> Result<(), Failure>;
}

enum Phase {
    Opening(BoxFuture<'static, Result<Response, Failure>>),
    Reading(Response),
    Ended,
}

struct Reply<D> {
    phase: Phase,
    dialect: D,
    idle: Duration,
    key: Option<Key>,
    decoder: Decoder,
    events: VecDeque<Event>,
    pieces: VecDeque<Piece>,
    // Told after the pieces that came before it.
    failure: Option<Failure>,
}

pub fn pieces<D: Dialect>(
    open: impl Future<Output = Result<Response, Failure>> + Send + 'static,
    dialect: D,
    idle: Duration,
    key: Option<Key>,
) -> Pieces {
    let reply = Reply {
        phase: Phase::Opening(Box::pin(open)),
        dialect,
        idle,
        key,
        decoder: Decoder::default(),
        events: VecDeque::new(),
        pieces: VecDeque::new(),
        failure: None,
    };
    stream::unfold(reply, |mut reply| async move {
        reply.next().await.map(|item| (item, reply))
    })
    .boxed()
}

impl<D: Dialect> Reply<D> {
    async fn next(&mut self) -> Option<Result<Piece, Failure>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Some(Ok(piece));
            }
            if let Some(failure) = self.failure.take() {
                self.phase = Phase::Ended;
                return Some(Err(http::redact(failure, self.key.as_ref())));
            }
            if let Err(failure) = self.advance().await? {
                self.failure = Some(failure);
            }
        }
    }

    /// One step further, or `None` at the end.
    async fn advance(&mut self) -> Option<Result<(), Failure>> {
        match &mut self.phase {
            Phase::Ended => None,
            Phase::Opening(open) => Some(match open.await.and_then(only_events) {
                Ok(response) => {
                    self.phase = Phase::Reading(response);
                    Ok(())
                }
                Err(failure) => Err(failure),
            }),
            Phase::Reading(response) => {
                let chunk = match timeout(self.idle, response.chunk()).await {
                    Ok(Ok(chunk)) => chunk,
                    Ok(Err(error)) => return Some(Err(http::of_error(&error))),
                    Err(_) => {
                        let text = format!("silent for {} s within an answer", self.idle.as_secs_f64());
                        return Some(Err(Failure::new(Kind::Silent, text)));
                    }
                };
                Some(self.take(chunk.as_deref()).await)
            }
        }
    }

    async fn take(&mut self, chunk: Option<&[u8]>) -> Result<(), Failure> {
        let decoded = match chunk {
            Some(bytes) => self.decoder.push(bytes, &mut self.events),
            None => self.decoder.finish(&mut self.events),
        };
        while let Some(event) = self.events.pop_front() {
            self.dialect.read(&event, &mut self.pieces)?;
            if self.dialect.is_done() {
                if let (Some(_), Phase::Reading(response)) = (chunk, &mut self.phase) {
                    // Whatever comes of it, the answer is whole.
                    let _ = timeout(DRAIN, response.chunk()).await;
                }
                self.phase = Phase::Ended;
                return Ok(());
            }
        }
        decoded.map_err(|error| Failure::new(Kind::Broken, error.to_string()))?;
        if chunk.is_none() {
            self.phase = Phase::Ended;
            self.dialect.at_end(&mut self.pieces)?;
        }
        Ok(())
    }
}

fn only_events(response: Response) -> Result<Response, Failure> {
    let kind = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("nothing");
    if kind.starts_with("text/event-stream") {
        return Ok(response);
    }
    let text = format!("answered with {} instead of an event stream", http::clean(kind));
    Err(Failure::new(Kind::Broken, text))
}

/// An event's data as JSON.
pub fn json(event: &Event) -> Result<serde_json::Value, Failure> {
    serde_json::from_str(&event.data)
        .map_err(|error| Failure::new(Kind::Broken, format!("sent an event that is not JSON: {error}")))
}

pub fn cut() -> Failure {
    Failure::new(Kind::Broken, "the connection ended before the answer did")
}
