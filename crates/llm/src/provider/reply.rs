//! Turns a streamed HTTP answer into pieces: bytes, then events, then the dialect's pieces.
//!
//! An answer that is one JSON document where a stream was asked for is read as what it is. What tells an error, in any of
//! the forms that servers have for it, is a failure whatever came before it.

use std::{collections::VecDeque, future::Future, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream};
use reqwest::{Response, header};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    Pieces,
    http::{self, ProviderError},
    sse::{Decoder, Event},
};
use crate::{
    domain::{
        answer::{Cached, Piece},
        failure::{Failure, Kind},
    },
    keys::Key,
};

/// After the last event the connection is free again once its body has ended, which is usually at once.
const DRAIN: Duration = Duration::from_millis(50);
/// How long usage or the end of the stream may take once the model has finished.
const AFTER_FINISH: Duration = Duration::from_secs(5);
/// The longest whole answer.
const LONGEST_DOCUMENT: usize = 64 << 20;
/// How many bytes of an answer that is not a stream are kept, to say what it was.
const HEAD: usize = 1024;

/// How one family of providers words its events.
pub trait Dialect: Send + 'static {
    fn read(&mut self, event: &Event, out: &mut VecDeque<Piece>) -> Result<(), Failure>;

    /// A whole answer in one document.
    fn whole(&mut self, document: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure>;

    /// The model has finished; what may follow is usage and the end of the stream.
    fn is_finished(&self) -> bool;

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

/// What the body is, as its first byte tells: headers are often wrong about it.
enum Body {
    Unknown,
    Events,
    Document(Vec<u8>),
}

struct Reply<D> {
    phase: Phase,
    body: Body,
    dialect: D,
    idle: Duration,
    key: Option<Key>,
    decoder: Decoder,
    events: VecDeque<Event>,
    pieces: VecDeque<Piece>,
    /// The beginning of the body and its media type, while no event has come.
    head: Option<(String, Vec<u8>)>,
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
        body: Body::Unknown,
        dialect,
        idle,
        key,
        decoder: Decoder::default(),
        events: VecDeque::new(),
        pieces: VecDeque::new(),
        head: None,
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
            Phase::Opening(open) => Some(match open.await {
                Ok(response) => {
                    self.head = Some((media_type(&response), Vec::new()));
                    self.phase = Phase::Reading(response);
                    Ok(())
                }
                Err(failure) => Err(failure),
            }),
            Phase::Reading(response) => {
                let finished = self.dialect.is_finished();
                let patience = if finished {
                    self.idle.min(AFTER_FINISH)
                } else {
                    self.idle
                };
                let broken = match timeout(patience, response.chunk()).await {
                    Ok(Ok(chunk)) => return Some(self.take(chunk.as_deref()).await),
                    Ok(Err(error)) => http::of_error(&error),
                    Err(_) => Failure::new(
                        Kind::Silent,
                        format!(
                            "silent for {} s within an answer (llm.idle_timeout)",
                            patience.as_secs_f64()
                        ),
                    ),
                };
                if finished {
                    // Nothing that counts is missing.
                    return Some(self.take(None).await);
                }
                Some(Err(broken))
            }
        }
    }

    async fn take(&mut self, chunk: Option<&[u8]>) -> Result<(), Failure> {
        if let (Body::Unknown, Some(bytes)) = (&self.body, chunk) {
            self.body = body_of(bytes);
        }
        if let Body::Document(document) = &mut self.body {
            match chunk {
                Some(bytes) if document.len() + bytes.len() > LONGEST_DOCUMENT => {
                    let text = format!("sent an answer that is longer than {LONGEST_DOCUMENT} bytes");
                    return Err(Failure::new(Kind::Broken, text));
                }
                Some(bytes) => {
                    document.extend_from_slice(bytes);
                    self.pieces.push_back(Piece::Alive);
                    return Ok(());
                }
                None => {
                    self.phase = Phase::Ended;
                    let document = std::mem::take(document);
                    return self.document(&document);
                }
            }
        }
        self.take_events(chunk).await
    }

    async fn take_events(&mut self, chunk: Option<&[u8]>) -> Result<(), Failure> {
        if let (Some((_, head)), Some(bytes)) = (&mut self.head, chunk) {
            head.extend_from_slice(&bytes[..bytes.len().min(HEAD.saturating_sub(head.len()))]);
        }
        let decoded = match chunk {
            Some(bytes) => self.decoder.push(bytes, &mut self.events),
            None => self.decoder.finish(&mut self.events),
        };
        while let Some(event) = self.events.pop_front() {
            self.head = None;
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
            if let Some((kind, head)) = self.head.take() {
                return Err(no_stream(&kind, &head));
            }
            return self.dialect.at_end(&mut self.pieces);
        }
        if self.pieces.is_empty() {
            self.pieces.push_back(Piece::Alive);
        }
        Ok(())
    }

    fn document(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}');
        let document: Value = serde_json::from_str(text).map_err(|error| {
            let text = format!("sent JSON that does not parse ({error}): {}", http::clean(text));
            Failure::new(Kind::Broken, text)
        })?;
        if let Some(told) = ProviderError::within(&document) {
            return Err(told.failure());
        }
        self.dialect.whole(&document, &mut self.pieces)
    }
}

/// A JSON document begins with a brace, and no line of an event stream does.
fn body_of(bytes: &[u8]) -> Body {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{' | b'[') => Body::Document(Vec::new()),
        Some(_) => Body::Events,
        None => Body::Unknown,
    }
}

/// In lower case and without parameters; empty where the server gives none.
fn media_type(response: &Response) -> String {
    let header = response.headers().get(header::CONTENT_TYPE);
    let text = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A page for people is not what was asked for, whatever its status: the address is another one.
pub fn not_a_page(response: Response) -> Result<Response, Failure> {
    let kind = media_type(&response);
    if !matches!(kind.as_str(), "text/html" | "application/xhtml+xml") {
        return Ok(response);
    }
    let text = format!(
        "answered with {kind} instead of an event stream (asked {})",
        http::shown(response.url())
    );
    Err(Failure::new(Kind::Broken, text))
}

fn no_stream(kind: &str, head: &[u8]) -> Failure {
    let kind = if kind.is_empty() {
        "no media type".to_owned()
    } else {
        http::clean(kind)
    };
    let head = http::clean(&String::from_utf8_lossy(head));
    let text = match head.as_str() {
        "" => "sent an empty answer".to_owned(),
        head => format!("answered with {kind} instead of an event stream: {head}"),
    };
    Failure::new(Kind::Broken, text)
}

/// An event's data as JSON; `None` for one that only keeps the connection alive. An event that tells an error is one,
/// whatever its form.
pub fn json(event: &Event) -> Result<Option<Value>, Failure> {
    let data = event.data.trim();
    if event.name == "error" {
        let told = match serde_json::from_str::<Value>(data) {
            Ok(value) => ProviderError::within(&value).unwrap_or_else(|| ProviderError::of(&value)),
            Err(_) => ProviderError::of(&Value::String(data.to_owned())),
        };
        return Err(told.failure());
    }
    let name = event.name.to_ascii_lowercase();
    let keeps_alive = matches!(name.as_str(), "ping" | "keepalive" | "keep-alive" | "heartbeat");
    if data.is_empty() || data.starts_with(':') || data == "[DONE]" || keeps_alive {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(data).map_err(|error| {
        let text = format!("sent an event that is not JSON ({error}): {}", http::clean(data));
        Failure::new(Kind::Broken, text)
    })?;
    match ProviderError::within(&value) {
        Some(told) => Err(told.failure()),
        None => Ok(Some(value)),
    }
}

/// How many tokens of the input a provider read from its cache.
pub fn read_from_cache(count: &Value) -> Option<Piece> {
    let read = count.as_u64().filter(|read| *read > 0)?;
    Some(Piece::Cached(Cached { read, written: 0 }))
}

pub fn cut() -> Failure {
    Failure::new(Kind::Broken, "the connection ended before the answer did")
}

/// A model's reason for its end that nobody knows: better told as a failure than taken for a whole answer.
pub fn unknown_end(reason: &str) -> Failure {
    let text = format!("ended its answer with the unknown reason {:?}", http::clean(reason));
    Failure::new(Kind::Server, text)
}

/// A document that is neither an answer nor an error that says so.
pub fn no_answer(document: &Value) -> Failure {
    let told = ProviderError::of(document);
    Failure::new(Kind::Broken, format!("sent JSON that is no answer: {}", told.message))
}
