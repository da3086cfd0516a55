//! A stream that collects what is written in one turn of the event loop and sends it in one write.
//!
//! `h2` flushes after every piece of data, so an answer goes out as two writes, its data and its end, and each wakes the
//! peer. Here a flush only says that there is something to send; it is sent when the connection is polled the next time,
//! which it asks for itself. By then the end of that answer is there too, and those of the calls that ended meanwhile.
//!
//! ```text
//!   write, flush, write, flush ──▶ held ──▶ wake ──▶ the next poll reads first: one write to the socket
//! ```
//!
//! Never holds more than [`HOLD`] bytes, and passes big writes on uncopied. Relies on its owner to poll from one task, for
//! reading whenever it is woken, as `h2` does; an owner that is dropped without a shutdown loses what is held.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is held back.
const HOLD: usize = 32 << 10;
/// Copying this much would cost more than a write does.
const BIG: usize = 8 << 10;
/// What an idle connection keeps for its next answer.
const KEEP: usize = 4 << 10;

#[derive(Debug)]
pub struct Gathered<S> {
    inner: S,
    held: Vec<u8>,
    /// So much of it is sent.
    sent: usize,
    /// The owner flushed: it is to be sent at the next poll.
    due: bool,
}

impl<S> Gathered<S> {
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            held: Vec::new(),
            sent: 0,
            due: false,
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Sends what is held.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let wrote = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held[self.sent..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += wrote;
        }
        self.sent = 0;
        self.due = false;
        if self.held.capacity() > KEEP {
            self.held = Vec::new();
        } else {
            self.held.clear();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.due
            && let Poll::Ready(sent) = this.poll_send(cx)
        {
            sent?;
            ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        }
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        if len > BIG || this.held.len() + len > HOLD {
            ready!(this.poll_send(cx))?;
        }
        if len > BIG {
            return Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        }
        this.held.reserve(len);
        for buf in bufs {
            this.held.extend_from_slice(buf);
        }
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() {
            return Pin::new(&mut this.inner).poll_flush(cx);
        }
        if !this.due {
            this.due = true;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A connection's task, polled by hand.
    struct Turn {
        io: Gathered<DuplexStream>,
        woken: Arc<Woken>,
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    impl Turn {
        fn new(room: usize) -> (Turn, DuplexStream) {
            let (near, far) = duplex(room);
            let (io, woken) = (Gathered::new(near), Arc::default());
            (Turn { io, woken }, far)
        }

        fn with<R>(&mut self, f: impl FnOnce(&mut Context<'_>, Pin<&mut Gathered<DuplexStream>>) -> R) -> R {
            let waker = Waker::from(self.woken.clone());
            f(&mut Context::from_waker(&waker), Pin::new(&mut self.io))
        }

        fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.with(|cx, io| io.poll_write(cx, bytes))
        }

        fn flush(&mut self) -> Poll<io::Result<()>> {
            self.with(|cx, io| io.poll_flush(cx))
        }

        fn read(&mut self) -> Poll<io::Result<()>> {
            self.with(|cx, io| io.poll_read(cx, &mut ReadBuf::new(&mut [0; 16])))
        }
    }

    #[tokio::test]
    async fn what_was_flushed_in_one_turn_leaves_in_one_piece() {
        let (mut turn, mut far) = Turn::new(1 << 20);
        for part in ["headers ", "data ", "end"] {
            assert!(turn.write(part.as_bytes()).is_ready() && turn.flush().is_ready());
        }
        let mut seen = [0; 64];
        let nothing = tokio::time::timeout(std::time::Duration::ZERO, far.read(&mut seen)).await;
        assert!(nothing.is_err(), "it went out before the turn was over");
        assert!(
            turn.woken.0.load(Ordering::Relaxed),
            "it has to ask for its next turn itself"
        );
        assert!(turn.read().is_pending());
        let read = far.read(&mut seen).await.unwrap();
        assert_eq!(&seen[..read], b"headers data end");
    }

    #[tokio::test]
    async fn big_writes_pass_after_what_is_held() {
        let (mut turn, mut far) = Turn::new(1 << 20);
        assert!(turn.write(b"small").is_ready());
        let big = vec![7; BIG + 1];
        assert!(matches!(turn.write(&big), Poll::Ready(Ok(len)) if len == big.len()));
        let mut seen = vec![0; 5 + big.len()];
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!((&seen[..5], &seen[5..]), (&b"small"[..], &big[..]));
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_waited_for_and_loses_nothing() {
        let (mut turn, mut far) = Turn::new(1000);
        let mut taken = 0_usize;
        while turn.write(&[taken as u8; 100]).is_ready() {
            taken += 1;
            assert!(taken * 100 <= HOLD + 1000, "it holds without a bound");
        }
        assert!(taken * 100 > HOLD - 100);
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all
        });
        turn.io.shutdown().await.unwrap();
        let expected: Vec<u8> = (0..taken).flat_map(|n| [n as u8; 100]).collect();
        assert_eq!(reader.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_broken_peer_is_told_at_the_next_turn() {
        let (mut turn, far) = Turn::new(1000);
        drop(far);
        assert!(turn.write(b"late").is_ready() && turn.flush().is_ready());
        assert!(matches!(turn.read(), Poll::Ready(Err(_))));
    }
}
