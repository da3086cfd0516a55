//! The body of a request on its way to the handler.
//!
//! ```text
//!   HTTP/2 ─▶ counted ─▶ inflated, if it came as gzip ─▶ handler
//! ```
//!
//! Bytes of a message that is not whole yet are counted against its caller, and it has a time by which it must be whole.
//! A message that arrives in one piece, as nearly all do, costs one comparison. A stream in the name of a token takes
//! nothing more once the token has ended.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

use crate::{
    ends::token_ended,
    inflate::{Inflate, Step},
    room::Shared,
    shares::{Account, Resource},
    status::status,
    token_check::TokenEnd,
};

/// One byte that says whether the message is compressed, four of its length.
pub(crate) const PREFIX: usize = 5;

pub(crate) fn length(prefix: [u8; PREFIX]) -> usize {
    let [_, a, b, c, d] = prefix;
    u32::from_be_bytes([a, b, c, d]) as usize
}

type Next = Option<Result<Frame<Bytes>, Status>>;

pub(crate) struct Inbound {
    body: Incoming,
    meter: Meter,
    inflate: Option<Box<Inflate>>,
    token: Option<Arc<TokenEnd>>,
    failed: bool,
}

impl Inbound {
    pub fn new(body: Incoming, meter: Meter, gzip: bool, token: Option<Arc<TokenEnd>>) -> Self {
        let inflate = gzip.then(|| Box::new(Inflate::new(meter.shared.max_message_bytes)));
        Inbound {
            body,
            meter,
            inflate,
            token,
            failed: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Status>> {
        if self.token.as_ref().is_some_and(|token| token.has_come()) {
            return Poll::Ready(Err(token_ended()));
        }
        match self.inflate.take() {
            None => match self.poll_body(cx) {
                Poll::Ready(Ok(Some(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.meter.arrived(data)?;
                    }
                    Poll::Ready(Ok(Some(frame)))
                }
                other => other,
            },
            Some(mut inflate) => {
                let answer = self.poll_inflated(&mut inflate, cx);
                self.inflate = Some(inflate);
                answer
            }
        }
    }

    fn poll_inflated(
        &mut self,
        inflate: &mut Inflate,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, Status>> {
        loop {
            match inflate.step()? {
                Step::Message(message) => {
                    self.meter.whole();
                    return Poll::Ready(Ok(Some(Frame::data(message))));
                }
                Step::Hungry => {}
                Step::Busy => {
                    self.meter.hold(inflate.held())?;
                    // Others have their turn before more is inflated.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            self.meter.hold(inflate.held())?;
            match ready!(self.poll_body(cx))?.map(Frame::into_data) {
                Some(Ok(data)) => inflate.feed(data),
                Some(Err(trailers)) => return Poll::Ready(Ok(Some(trailers))),
                None => return Poll::Ready(inflate.end().map(|()| None)),
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Status>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.transpose().map_err(|error| Status::from_error(Box::new(error)))),
            Poll::Pending => {
                ready!(self.meter.poll_late(cx))?;
                Poll::Pending
            }
        }
    }
}

impl http_body::Body for Inbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        let this = self.get_mut();
        if this.failed {
            return Poll::Ready(None);
        }
        let next = ready!(this.poll(cx));
        if next.is_err() {
            this.failed = true;
            this.meter.release();
            this.inflate = None;
        }
        Poll::Ready(next.transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.failed || (self.inflate.is_none() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self.inflate {
            None => self.body.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

/// Counts the bytes of the message that is on its way.
pub(crate) struct Meter {
    shared: Arc<Shared>,
    account: Arc<Account>,
    admin: bool,
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that are there.
    begun: usize,
    /// Bytes of the message that are missing, once its prefix is there.
    missing: usize,
    /// Bytes that are counted against the caller.
    held: usize,
    since: Option<Instant>,
    /// The call has one message, which has not come yet.
    awaited: bool,
    late: Option<Pin<Box<Sleep>>>,
}

impl Meter {
    /// `awaits_one`: the call is unary, and its time begins with the call.
    pub fn new(shared: Arc<Shared>, account: Arc<Account>, admin: bool, awaits_one: bool) -> Self {
        Meter {
            shared,
            account,
            admin,
            prefix: [0; PREFIX],
            begun: 0,
            missing: 0,
            held: 0,
            since: None,
            awaited: awaits_one,
            late: None,
        }
    }

    fn arrived(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.begun == 0
            && let Some(prefix) = data.first_chunk()
            && PREFIX + length(*prefix) == data.len()
        {
            self.awaited = false;
            return Ok(());
        }
        self.walk(data)
    }

    fn walk(&mut self, mut data: &[u8]) -> Result<(), Status> {
        let mut so_far = self.held;
        while !data.is_empty() {
            let taken = if self.begun < PREFIX {
                let taken = data.len().min(PREFIX - self.begun);
                self.prefix[self.begun..][..taken].copy_from_slice(&data[..taken]);
                self.begun += taken;
                if self.begun == PREFIX {
                    self.missing = length(self.prefix);
                }
                taken
            } else {
                let taken = data.len().min(self.missing);
                self.missing -= taken;
                taken
            };
            data = &data[taken..];
            so_far += taken;
            if self.begun == PREFIX && self.missing == 0 {
                self.begun = 0;
                so_far = 0;
                self.whole();
            }
        }
        self.hold(so_far)
    }

    /// A message is whole: what comes next has its own time.
    fn whole(&mut self) {
        self.release();
        (self.since, self.late, self.awaited) = (None, None, false);
    }

    /// So many bytes of the message are held now.
    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        if bytes > 0 && self.since.is_none() {
            self.since = Some(Instant::now());
        }
        if bytes > self.held {
            let more = bytes - self.held;
            self.shared
                .shares
                .take(Resource::Bytes, &self.account, self.admin, more)?;
        } else if bytes < self.held {
            let less = self.held - bytes;
            self.shared.shares.give_back(Resource::Bytes, &self.account, less);
        }
        self.held = bytes;
        Ok(())
    }

    fn release(&mut self) {
        if self.held > 0 {
            self.shared.shares.give_back(Resource::Bytes, &self.account, self.held);
            self.held = 0;
        }
    }

    /// Fails when the message that has begun, or is awaited, has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.since.is_none() && !self.awaited {
            return Poll::Pending;
        }
        let after = self.shared.message_timeout;
        let since = *self.since.get_or_insert_with(Instant::now);
        let late = self.late.get_or_insert_with(|| Box::pin(sleep_until(since + after)));
        ready!(late.as_mut().poll(cx));
        let message = format!("a message was not whole after {after:?} ([common] message_timeout)");
        Poll::Ready(Err(status(Code::ResourceExhausted, message, "MESSAGE_TIMEOUT")))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.release();
    }
}
