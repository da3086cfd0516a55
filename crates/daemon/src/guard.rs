//! The layer around every handler: authenticates, authorizes, limits, sets deadlines, and catches panics.
//!
//! ```text
//!   request ─▶ gRPC? ─▶ caller ─▶ method ─▶ access ─▶ room ─▶ handler ─▶ head ─▶ GuardBody
//!              415      DENIED    UNIMPL.   DENIED    EXHAUSTED  │ deadline, stop, panic
//! ```
//!
//! It reads headers only, never a message, and adds no queue: a call is taken at once or refused at once.

use nexus_proto::words;
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Code, Status, body::Body, metadata::MetadataValue};

use crate::{
    caller::Caller,
    deflate::Deflate,
    ends::{GRPC_STATUS, code_of, late, restate, shutting_down, token_ended},
    guard_body::GuardBody,
    inbound::{Inbound, Meter},
    metrics,
    panics::guarded,
    peer::Peer,
    room::{Room, Shared},
    scope::Scopes,
    services::{Answer, Kind, Method, service_of},
    shares::Resource,
    slots::Slot,
    spans::{self, Span, TraceParent},
    status::status,
    token_check::TokenEnd,
};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const CORRELATION: HeaderName = HeaderName::from_static(words::metadata::CORRELATION_ID);
const TRACEPARENT: HeaderName = HeaderName::from_static(words::metadata::TRACEPARENT);

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// One connection's way into the daemon.
pub(crate) struct Guard {
    pub shared: Arc<Shared>,
    pub peer: Peer,
    pub slot: Arc<Slot>,
}

impl hyper::service::Service<Request<Incoming>> for Guard {
    type Response = Response<GuardBody>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        match self.admit(request) {
            Ok(running) => Call::Running(running),
            Err(refusal) => Call::Refused(Some(refusal.answer())),
        }
    }
}

impl Guard {
    fn admit(&self, mut request: Request<Incoming>) -> Result<Running, Refusal> {
        let shared = &self.shared;
        speaks_grpc(&request)?;
        let caller = self.peer.identify(request.headers_mut())?;
        if !self.slot.is_known() {
            self.slot.settle(&caller)?;
        }

        if let Some(path) = shared.table.canonical(request.uri().path()) {
            // The new path is a part of one that was a path already, behind a slash.
            let uri = path.parse().map_err(|_| unknown(&path))?;
            *request.uri_mut() = uri;
        }
        let path = request.uri().path();
        let method = shared.table.find(path).ok_or_else(|| unknown(path))?;
        if !method.access.allows(caller.role) {
            let message = format!(
                "role {} ({}) may not call {path}: it needs {}",
                caller.role,
                caller.principal,
                method.access.needs()
            );
            return Err(status(Code::PermissionDenied, message, "ROLE").into());
        }
        if let Some(scopes) = &caller.scopes {
            within(scopes, &caller, path, &method)?;
        }

        let what = match method.kind {
            Kind::Stream => Resource::Streams,
            Kind::Unary | Kind::Unknown => Resource::Calls,
        };
        let account = self.peer.account(&shared.shares, &caller);
        let room = Room::take(shared, &account, &caller, what)?;
        let asked = timeout(request.headers())?;
        let after = asked.or(if method.kind == Kind::Unary {
            shared.default_deadline
        } else {
            None
        });
        let span = span(&mut request, &method, &caller.principal);
        let traced = if spans::enabled() {
            traced(&mut request, &method)
        } else {
            Span::default()
        };
        let token = match method.kind {
            Kind::Unary => None,
            Kind::Stream | Kind::Unknown => self.peer.token_end(&caller),
        };
        let gzip = Encodings::take(request.headers_mut())?;
        let meter = Meter::new(shared.clone(), account, caller.is_admin(), method.kind == Kind::Unary);
        let arriving = token.clone();
        let mut request = request.map(|body| Body::new(Inbound::new(body, meter, gzip.request, arriving)));
        request.extensions_mut().insert(caller);

        let entered = (span.as_ref().map(tracing::Span::enter), traced.enter());
        let handler = guarded(&method, || method.target.call(request))?;
        drop(entered);
        Ok(Running {
            handler,
            deadline: after.map(|after| Box::pin(tokio::time::sleep(after))),
            end: (method.kind == Kind::Stream).then(|| Box::pin(shared.end.clone().cancelled_owned())),
            room: Some(room),
            token: token.map(Watched::new),
            gzip: gzip.answer,
            started: (metrics::enabled() || traced.traceparent().is_some()).then(Instant::now),
            method,
            shared: shared.clone(),
            span,
            traced,
        })
    }
}

/// Refuses what a token's scopes leave out.
fn within(scopes: &Scopes, caller: &Caller, path: &str, method: &Method) -> Result<(), Status> {
    let message = if !scopes.reach(service_of(path)) {
        format!("{} has no scope that reaches {path}", caller.principal)
    } else if !scopes.allow(method.action) {
        let (who, needed) = (&caller.principal, method.action);
        format!("{who} may not call {path}: its scopes ({scopes}) do not include {needed}")
    } else {
        return Ok(());
    };
    Err(status(Code::PermissionDenied, message, "SCOPE"))
}

fn unknown(path: &str) -> Status {
    status(Code::Unimplemented, format!("unknown method {path}"), "UNKNOWN_METHOD")
}

/// What of a call is compressed.
struct Encodings {
    request: bool,
    answer: bool,
}

impl Encodings {
    /// Takes the headers away that say it: behind the guard nothing is compressed.
    fn take(headers: &mut HeaderMap) -> Result<Encodings, Status> {
        let request = match headers.remove(ENCODING) {
            None => false,
            Some(encoding) if encoding == GZIP => true,
            Some(encoding) if encoding == "identity" => false,
            Some(encoding) => {
                let message = format!("the encoding {encoding:?} is not supported: use gzip or identity");
                let mut refusal = status(Code::Unimplemented, message, "GRPC_ENCODING");
                let accepted = MetadataValue::from_static("identity,gzip");
                refusal.metadata_mut().insert("grpc-accept-encoding", accepted);
                return Err(refusal);
            }
        };
        let accepted = headers.remove(ACCEPT_ENCODING);
        let accepted = accepted
            .as_ref()
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let answer = accepted.split(',').any(|encoding| encoding.trim() == "gzip");
        Ok(Encodings { request, answer })
    }
}

/// Why a request goes no further: it is no gRPC at all, or gets a status.
enum Refusal {
    Http(StatusCode),
    Grpc(Status),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Refusal::Grpc(status)
    }
}

impl Refusal {
    fn answer(self) -> Response<GuardBody> {
        let answer = match self {
            Refusal::Grpc(status) => status.into_http(),
            Refusal::Http(code) => {
                let mut answer = Response::new(Body::empty());
                *answer.status_mut() = code;
                if code == StatusCode::METHOD_NOT_ALLOWED {
                    answer
                        .headers_mut()
                        .insert(header::ALLOW, HeaderValue::from_static("POST"));
                }
                answer
            }
        };
        answer.map(GuardBody::plain)
    }
}

fn speaks_grpc<B>(request: &Request<B>) -> Result<(), Refusal> {
    if request.method() != HttpMethod::POST {
        return Err(Refusal::Http(StatusCode::METHOD_NOT_ALLOWED));
    }
    let content = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !content.is_some_and(|content| content.starts_with(b"application/grpc")) {
        return Err(Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    Ok(())
}

/// `grpc-timeout`: at most eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let malformed = || {
        status(
            Code::InvalidArgument,
            format!("malformed grpc-timeout {value:?}"),
            "GRPC_TIMEOUT",
        )
    };
    let (digits, unit) = value
        .as_bytes()
        .split_at_checked(value.len().saturating_sub(1))
        .ok_or_else(malformed)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let number = digits
        .iter()
        .fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    Ok(Some(match unit {
        b"H" => Duration::from_secs(number * 3600),
        b"M" => Duration::from_secs(number * 60),
        b"S" => Duration::from_secs(number),
        b"m" => Duration::from_millis(number),
        b"u" => Duration::from_micros(number),
        b"n" => Duration::from_nanos(number),
        _ => return Err(malformed()),
    }))
}

/// Only where somebody listens at debug level; a call that nobody traces pays one comparison.
fn span<B>(request: &mut Request<B>, method: &Method, principal: &str) -> Option<tracing::Span> {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return None;
    }
    if !request.headers().contains_key(CORRELATION) {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let made = format!("{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let made = HeaderValue::from_str(&made).expect("hex digits and a dash");
        request.headers_mut().insert(CORRELATION, made);
    }
    let id = request
        .headers()
        .get(CORRELATION)
        .and_then(|id| id.to_str().ok())
        .unwrap_or("");
    Some(tracing::debug_span!(
        "rpc",
        method = &*method.path,
        principal,
        correlation_id = id
    ))
}

/// The span of a call, below the caller's where it sent one. A stream, a sign of life and a question of health are part of one only where the caller
/// says so: they are no work for somebody, or work for many.
fn traced<B>(request: &mut Request<B>, method: &Method) -> Span {
    let from = request.headers().get(TRACEPARENT).and_then(|from| from.to_str().ok());
    let from: Option<TraceParent> = from.and_then(|from| from.parse().ok());
    let begins =
        method.kind == Kind::Unary && !method.path.starts_with("/grpc.") && !method.path.ends_with("/Heartbeat");
    if from.is_none() && !begins {
        return Span::default();
    }
    let name = method.path.trim_start_matches('/');
    let span = Span::receive(name.to_owned(), from.as_ref());
    let (service, called) = name.split_once('/').unwrap_or((name, ""));
    span.note("rpc.system", "grpc");
    span.note("rpc.service", service.to_owned());
    span.note("rpc.method", called.to_owned());
    if let Some(value) = span
        .traceparent()
        .and_then(|own| HeaderValue::try_from(own.to_string()).ok())
    {
        // Who the request is passed on to is a part of this call.
        request.headers_mut().insert(TRACEPARENT, value);
    }
    span
}

/// A request on its way: what hyper polls.
pub(crate) enum Call {
    Refused(Option<Response<GuardBody>>),
    Running(Running),
}

pub(crate) struct Running {
    handler: Answer,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Streams only: a unary handler is waited for instead.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Of a unary call until it has answered, of a stream until it has ended.
    room: Option<Room>,
    /// Streams only.
    token: Option<Watched>,
    /// The caller takes answers as gzip.
    gzip: bool,
    started: Option<Instant>,
    method: Arc<Method>,
    shared: Arc<Shared>,
    span: Option<tracing::Span>,
    traced: Span,
}

impl Future for Call {
    type Output = Result<Response<GuardBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Call::Refused(answer) => Poll::Ready(Ok(answer.take().expect("polled after it was done"))),
            Call::Running(running) => running.poll(cx).map(Ok),
        }
    }
}

impl Running {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response<GuardBody>> {
        let answered = {
            let _entered = (self.span.as_ref().map(tracing::Span::enter), self.traced.enter());
            guarded(&self.method, || self.handler.as_mut().poll(cx))
        };
        let answer = match answered {
            Ok(Poll::Ready(Ok(answer))) => answer,
            Ok(Poll::Ready(Err(never))) => match never {},
            Ok(Poll::Pending) => ready!(self.poll_end(cx)).into_http(),
            Err(panic) => panic.into_http(),
        };
        if self.method.kind != Kind::Stream {
            self.room = None;
        }
        Poll::Ready(self.wrap(answer))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(late());
        }
        if let Some(token) = &mut self.token
            && token.wait.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(token_ended());
        }
        match &mut self.end {
            Some(end) => end.as_mut().poll(cx).map(|()| shutting_down()),
            None => Poll::Pending,
        }
    }

    fn wrap(&mut self, answer: Response<Body>) -> Response<GuardBody> {
        let (mut head, body) = answer.into_parts();
        let failed = head.headers.get(GRPC_STATUS).is_some();
        if failed {
            restate(&mut head.headers);
        }
        if let Some(span) = &self.span {
            let _entered = span.enter();
            let code = if failed { code_of(&head.headers) } else { Code::Ok };
            match self.method.kind {
                Kind::Stream if !failed => tracing::debug!("stream open"),
                _ => tracing::debug!(?code, "answered"),
            }
        }
        let mut body = body;
        if self.gzip && !failed && !head.headers.contains_key(ENCODING) {
            head.headers.insert(ENCODING, GZIP);
            body = Body::new(Deflate::new(body));
        }
        let traced = std::mem::take(&mut self.traced);
        let ended = self
            .started
            .map(|started| Ended::new(self.method.clone(), started, traced));
        let body = match self.method.kind {
            Kind::Unary => GuardBody::unary(body, self.method.clone(), ended),
            Kind::Stream | Kind::Unknown if failed => GuardBody::unary(body, self.method.clone(), ended),
            Kind::Stream | Kind::Unknown => {
                let end = self
                    .end
                    .take()
                    .unwrap_or_else(|| Box::pin(self.shared.end.clone().cancelled_owned()));
                GuardBody::stream(
                    body,
                    Watch {
                        method: self.method.clone(),
                        shared: self.shared.clone(),
                        deadline: self.deadline.take(),
                        end,
                        token: self.token.take(),
                        _room: self.room.take(),
                        span: self.span.take(),
                        ended,
                    },
                )
            }
        };
        let body = if failed { body.failed(&head.headers) } else { body };
        Response::from_parts(head, body)
    }
}

/// What a response stream is watched for while it is open.
pub(crate) struct Watch {
    pub method: Arc<Method>,
    pub shared: Arc<Shared>,
    pub deadline: Option<Pin<Box<Sleep>>>,
    pub end: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Of the caller's token, if it has one.
    pub token: Option<Watched>,
    /// Held for its drop.
    pub _room: Option<Room>,
    pub span: Option<tracing::Span>,
    pub ended: Option<Ended>,
}

/// The token in whose name a stream is open.
pub(crate) struct Watched {
    pub end: Arc<TokenEnd>,
    pub wait: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watched {
    fn new(end: Arc<TokenEnd>) -> Self {
        let wait = Box::pin(end.wait());
        Watched { end, wait }
    }
}

/// Counts a call when it is over; one the client gave up on counts as cancelled.
pub(crate) struct Ended {
    method: Arc<Method>,
    started: Instant,
    pub code: Code,
    pub traced: Span,
}

impl Ended {
    fn new(method: Arc<Method>, started: Instant, traced: Span) -> Self {
        Ended {
            method,
            started,
            code: Code::Cancelled,
            traced,
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if metrics::enabled() {
            self.method
                .metrics
                .ended(&self.method.path, self.code, self.started.elapsed());
        }
        self.traced.note("rpc.grpc.status_code", self.code as i64);
        if self.code != Code::Ok {
            self.traced.failed(format!("{:?}", self.code));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Duration>, Code> {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT, text.parse().unwrap());
        timeout(&headers).map_err(|status| status.code())
    }

    #[test]
    fn timeouts_are_read_by_the_book() {
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
        assert_eq!(parse("250m"), Ok(Some(Duration::from_millis(250))));
        assert_eq!(parse("99999999H"), Ok(Some(Duration::from_secs(99_999_999 * 3600))));
        for wrong in ["", "5", "S", "123456789S", "-1S", "1s", "1 S"] {
            assert_eq!(parse(wrong), Err(Code::InvalidArgument), "{wrong:?}");
        }
    }
}
