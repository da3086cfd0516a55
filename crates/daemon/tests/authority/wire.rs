//! A scripted connection, and the h2 server at its end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nexus_daemon::authority::Filter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client::Seen;

/// Cuts `bytes` into pieces of these sizes, over and over; all at once if there are none.
pub fn pieces(mut bytes: &[u8], sizes: &[usize]) -> VecDeque<Vec<u8>> {
    let mut sizes = sizes.iter().cycle();
    let mut out = VecDeque::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(sizes.next().map_or(bytes.len(), |size| bytes.len().min(*size)));
        out.push_back(piece.to_vec());
        bytes = rest;
    }
    out
}

/// What the filter makes of these bytes when they come in such pieces.
pub fn filtered(bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut filter, mut out, mut held) = (Filter::new(), Vec::new(), Vec::new());
    for piece in pieces(bytes, sizes) {
        held.extend(piece);
        let pass = filter.scan(&mut held);
        out.extend(held.drain(..pass));
        assert!(held.len() < 9 + 16 * 1024, "held back without bound: {}", held.len());
    }
    out.extend(held);
    out
}

/// A peer whose bytes come in pieces, with nothing ready between two of them.
pub struct Script {
    pieces: VecDeque<Vec<u8>>,
    due: bool,
    /// Whether the peer closes after the last piece or waits.
    closes: bool,
    pub answers: Rc<RefCell<Vec<u8>>>,
}

impl Script {
    pub fn new(bytes: &[u8], sizes: &[usize]) -> Self {
        Self {
            pieces: pieces(bytes, sizes),
            due: false,
            closes: false,
            answers: Rc::default(),
        }
    }

    pub fn closing(bytes: &[u8], sizes: &[usize]) -> Self {
        Self {
            closes: true,
            ..Self::new(bytes, sizes)
        }
    }
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.due = !self.due;
        if self.due && !self.pieces.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(mut piece) = self.pieces.pop_front() else {
            return if self.closes {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        };
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.answers.borrow_mut().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads to the end with a buffer of `room` bytes.
pub fn read_all(mut stream: impl AsyncRead + Unpin, room: usize) -> Vec<u8> {
    let mut cx = Context::from_waker(Waker::noop());
    let (mut out, mut space) = (Vec::new(), vec![0; room]);
    loop {
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut stream).poll_read(&mut cx, &mut buf) {
            Poll::Pending => {}
            Poll::Ready(read) => {
                read.expect("the script never fails");
                if buf.filled().is_empty() {
                    return out;
                }
                out.extend_from_slice(buf.filled());
            }
        }
    }
}

/// The requests an h2 server accepts, up to and without the one that carries `x-last`.
pub fn served(io: impl AsyncRead + AsyncWrite + Unpin) -> Vec<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let serve = async {
        let mut connection = h2::server::handshake(io).await.expect("a handshake");
        let mut seen = Vec::new();
        loop {
            let (request, mut respond) = connection
                .accept()
                .await
                .expect("the connection stays open")
                .expect("the connection is sound");
            respond
                .send_response(http::Response::new(()), true)
                .expect("the stream is open");
            if request.headers().contains_key("x-last") {
                // Lets the answers out.
                let _ = futures_util::poll!(Box::pin(connection.accept()));
                return seen;
            }
            let text = |value: &http::HeaderValue| value.to_str().expect("ascii was sent").to_owned();
            let mut headers: Vec<_> = request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect();
            headers.sort();
            let authority = request.uri().authority().map(ToString::to_string);
            let path = request.uri().path().to_owned();
            seen.push(Seen {
                authority,
                path,
                headers,
            });
        }
    };
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), serve)
            .await
            .expect("h2 answers")
    })
}

/// The streams that the server reset, each with its error code.
pub fn resets(mut answers: &[u8]) -> Vec<(u32, u32)> {
    let mut out = Vec::new();
    while let Some((&[a, b, c, kind, _, s0, s1, s2, s3], rest)) = answers.split_first_chunk::<9>() {
        let (payload, rest) = rest.split_at(u32::from_be_bytes([0, a, b, c]) as usize);
        if let (3, &[c0, c1, c2, c3]) = (kind, payload) {
            out.push((
                u32::from_be_bytes([s0, s1, s2, s3]),
                u32::from_be_bytes([c0, c1, c2, c3]),
            ));
        }
        answers = rest;
    }
    out
}
