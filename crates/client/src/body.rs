//! The body of an answer: ends at the call's deadline, and tells a lost connection from a server's refusal.

use std::{
    error::Error as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::{Address, error::chain};

/// A call's deadline, and how long it was, for the message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) after: Duration,
}

pub(crate) struct Answer {
    body: Incoming,
    address: Arc<Address>,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
}

impl Answer {
    pub(crate) fn new(body: Incoming, address: Arc<Address>, deadline: Option<Deadline>) -> Self {
        Answer {
            body,
            address,
            deadline: deadline.map(|one| (Box::pin(tokio::time::sleep_until(one.at)), one.after)),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|result| result.map_err(|error| lost(&this.address, &error))));
        }
        if let Some((sleep, after)) = &mut this.deadline
            && sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(expired(&this.address, *after))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pub(crate) fn expired(address: &Address, after: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer from {address} within {after:?}"))
}

/// A broken connection may be tried again; a call that the server broke off with a protocol error is a fault.
pub(crate) fn lost(address: &Address, error: &hyper::Error) -> Status {
    let reset = error
        .source()
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .filter(|h2| h2.is_reset())
        .and_then(h2::Error::reason);
    match reset {
        Some(h2::Reason::CANCEL | h2::Reason::REFUSED_STREAM | h2::Reason::NO_ERROR) => {
            Status::unavailable(format!("{address} abandoned the call"))
        }
        Some(h2::Reason::ENHANCE_YOUR_CALM) => {
            Status::resource_exhausted(format!("{address} refused the call: too many at once"))
        }
        Some(reason) => Status::internal(format!("{address} broke off the call: {reason}")),
        None => Status::unavailable(format!("the connection to {address} was lost: {}", chain(error))),
    }
}
