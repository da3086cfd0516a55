//! Accepts connections and serves gRPC on them until a stop, which has a budget and keeps to it.
//!
//! ```text
//!  stop ─▶ NOT_SERVING, socket gone, GOAWAY ─▶ unary calls answered ─▶ streams end UNAVAILABLE ─▶ closed hard
//!          at once                             at most 3/4 of budget    the rest of the budget
//! ```
//!
//! Built on hyper itself, since tonic's server waits at a stop for streams that clients keep open.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    io,
    net::IpAddr,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::{MissedTickBehavior, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::shares::Limit;

use crate::{
    OwnToken,
    authority::FilteredStream,
    caller::{Access, Role},
    gathered::Gathered,
    guard::Guard,
    health::Health,
    listener::{Listeners, Restored, Tcp},
    methods,
    peer::{Peer, RoleKey, Rules},
    pressure::{Kind, Pressure},
    reflection,
    room::Shared,
    services::{Services, erase},
    shares::Limits,
    slots::{CallerClass, Key, Slot, Slots},
    stop::Stop,
    token_check::Checker,
};

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What one stream may hold ready for a reader that does not read.
const SEND_BUFFER: usize = 256 << 10;
const HEADER_LIST: u32 = 64 << 10;
/// A peer that is gone or hangs is noticed after both together.
const PING_EVERY: Duration = Duration::from_secs(45);
const PING_ANSWER: Duration = Duration::from_secs(20);
/// From connecting to the first byte, and for a TLS handshake.
const HELLO: Duration = Duration::from_secs(20);
/// How often the socket file is looked at: one that is gone is bound again within five seconds.
const LOOK_EVERY: Duration = Duration::from_secs(3);
const HEALTH: &str = "grpc.health.v1.Health";

/// How a daemon serves: its limits, and who may call.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// What services were told to take and send (see `MAX_MESSAGE_BYTES`): tonic keeps to it. This layer keeps to it
    /// while it inflates a compressed message.
    pub max_message_bytes: usize,
    /// Bytes of messages that are not whole yet; more are refused at once.
    pub unfinished_bytes: Limit,
    /// From the first byte of a message to its last.
    pub message_timeout: Duration,
    /// On the Unix socket, and as many over TCP.
    pub max_connections: usize,
    /// Of each uid, token or address that is no admin's.
    pub max_connections_per_caller: usize,
    /// Calls open at once on one connection.
    pub max_streams_per_connection: u32,
    /// Unary handlers at work at once; more are refused at once.
    pub max_in_flight: usize,
    /// Of each caller that is no admin.
    pub max_in_flight_per_caller: usize,
    /// On all connections together.
    pub open_streams: Limit,
    /// For unary calls that bring no deadline of their own.
    pub default_deadline: Option<Duration>,
    /// How long a stop may take until the last connection is closed.
    pub stop_budget: Duration,
    /// `uid:1001`, `gid:100`, or `anonymous` (loopback TCP without a token; user if unset).
    pub roles: BTreeMap<String, Role>,
    /// On the Unix socket too. TCP always needs one, but for an allowed anonymous loopback.
    pub require_token: bool,
    /// What the other daemons of this installation show; known where a token is demanded of everybody.
    pub own_token: Option<OwnToken>,
    /// Where the tokens are kept.
    pub token_file: PathBuf,
    /// The user this daemon runs as, who is an admin.
    pub own_uid: u32,
}

/// Why a daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// `roles` names somebody that does not exist.
    #[error(transparent)]
    Roles(#[from] RoleKey),
}

/// Serves until `stop`, then drains within the budget. Health and reflection are added to `services` here.
///
/// # Errors
/// The options contradict themselves; nothing was served then.
pub async fn serve(
    mut listeners: Listeners,
    services: Services,
    options: ServeOptions,
    health: Health,
    stop: Stop,
) -> Result<(), ServeError> {
    let tokens = Checker::new(options.token_file.clone());
    let mut rules = Rules::new(options.own_uid, &options.roles, options.require_token, tokens)?;
    rules.own_token = options.own_token.clone();
    let table = complete(services, &health).table();
    let limits = Limits {
        calls: Limit {
            all: options.max_in_flight,
            each: options.max_in_flight_per_caller,
        },
        streams: options.open_streams,
        bytes: options.unfinished_bytes,
    };
    let mut shared = Shared::new(table, limits, options.max_message_bytes, options.message_timeout);
    shared.default_deadline = options.default_deadline;
    let connections = Limit {
        all: options.max_connections,
        each: options.max_connections_per_caller,
    };
    let pressure = Pressure::new(health.clone());
    let server = Arc::new(Server {
        shared: Arc::new(shared),
        rules: Arc::new(rules),
        http: http(&options),
        stop: stop.clone(),
        kill: CancellationToken::new(),
        tasks: TaskTracker::new(),
        unix_slots: Slots::new(Kind::Unix, connections, pressure.clone()),
        tcp_slots: Slots::new(Kind::Tcp, connections, pressure),
        health: health.clone(),
    });
    accept_until(&server, &mut listeners, stop.requested()).await;

    let limit = tokio::time::Instant::now() + options.stop_budget;
    health.stopping();
    drop(listeners);
    server.drain(limit, options.stop_budget).await;
    Ok(())
}

/// Adds what every socket answers, and makes health know every name.
fn complete(services: Services, health: &Health) -> Services {
    let services = services.describe(tonic_health::pb::FILE_DESCRIPTOR_SET).add_target(
        HEALTH,
        Access::ALL,
        erase(health.service()),
    );
    let mut names: Vec<String> = services.names().into_iter().map(String::from).collect();
    for name in &names {
        health.follow(name);
    }
    let described: std::collections::BTreeSet<_> = services
        .descriptors()
        .iter()
        .flat_map(|set| methods::of(set))
        .map(|found| found.service)
        .collect();
    let passed_on = |name: &&String| services.door_prefixes().any(|prefix| name.starts_with(&prefix[1..]));
    names.extend(described.iter().filter(passed_on).cloned().collect::<Vec<_>>());
    if services.has_alias() {
        let aliases: Vec<_> = names
            .iter()
            .map(|name| format!("proto.{name}"))
            .filter(|name| described.contains(name))
            .collect();
        names.extend(aliases);
    }
    names.extend([reflection::V1, reflection::V1ALPHA].map(String::from));
    reflection::add(services, names)
}

fn http(options: &ServeOptions) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(options.max_streams_per_connection)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .auto_date_header(false);
    http
}

struct Server {
    shared: Arc<Shared>,
    rules: Arc<Rules>,
    http: http2::Builder<TokioExecutor>,
    stop: Stop,
    /// Ends connections that did not end by themselves.
    kill: CancellationToken,
    tasks: TaskTracker,
    unix_slots: Arc<Slots>,
    tcp_slots: Arc<Slots>,
    health: Health,
}

async fn accept_until(server: &Arc<Server>, listeners: &mut Listeners, stopped: impl Future<Output = ()>) {
    let mut stopped = pin!(stopped);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut looks = false;
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => return,
            _ = look.tick() => {
                looks = true;
                Ok(())
            }
            unix = listeners.unix.accept() => unix.map(|(stream, _)| server.unix(stream)),
            tcp = accept_tcp(listeners.tcp.as_ref()) => tcp.map(|(stream, tcp, address)| server.tcp(stream, tcp, address)),
        };
        if looks {
            server.keep_reachable(listeners);
        }
        if let Err(error) = accepted {
            // Out of descriptors, most likely: give connections time to close instead of spinning.
            tracing::warn!(%error, "failed to accept a connection");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn accept_tcp(tcp: Option<&Tcp>) -> io::Result<(TcpStream, &Tcp, IpAddr)> {
    match tcp {
        Some(tcp) => {
            let (stream, address) = tcp.listener.accept().await?;
            Ok((stream, tcp, address.ip()))
        }
        None => pending().await,
    }
}

impl Server {
    fn unix(self: &Arc<Self>, stream: UnixStream) {
        let credentials = match stream.peer_cred() {
            Ok(credentials) => credentials,
            Err(error) => return tracing::warn!(%error, "a caller without credentials was turned away"),
        };
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let role = self.rules.role_of(uid, &[gid]);
        let Some(slot) = self.unix_slots.take(Key::Uid(uid), role.into()) else {
            return;
        };
        let server = self.clone();
        self.tasks.spawn(async move {
            if server.hello(stream.readable(), &slot).await.is_none() {
                return;
            }
            let more = supplementary(&server.rules, uid, gid).await;
            let peer = Peer::local(server.rules.clone(), uid, gid, credentials.pid(), &more);
            if let Some(caller) = peer.known().filter(|_| !slot.is_known())
                && let Err(refused) = slot.settle(caller)
            {
                return tracing::debug!(uid, refused = refused.message(), "a connection was refused");
            }
            server.connection(FilteredStream::new(stream), peer, slot).await;
        });
    }

    /// Looks whether clients still find the socket where they look for it, and binds it again where they do not.
    fn keep_reachable(self: &Arc<Self>, listeners: &mut Listeners) {
        let lost = match listeners.restore() {
            Restored::There => None,
            Restored::Again(old) => {
                // Those who came before the file went are still heard.
                while let Some(Ok((stream, _))) = old.accept().now_or_never() {
                    self.unix(stream);
                }
                tracing::warn!(socket = %listeners.socket().display(), "the socket file was gone and was bound again");
                None
            }
            Restored::Lost(reason) => Some(reason),
        };
        if let Some(reason) = &lost {
            tracing::debug!(reason, "the socket file is gone");
        }
        self.health.degrade("socket", lost);
    }

    fn tcp(self: &Arc<Self>, stream: TcpStream, tcp: &Tcp, address: IpAddr) {
        let Some(slot) = self.tcp_slots.take(Key::of_address(address), CallerClass::Unknown) else {
            return;
        };
        let server = self.clone();
        let (tls, anonymous) = (tcp.tls.clone(), tcp.anonymous);
        self.tasks.spawn(async move {
            if let Err(error) = stream.set_nodelay(true) {
                return tracing::debug!(%error, "a connection closed immediately");
            }
            let peer = Peer::remote(server.rules.clone(), anonymous);
            match tls {
                Some(tls) => match server.hello(tls.accept(stream), &slot).await {
                    Some(Ok(stream)) => server.connection(stream, peer, slot).await,
                    Some(Err(error)) => tracing::info!(%error, "a TLS handshake failed"),
                    None => {}
                },
                None => {
                    if server.hello(stream.readable(), &slot).await.is_some() {
                        server.connection(FilteredStream::new(stream), peer, slot).await;
                    }
                }
            }
        });
    }

    /// A connection's first words, which neither the time nor a stop waits for.
    async fn hello<T>(&self, words: impl Future<Output = T>, slot: &Slot) -> Option<T> {
        tokio::select! {
            said = timeout(HELLO, words) => {
                said.inspect_err(|_| tracing::debug!("a connection said nothing and was closed")).ok()
            }
            () = slot.turned_away() => None,
            () = self.stop.requested() => None,
        }
    }

    async fn connection<IO>(&self, io: IO, peer: Peer, slot: Arc<Slot>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let guard = Guard {
            shared: self.shared.clone(),
            peer,
            slot: slot.clone(),
        };
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(Gathered::new(io)), guard));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = slot.turned_away() => return tracing::debug!("a connection of an unknown caller was closed"),
            () = self.stop.requested() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.kill.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke off");
        }
    }

    async fn drain(&self, limit: tokio::time::Instant, budget: Duration) {
        let for_calls = limit - budget / 4;
        if timeout_at(for_calls, self.shared.idle()).await.is_err() {
            tracing::warn!("calls were still running after three quarters of the stop budget");
        }
        self.shared.end_streams();
        self.tasks.close();
        if timeout_at(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                connections = self.unix_slots.open() + self.tcp_slots.open(),
                "closed hard at the end of the stop budget"
            );
            self.kill.cancel();
            self.tasks.wait().await;
        }
    }
}

/// The peer's other groups, asked of the system only where a role is given to a group and nothing nearer decides.
#[cfg(target_os = "linux")]
async fn supplementary(rules: &Rules, uid: u32, gid: u32) -> Vec<u32> {
    if rules.gids.is_empty() || uid == rules.own_uid || rules.uids.contains_key(&uid) || rules.gids.contains_key(&gid) {
        return Vec::new();
    }
    let look = move || -> Option<Vec<u32>> {
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok()??;
        let name = std::ffi::CString::new(user.name).ok()?;
        let groups = nix::unistd::getgrouplist(&name, nix::unistd::Gid::from_raw(gid)).ok()?;
        Some(groups.into_iter().map(nix::unistd::Gid::as_raw).collect())
    };
    // The user database may be a network away.
    match timeout(HELLO, tokio::task::spawn_blocking(look)).await {
        Ok(Ok(Some(groups))) => groups,
        _ => {
            tracing::warn!(
                uid,
                "the groups of a caller could not be determined; only its primary group counts"
            );
            Vec::new()
        }
    }
}

#[cfg(not(target_os = "linux"))]
async fn supplementary(_rules: &Rules, _uid: u32, _gid: u32) -> Vec<u32> {
    Vec::new()
}
