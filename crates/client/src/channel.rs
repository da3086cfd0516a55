//! One HTTP/2 connection, shared by all stubs, dialled when needed.
//!
//! A call takes the standing connection, or dials; callers that wait for the same dial share its failure. A request
//! that hyper hands back unsent, because the connection closed under it, goes to a fresh one; nothing else is repeated.

use nexus_proto::words;
use std::{
    fmt,
    fs::File,
    io::Read,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, USER_AGENT},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::{Instant, timeout_at},
};
use tonic::{Status, body::Body};

use crate::{
    Address, DialError, Options,
    body::{Answer, Deadline, expired, lost},
    dial::{Cut, Line, Link, dial},
    error::dial_status,
    method::is_stream,
};

/// How many connections may close under one request before it has left. A server that accepts and closes at once would
/// otherwise keep a call without a deadline for ever.
const ATTEMPTS: u32 = 3;
/// Bytes of the file that [`Options::own_token`] names.
const MAX_OWN_TOKEN: u64 = 1024;
const AGENT: &str = concat!("nexus/", env!("CARGO_PKG_VERSION"));

/// A tower service for generated stubs. Unary calls without a deadline of their own get the default one; streams get
/// none. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
}

struct Shared {
    address: Arc<Address>,
    options: Options,
    link: Arc<watch::Sender<Link>>,
    /// The open connection, if there is one, and the redial generation it belongs to; it may have died since.
    standing: Mutex<Option<(u64, SendRequest<Body>)>>,
    /// Held while dialling, so that many callers make one connection; inside is how the last attempt failed.
    dialling: AsyncMutex<Option<(Instant, Arc<DialError>)>>,
    /// What `Options::own_token` held when the open connection was made.
    own_token: Mutex<Option<HeaderValue>>,
}

impl Channel {
    pub(crate) fn new(address: &Address, options: &Options) -> Self {
        Channel {
            shared: Arc::new(Shared {
                address: Arc::new(address.clone()),
                options: options.clone(),
                link: Arc::new(watch::Sender::new(Link::default())),
                standing: Mutex::new(None),
                dialling: AsyncMutex::new(None),
                own_token: Mutex::new(None),
            }),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.shared.address
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    /// Makes sure that a connection stands.
    pub(crate) async fn connect(&self) -> Result<(), Arc<DialError>> {
        self.shared.sender().await.map(drop)
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Shared {
    fn standing(&self) -> Option<SendRequest<Body>> {
        self.standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .filter(|(wish, sender)| *wish == self.options.redial.generation() && !sender.is_closed())
            .map(|(_, sender)| sender.clone())
    }

    async fn sender(&self) -> Result<SendRequest<Body>, Arc<DialError>> {
        if let Some(sender) = self.standing() {
            return Ok(sender);
        }
        let asked = Instant::now();
        let mut last = self.dialling.lock().await;
        if let Some(sender) = self.standing() {
            return Ok(sender);
        }
        if let Some((when, failure)) = &*last
            && *when >= asked
        {
            return Err(failure.clone());
        }
        let (wish, opened) = loop {
            let wish = self.options.redial.generation();
            tokio::select! {
                opened = self.open(wish) => break (wish, opened),
                // A dial of before the sleep may hang until its deadline.
                () = self.options.redial.after(wish) => {}
            }
        };
        match opened {
            Ok(sender) => {
                *last = None;
                *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some((wish, sender.clone()));
                Ok(sender)
            }
            Err(error) => {
                let error = Arc::new(error);
                *last = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn open(&self, wish: u64) -> Result<SendRequest<Body>, DialError> {
        *self.own_token.lock().unwrap_or_else(PoisonError::into_inner) = self.read_own_token();
        let cut = Cut::default();
        let line = Line::new(
            dial(&self.address, &self.options).await?,
            cut.clone(),
            self.link.clone(),
        );
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.options.keepalive)
            .keep_alive_timeout(self.options.keepalive)
            .handshake(TokioIo::new(line))
            .await
            .map_err(|error| DialError::Failed {
                address: (*self.address).clone(),
                source: std::io::Error::other(error),
            })?;
        let address = self.address.clone();
        let hung_up = self.options.redial.after(wish);
        tokio::spawn(async move {
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = hung_up => {
                    cut.now();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%address, %error, "connection ended");
            }
        });
        Ok(sender)
    }

    fn read_own_token(&self) -> Option<HeaderValue> {
        let path = self.options.own_token.as_ref()?;
        if !matches!(*self.address, Address::Unix(_)) || !self.options.server_uid.is_own_or_root() {
            return None;
        }
        let mut text = String::new();
        let file = File::open(path).and_then(|file| file.take(MAX_OWN_TOKEN).read_to_string(&mut text));
        // Where it cannot be read, the daemon says what is missing.
        file.ok()?;
        bearer(text.trim_end())
    }

    /// Fills in what tonic leaves to the transport: scheme, authority, token, deadline.
    fn prepare(&self, request: &mut Request<Body>) -> Result<Option<Deadline>, DialError> {
        let unusable = |what: &str| DialError::Unusable(format!("{}: {what}", self.address));
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(match &*self.address {
            Address::Tcp(_, true) => Scheme::HTTPS,
            Address::Tcp(_, false) | Address::Unix(_) => Scheme::HTTP,
        });
        parts.authority =
            Some(Authority::try_from(self.address.authority()).map_err(|_| unusable("the host is not a name"))?);
        let streams = parts
            .path_and_query
            .as_ref()
            .is_some_and(|path: &PathAndQuery| is_stream(path.path()));
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| unusable("the method has no path"))?;

        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(token) = &self.options.token
            && !headers.contains_key(AUTHORIZATION)
        {
            let value = bearer(token).ok_or_else(|| unusable("the token has characters that no token has"))?;
            headers.insert(AUTHORIZATION, value);
        }
        if let Some(traceparent) = self.options.traceparent
            && let Some(value) = traceparent()
        {
            headers.insert(words::metadata::TRACEPARENT, value);
        }
        let after = match headers.get("grpc-timeout") {
            Some(own) => own.to_str().ok().and_then(timeout_of),
            None if streams => None,
            None => {
                let default = self.options.rpc_timeout;
                headers.insert("grpc-timeout", timeout_value(default));
                Some(default)
            }
        };
        Ok(after.map(|after| Deadline {
            at: Instant::now() + after,
            after,
        }))
    }

    async fn send(&self, mut request: Request<Body>, deadline: Option<Deadline>) -> Result<Response<Body>, Status> {
        let mut attempt = 1;
        loop {
            let mut sender = self.sender().await.map_err(dial_status)?;
            let own = self.own_token.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(own) = own {
                request.headers_mut().entry(AUTHORIZATION).or_insert(own);
            }
            match sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok(response.map(|body| Body::new(Answer::new(body, self.address.clone(), deadline))));
                }
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) if attempt < ATTEMPTS => {
                        request = unsent;
                        attempt += 1;
                    }
                    _ => return Err(lost(&self.address, refused.error())),
                },
            }
        }
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move {
            let deadline = shared
                .prepare(&mut request)
                .map_err(|error| dial_status(Arc::new(error)))?;
            match deadline {
                None => shared.send(request, None).await,
                Some(one) => timeout_at(one.at, shared.send(request, deadline))
                    .await
                    .unwrap_or_else(|_| Err(expired(&shared.address, one.after))),
            }
        })
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.shared.address).finish()
    }
}

/// The largest value has eight digits, so the unit grows with the time.
fn timeout_value(after: Duration) -> HeaderValue {
    let micros = after.as_micros();
    let text = match micros {
        0..100_000_000 => format!("{micros}u"),
        100_000_000..100_000_000_000 => format!("{}m", micros / 1_000),
        _ => format!("{}S", (micros / 1_000_000).min(99_999_999)),
    };
    HeaderValue::try_from(text).expect("digits and a letter are a header value")
}

fn timeout_of(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_survives_the_header() {
        for after in [
            Duration::from_micros(1),
            Duration::from_millis(50),
            Duration::from_secs(10),
            Duration::from_secs(600),
            Duration::from_secs(400_000),
        ] {
            let value = timeout_value(after);
            assert!(value.len() <= 9, "{value:?}");
            assert_eq!(timeout_of(value.to_str().unwrap()), Some(after));
        }
        assert_eq!(timeout_of(""), None);
        assert_eq!(timeout_of("x"), None);
        assert_eq!(timeout_of("5Y"), None);
    }
}
