//! The body of every response. A unary one only keeps a panic to itself; a stream ends, with trailers that say why, at
//! its deadline, at a stop, at a panic, at the end of its caller's token, and where what it passes on breaks off.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Code, Status, body::Body};

use crate::{
    ends::{code_of, late, restate, shutting_down, token_ended},
    guard::{Ended, Watch},
    panics::guarded,
    services::Method,
};

type Next = Option<Result<Frame<Bytes>, Status>>;

pub(crate) struct GuardBody {
    inner: Body,
    kind: Kind,
}

enum Kind {
    /// Nothing is watched any more, or ever was.
    Plain,
    Unary {
        method: Arc<Method>,
        ended: Option<Ended>,
    },
    // Boxed: most bodies are unary and hyper moves them.
    Stream(Box<Watch>),
}

impl GuardBody {
    pub fn plain(inner: Body) -> Self {
        GuardBody {
            inner,
            kind: Kind::Plain,
        }
    }

    pub fn unary(inner: Body, method: Arc<Method>, ended: Option<Ended>) -> Self {
        GuardBody {
            inner,
            kind: Kind::Unary { method, ended },
        }
    }

    pub fn stream(inner: Body, watch: Watch) -> Self {
        GuardBody {
            inner,
            kind: Kind::Stream(Box::new(watch)),
        }
    }

    /// The head already told how the call ended.
    pub fn failed(mut self, head: &HeaderMap) -> Self {
        self.note(code_of(head));
        self
    }

    fn note(&mut self, code: Code) {
        let ended = match &mut self.kind {
            Kind::Plain => None,
            Kind::Unary { ended, .. } => ended.as_mut(),
            Kind::Stream(watch) => watch.ended.as_mut(),
        };
        if let Some(ended) = ended {
            ended.code = code;
        }
    }

    /// The last frame, made by us; whatever the handler still holds goes now.
    fn finish(&mut self, status: &Status) -> Poll<Next> {
        self.note(status.code());
        self.inner = Body::empty();
        self.kind = Kind::Plain;
        let mut trailers = HeaderMap::with_capacity(3);
        if let Err(error) = status.add_header(&mut trailers) {
            tracing::error!(%error, "a status does not fit into trailers");
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Result<Poll<Next>, Status> {
        let inner = Pin::new(&mut self.inner);
        match &self.kind {
            Kind::Plain => Ok(inner.poll_frame(cx)),
            Kind::Unary { method, .. } => guarded(method, || inner.poll_frame(cx)),
            Kind::Stream(watch) => {
                let traced = watch.ended.as_ref().and_then(|ended| ended.traced.enter());
                let _entered = (watch.span.as_ref().map(tracing::Span::enter), traced);
                guarded(&watch.method, || inner.poll_frame(cx))
            }
        }
    }

    /// Whether an open stream has to end now, and why.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        let Kind::Stream(watch) = &mut self.kind else {
            return None;
        };
        if let Some(deadline) = &mut watch.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Some(late());
        }
        if let Some(token) = &mut watch.token
            && token.wait.as_mut().poll(cx).is_ready()
        {
            return Some(token_ended());
        }
        watch.end.as_mut().poll(cx).is_ready().then(shutting_down)
    }

    /// The same, for a stream that always has something to say and so never gets to wait.
    fn must_end(&self) -> Option<Status> {
        let Kind::Stream(watch) = &self.kind else { return None };
        if watch.shared.is_ending() {
            return Some(shutting_down());
        }
        if watch.token.as_ref().is_some_and(|token| token.end.has_come()) {
            return Some(token_ended());
        }
        let late_by_now = watch
            .deadline
            .as_ref()
            .is_some_and(|deadline| deadline.deadline() <= tokio::time::Instant::now());
        late_by_now.then(late)
    }
}

impl http_body::Body for GuardBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        let this = self.get_mut();
        if let Some(status) = this.must_end() {
            return this.finish(&status);
        }
        match this.poll_inner(cx) {
            Ok(Poll::Ready(Some(Ok(mut frame)))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    restate(trailers);
                    let code = code_of(trailers);
                    this.note(code);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // Plain bodies have no call to end; hyper resets the stream.
            Ok(Poll::Ready(Some(Err(status)))) if matches!(this.kind, Kind::Plain) => Poll::Ready(Some(Err(status))),
            Ok(Poll::Ready(Some(Err(status)))) => this.finish(&status),
            Ok(Poll::Ready(None)) => Poll::Ready(None),
            Ok(Poll::Pending) => match this.poll_end(cx) {
                Some(status) => this.finish(&status),
                None => Poll::Pending,
            },
            Err(panic) => this.finish(&panic),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
