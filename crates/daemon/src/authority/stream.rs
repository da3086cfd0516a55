//! A stream whose reads go through a [`Filter`]. Writes are the inner stream's own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Filter, Speaks};

/// How much is read at once while a frame is held back.
const CHUNK: usize = 4096;

/// Reads go into the reader's own buffer and are changed there; only the start of a frame that a read cut off is copied.
/// Once the filter is done a read is the inner stream's.
#[derive(Debug)]
pub struct FilteredStream<S> {
    inner: S,
    filter: Filter,
    /// Read, but not handed on: `ready` bytes that may go, then the start of what the filter wants to see whole.
    held: Vec<u8>,
    ready: usize,
}

impl<S> FilteredStream<S> {
    /// Filters what is read from `inner`.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            filter: Filter::new(),
            held: Vec::new(),
            ready: 0,
        }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// What the client speaks, once its first bytes have told.
    pub fn speaks(&self) -> Option<Speaks> {
        self.filter.speaks()
    }
}

fn scan(filter: &mut Filter, bytes: &mut [u8]) -> usize {
    let unknown = filter.speaks().is_none();
    let pass = filter.scan(bytes);
    if unknown && filter.speaks() == Some(Speaks::Tls) {
        tracing::warn!("a client speaks TLS to the plaintext socket");
    }
    pass
}

impl<S: AsyncRead + Unpin> FilteredStream<S> {
    /// Reads more behind what is held, and looks again.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let len = self.held.len();
        self.held.resize(len + CHUNK, 0);
        let mut space = ReadBuf::new(&mut self.held[len..]);
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut space);
        let fresh = space.filled().len();
        self.held.truncate(len + fresh);
        ready!(read)?;
        if fresh == 0 {
            // The end came within a frame: the reader gets what there is.
            self.filter.stop();
            self.ready = len;
        } else {
            self.ready = scan(&mut self.filter, &mut self.held);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FilteredStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() {
            let start = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            if this.filter.is_done() {
                return Poll::Ready(Ok(()));
            }
            let fresh = &mut buf.filled_mut()[start..];
            let pass = scan(&mut this.filter, fresh);
            if pass < fresh.len() {
                this.held.extend_from_slice(&fresh[pass..]);
                buf.set_filled(start + pass);
            }
            if pass > 0 || this.held.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        while this.ready == 0 {
            ready!(this.poll_hold(cx))?;
        }
        let now = this.ready.min(buf.remaining());
        buf.put_slice(&this.held[..now]);
        this.ready -= now;
        if now == this.held.len() {
            this.held = Vec::new();
        } else {
            this.held.drain(..now);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FilteredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
