//! Prometheus text on request, over plain HTTP/1 on loopback or a Unix socket. Off by default: until [`expose`] runs, a
//! call costs one relaxed load here and nothing is counted.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    str::FromStr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tonic::Code;

use crate::{
    listener::{self, BindError},
    socket_file::SocketFile,
    stop::Stop,
};

static ENABLED: AtomicBool = AtomicBool::new(false);
static LIMPING: AtomicUsize = AtomicUsize::new(0);

/// Scrapers that may be connected at once; more are closed at once.
const MAX_SCRAPERS: usize = 8;
const UPKEEP: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the numbers are shown: `127.0.0.1:9464` or an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsBind {
    /// A loopback address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Why metrics are not shown.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A text that is no address or path.
    #[error("{0:?} is neither host:port nor an absolute path")]
    Address(String),
    /// An address that other hosts reach.
    #[error("metrics on {0} would be readable from other hosts, use a loopback address or a socket path")]
    NotLoopback(SocketAddr),
    /// Somebody else counts already.
    #[error("failed to install the metrics recorder: {0}")]
    Recorder(String),
    /// The socket cannot be bound.
    #[error("failed to listen for metrics")]
    Bind(#[from] BindError),
    /// The address cannot be bound.
    #[error("failed to listen for metrics on {0}")]
    Tcp(SocketAddr, #[source] std::io::Error),
}

impl FromStr for MetricsBind {
    type Err = MetricsError;

    fn from_str(text: &str) -> Result<Self, MetricsError> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(MetricsBind::Unix(Path::new(path).to_path_buf()));
        }
        let address: SocketAddr = text.parse().map_err(|_| MetricsError::Address(text.into()))?;
        if !address.ip().is_loopback() {
            return Err(MetricsError::NotLoopback(address));
        }
        Ok(MetricsBind::Tcp(address))
    }
}

/// Whether anything is counted.
pub fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Counts from now on and shows the numbers at `bind` until `stop`.
///
/// # Errors
/// The address is taken or not allowed, or something else in the process already records metrics.
pub async fn expose(bind: MetricsBind, stop: Stop) -> Result<(), MetricsError> {
    let handle = handle()?;
    let listening = match bind {
        MetricsBind::Tcp(address) if !address.ip().is_loopback() => return Err(MetricsError::NotLoopback(address)),
        MetricsBind::Tcp(address) => {
            let bound = TcpListener::bind(address).await;
            Listening::Tcp(bound.map_err(|error| MetricsError::Tcp(address, error))?)
        }
        MetricsBind::Unix(path) => {
            let (listener, file) = listener::bind_unix(&path, 0o600, None)?;
            Listening::Unix(listener, file)
        }
    };
    ENABLED.store(true, Ordering::Relaxed);
    answer(&listening, handle, stop).await;
    Ok(())
}

enum Listening {
    Tcp(TcpListener),
    // The file goes with the listener.
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "held for its drop")] SocketFile,
    ),
}

trait Scraper: AsyncRead + AsyncWrite + Unpin + Send {}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send> Scraper for IO {}

impl Listening {
    async fn accept(&self) -> io::Result<Box<dyn Scraper>> {
        Ok(match self {
            Listening::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listening::Unix(listener, _) => Box::new(listener.accept().await?.0),
        })
    }
}

/// One recorder for the process: a second daemon in the same process (tests) shows the same numbers.
fn handle() -> Result<PrometheusHandle, MetricsError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets(&[0.000_25, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0])
        .map_err(|error| MetricsError::Recorder(error.to_string()))?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| MetricsError::Recorder(error.to_string()))?;
    Ok(HANDLE.get_or_init(|| handle).clone())
}

async fn answer(listening: &Listening, handle: PrometheusHandle, stop: Stop) {
    let scrapers = Arc::new(Semaphore::new(MAX_SCRAPERS));
    let mut upkeep = tokio::time::interval(UPKEEP);
    let mut stopped = pin!(stop.requested());
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = upkeep.tick() => handle.run_upkeep(),
            accepted = listening.accept() => match (accepted, scrapers.clone().try_acquire_owned()) {
                (Ok(stream), Ok(permit)) => {
                    tokio::spawn(scrape(stream, handle.clone(), stop.clone(), permit));
                }
                (Ok(_), Err(_)) => tracing::debug!("more scrapers than are served at once"),
                (Err(error), _) => {
                    tracing::warn!(%error, "failed to accept a scraper");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn scrape(stream: Box<dyn Scraper>, handle: PrometheusHandle, stop: Stop, _permit: OwnedSemaphorePermit) {
    let service = service_fn(move |request| std::future::ready(render(&request, &handle)));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A scraper that goes away in the middle is its own affair.
        _ = connection => {}
        () = stop.requested() => {}
    }
}

fn render(request: &Request<Incoming>, handle: &PrometheusHandle) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (
            StatusCode::OK,
            handle.render() + &crate::metrics_process::text(LIMPING.load(Ordering::Relaxed)),
        ),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "the numbers are at /metrics\n".into()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let text = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

/// One method's numbers; the handles are looked up at its first counted call.
#[derive(Default)]
pub(crate) struct CallMetrics {
    handles: OnceLock<Handles>,
}

struct Handles {
    ok: metrics::Counter,
    seconds: metrics::Histogram,
}

impl CallMetrics {
    /// A call ended. Streams count their whole life.
    pub fn ended(&self, path: &str, code: Code, took: Duration) {
        let handles = self.handles.get_or_init(|| Handles {
            ok: metrics::counter!("nexus_rpc_total", "method" => path.to_owned(), "code" => "Ok"),
            seconds: metrics::histogram!("nexus_rpc_seconds", "method" => path.to_owned()),
        });
        match code {
            Code::Ok => handles.ok.increment(1),
            code => {
                metrics::counter!("nexus_rpc_total", "method" => path.to_owned(), "code" => format!("{code:?}"))
                    .increment(1);
            }
        }
        handles.seconds.record(took.as_secs_f64());
    }
}

/// What became of spans: sent, or dropped and why.
pub(crate) fn spans(end: &'static str, count: usize) {
    if enabled() {
        metrics::counter!("nexus_trace_spans_total", "end" => end).increment(count as u64);
    }
}

/// A recovery is over: how long the host slept or the process was frozen, and how long it took to be back.
pub(crate) fn recovered(kind: &'static str, away: Duration, took: Duration) {
    if enabled() {
        metrics::counter!("nexus_wakes_total", "kind" => kind).increment(1);
        metrics::gauge!("nexus_last_wake_away_seconds").set(away.as_secs_f64());
        metrics::gauge!("nexus_last_wake_recovery_seconds").set(took.as_secs_f64());
    }
}

/// Parts that are degraded now: kept whether or not anyone asks, since they may be degraded before the numbers are shown.
pub(crate) fn degraded(parts: usize) {
    LIMPING.store(parts, Ordering::Relaxed);
}

pub(crate) fn connections(now: usize) {
    if enabled() {
        metrics::gauge!("nexus_connections").set(now as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_or_a_path() {
        assert_eq!(
            "/run/x.sock".parse::<MetricsBind>().unwrap(),
            MetricsBind::Unix("/run/x.sock".into())
        );
        assert!(matches!(
            "127.0.0.1:9464".parse::<MetricsBind>(),
            Ok(MetricsBind::Tcp(_))
        ));
        assert!(matches!(
            "0.0.0.0:9464".parse::<MetricsBind>(),
            Err(MetricsError::NotLoopback(_))
        ));
        assert!(matches!("here".parse::<MetricsBind>(), Err(MetricsError::Address(_))));
    }
}
