//! Opening the byte stream to a daemon: the one place that looks at whose process answers.
//!
//! Nothing is written to a Unix socket before the uid behind it is known to be trusted.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::watch,
    time::{sleep, timeout},
};

use crate::{Address, DialError, Options, tls};

/// Between two looks at a listener whose queue is full.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);

pub(crate) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// Never longer than `dial_timeout`.
pub(crate) async fn dial(address: &Address, options: &Options) -> Result<Box<dyn Bytes>, DialError> {
    let attempt = async {
        match address {
            Address::Unix(path) => {
                if let Some(reason) = nexus_config::socket_path_too_long(path) {
                    return Err(DialError::Unusable(reason));
                }
                let stream = loop {
                    match UnixStream::connect(path).await {
                        // A full accept queue is EAGAIN on a Unix socket, where TCP would wait by itself.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            sleep(FULL_QUEUE_PAUSE).await;
                        }
                        result => break result.map_err(|source| classify(address, source))?,
                    }
                };
                let peer = stream.peer_cred().map_err(|source| classify(address, source))?;
                if !options.server_uid.allows(peer.uid()) {
                    return Err(DialError::Foreign {
                        address: address.clone(),
                        uid: peer.uid(),
                    });
                }
                Ok(Box::new(stream) as Box<dyn Bytes>)
            }
            Address::Tcp(authority, secure) => {
                let stream = TcpStream::connect(authority.as_str())
                    .await
                    .map_err(|source| classify(address, source))?;
                stream.set_nodelay(true).map_err(|source| classify(address, source))?;
                if !secure {
                    return Ok(Box::new(stream) as Box<dyn Bytes>);
                }
                tls::wrap(stream, authority, options.tls_ca.as_deref())
                    .await
                    .map(|stream| Box::new(stream) as Box<dyn Bytes>)
                    .map_err(|source| DialError::Tls {
                        address: address.clone(),
                        source,
                    })
            }
        }
    };
    timeout(options.dial_timeout, attempt).await.unwrap_or_else(|_| {
        Err(DialError::Timeout {
            address: address.clone(),
            after: options.dial_timeout,
        })
    })
}

fn classify(address: &Address, source: io::Error) -> DialError {
    let address = address.clone();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => DialError::NotRunning { address, source },
        io::ErrorKind::PermissionDenied => DialError::Denied { address, source },
        io::ErrorKind::InvalidInput => DialError::Unusable(format!("{address}: {source}")),
        _ => DialError::Failed { address, source },
    }
}

/// Whether a connection stands, and which one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) generation: u64,
    pub(crate) up: bool,
}

/// Ends a [`Line`] from our side, whatever calls are open on it.
#[derive(Clone, Default)]
pub(crate) struct Cut(Arc<(AtomicBool, AtomicWaker)>);

impl Cut {
    pub(crate) fn now(&self) {
        self.0.0.store(true, Ordering::Release);
        self.0.1.wake();
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.0.1.register(cx.waker());
        if self.0.0.load(Ordering::Acquire) {
            let why = "hung up, to be dialled again";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        Poll::Pending
    }
}

/// A byte stream that says when it is gone: HTTP/2 drops it as soon as the other side closes.
pub(crate) struct Line {
    bytes: Box<dyn Bytes>,
    cut: Cut,
    link: Arc<watch::Sender<Link>>,
    generation: u64,
}

impl Line {
    pub(crate) fn new(bytes: Box<dyn Bytes>, cut: Cut, link: Arc<watch::Sender<Link>>) -> Self {
        let mut generation = 0;
        link.send_modify(|link| {
            link.generation += 1;
            link.up = true;
            generation = link.generation;
        });
        Line {
            bytes,
            cut,
            link,
            generation,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let generation = self.generation;
        self.link.send_if_modified(|link| {
            let mine = link.generation == generation && link.up;
            link.up &= !mine;
            mine
        });
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.bytes).poll_read(cx, buf) {
            Poll::Pending => self.cut.poll(cx),
            done => done,
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.bytes.is_write_vectored()
    }
}
