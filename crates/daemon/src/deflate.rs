//! Compresses the messages of an answer for a caller that takes gzip. Small messages stay as they are: compressing them
//! costs more than it saves. Large ones are compressed a part at a time, so that others have their turn.

use std::{
    io::Write,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use flate2::{Compression, write::GzEncoder};
use http_body::Frame;
use tonic::{Code, Status, body::Body};

use crate::{
    inbound::{PREFIX, length},
    status::status,
};

/// Shorter messages are sent as they are.
const TINY: usize = 1 << 10;
/// Bytes that are compressed before others have their turn.
const TURN: usize = 256 << 10;

pub(crate) struct Deflate {
    inner: Body,
    raw: Bytes,
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that are there.
    begun: usize,
    /// Bytes of the message that are missing.
    missing: usize,
    /// The message that is being compressed; `None` for one that is sent as it is.
    encoder: Option<GzEncoder<Vec<u8>>>,
    ready: Vec<u8>,
    /// The last frame, sent after everything that is ready.
    trailers: Option<Frame<Bytes>>,
}

impl Deflate {
    pub fn new(inner: Body) -> Self {
        Deflate {
            inner,
            raw: Bytes::new(),
            prefix: [0; PREFIX],
            begun: 0,
            missing: 0,
            encoder: None,
            ready: Vec::new(),
            trailers: None,
        }
    }

    /// Works through what is there, at most [`TURN`] bytes of it.
    fn step(&mut self) -> Result<(), Status> {
        let mut budget = TURN;
        while !self.raw.is_empty() && budget > 0 {
            if self.begun < PREFIX {
                self.prefix[self.begun] = self.raw.get_u8();
                self.begun += 1;
                if self.begun == PREFIX {
                    self.begin();
                }
            } else {
                let piece = self.raw.split_to(self.raw.len().min(self.missing).min(budget));
                self.missing -= piece.len();
                budget -= piece.len();
                match &mut self.encoder {
                    Some(encoder) => encoder.write_all(&piece).map_err(failed)?,
                    None => self.ready.extend_from_slice(&piece),
                }
            }
            if self.begun == PREFIX && self.missing == 0 {
                self.finish()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) {
        self.missing = length(self.prefix);
        if self.missing < TINY {
            self.ready.extend_from_slice(&self.prefix);
        } else {
            self.encoder = Some(GzEncoder::new(vec![1, 0, 0, 0, 0], Compression::fast()));
        }
    }

    fn finish(&mut self) -> Result<(), Status> {
        self.begun = 0;
        let Some(encoder) = self.encoder.take() else {
            return Ok(());
        };
        let mut message = encoder.finish().map_err(failed)?;
        let len = u32::try_from(message.len() - PREFIX).map_err(failed)?;
        message[1..PREFIX].copy_from_slice(&len.to_be_bytes());
        if self.ready.is_empty() {
            self.ready = message;
        } else {
            self.ready.extend_from_slice(&message);
        }
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> Status {
    status(
        Code::Internal,
        format!("failed to compress an answer: {error}"),
        "COMPRESSION",
    )
}

impl http_body::Body for Deflate {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Err(error) = this.step() {
                return Poll::Ready(Some(Err(error)));
            }
            if !this.ready.is_empty() {
                let ready = std::mem::take(&mut this.ready);
                return Poll::Ready(Some(Ok(Frame::data(ready.into()))));
            }
            if !this.raw.is_empty() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(trailers) = this.trailers.take() {
                return Poll::Ready(Some(Ok(trailers)));
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.raw = data,
                    Err(trailers) => this.trailers = Some(trailers),
                },
                other => return Poll::Ready(other),
            }
        }
    }
}
