//! What callers do to a daemon to keep others out of it: as another uid over the socket, and with and without tokens
//! over TCP.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod serve_kit;

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Read},
    os::unix::net::UnixStream as Std,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nexus_daemon::{
    Role,
    status::reason,
    token::{self, Fresh},
};
use serve_kit::{Daemon, Gate, OTHER, SOON, Setup, call, flow, next, role, say, socket_of_child};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::mpsc, task::JoinHandle};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

const SAY: &str = "/test.v1.Echo/Say";

fn loopback() -> Setup {
    Setup::default().listen(|o| o.tcp = Some("127.0.0.1:0".parse().unwrap()))
}

fn token(daemon: &Daemon, name: &str, lifetime: Option<Duration>) -> Fresh {
    let file = daemon.dir.path().join("tokens.toml");
    token::new(&file, name, Role::User, &[], lifetime).unwrap()
}

async fn dial(daemon: &Daemon) -> Channel {
    let endpoint = Endpoint::try_from(format!("http://{}", daemon.tcp.unwrap())).unwrap();
    endpoint.connect().await.unwrap()
}

fn bearing(token: &Fresh, text: &str) -> Request<String> {
    let mut request = Request::new(text.to_owned());
    let bearer = format!("Bearer {}", token.text).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// Fails unless `what` becomes true in time.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waits = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, waits)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

type Body = StreamBody<tokio_stream::wrappers::ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

/// A connection over TCP on which bodies are sent piece by piece.
struct Raw {
    send: SendRequest<Body>,
}

/// A call whose body is being sent.
struct Begun {
    pieces: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    answer: JoinHandle<Status>,
}

impl Raw {
    async fn dial(daemon: &Daemon) -> Raw {
        let io = TokioIo::new(TcpStream::connect(daemon.tcp.unwrap()).await.unwrap());
        let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (send, connection) = made.unwrap();
        tokio::spawn(connection);
        Raw { send }
    }

    /// Begins a message of `length` bytes and sends `sent` of them.
    async fn begin(&mut self, token: &Fresh, length: u32, sent: usize) -> Begun {
        let (pieces, body) = mpsc::channel(4);
        let request = http::Request::post(format!("http://localhost{SAY}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {}", token.text))
            .body(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body)))
            .unwrap();
        let answer = self.send.send_request(request);
        let answer = tokio::spawn(async move {
            let (head, body) = answer.await.unwrap().into_parts();
            let mut headers = head.headers;
            if let Ok(body) = body.collect().await {
                headers.extend(body.trailers().cloned().unwrap_or_default());
            }
            Status::from_header_map(&headers).unwrap()
        });
        if length > 0 {
            let prefix = [&[0][..], &length.to_be_bytes()].concat();
            let bytes = [prefix, vec![b'x'; sent]].concat();
            pieces.send(Ok(Frame::data(bytes.into()))).await.unwrap();
        }
        Begun { pieces, answer }
    }
}

impl Begun {
    async fn ended(self) -> Status {
        tokio::time::timeout(SOON, self.answer).await.unwrap().unwrap()
    }
}

/// Attack: one token begins message after message and finishes none, until memory is full.
#[tokio::test]
async fn unfinished_messages_of_one_caller_are_bounded_and_others_get_through() {
    let daemon = loopback().start().await;
    let (bad, good) = (token(&daemon, "bad", None), token(&daemon, "good", None));
    let mut raw = Raw::dial(&daemon).await;
    let (mut pieces, mut answers) = (Vec::new(), Vec::new());
    // The share is 512 KiB: whichever comes last has no room.
    for _ in 0..9 {
        let begun = raw.begin(&bad, 64_000, 60_000).await;
        pieces.push(begun.pieces);
        answers.push(begun.answer);
    }
    let first = tokio::time::timeout(SOON, futures_util::future::select_all(answers));
    let (refused, _, rest) = first.await.unwrap();
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(reason(&refused).as_deref(), Some("MAX_UNFINISHED_BYTES"));
    let large = "x".repeat(60_000);
    let answer = call(&dial(&daemon).await, SAY, bearing(&good, &large)).await;
    assert_eq!(answer.unwrap(), large);

    // What is given up is given back.
    assert!(rest.iter().all(|answer| !answer.is_finished()));
    rest.iter().for_each(JoinHandle::abort);
    drop(pieces);
    drop(raw);
    let channel = dial(&daemon).await;
    until("room for the same caller", async || {
        call(&channel, SAY, bearing(&bad, &large)).await.is_ok()
    })
    .await;
    daemon.stopped().await;
}

/// Attack: messages that trickle in, and calls that never send theirs, so that what they hold is held for ever.
#[tokio::test]
async fn a_message_has_to_be_whole_in_time() {
    let daemon = loopback()
        .serve(|o| o.message_timeout = Duration::from_millis(300))
        .start()
        .await;
    let token = token(&daemon, "slow", None);
    let mut raw = Raw::dial(&daemon).await;
    for (length, sent) in [(1000, 10), (0, 0)] {
        let ended = raw.begin(&token, length, sent).await.ended().await;
        assert_eq!(ended.code(), Code::ResourceExhausted, "{ended:?}");
        assert_eq!(reason(&ended).as_deref(), Some("MESSAGE_TIMEOUT"));
    }
    daemon.stopped().await;
}

/// Attack: a thousand connections over TCP that show no token, so that nobody else finds a slot.
#[tokio::test]
async fn connections_without_a_token_keep_nobody_out_and_end_within_seconds() {
    let daemon = loopback().start().await;
    let token = token(&daemon, "me", None);
    let mut flood = Vec::new();
    for _ in 0..500 {
        flood.push(TcpStream::connect(daemon.tcp.unwrap()).await.unwrap());
    }
    assert_eq!(
        call(&dial(&daemon).await, SAY, bearing(&token, "in")).await.unwrap(),
        "in"
    );
    assert_eq!(
        say(&daemon.connect().await, "by the socket").await.unwrap(),
        "by the socket"
    );
    until("health tells", async || {
        daemon.health.degraded().iter().any(|(part, _)| part == "connections")
    })
    .await;
    let started = Instant::now();
    let mut buffer = [0; 64];
    for mut stream in flood {
        let ended = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
        tokio::time::timeout(Duration::from_secs(8), ended).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    daemon.stopped().await;
}

/// Run by the tests below as another uid: opens as many connections as it can, tells, and holds them until its input ends.
#[test]
#[ignore = "a part of the tests that call as another uid"]
fn hold_connections_child() {
    let socket = socket_of_child();
    let held: Vec<_> = (0..1000).map_while(|_| Std::connect(&socket).ok()).collect();
    println!("held {}", held.len());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// `None`, after saying so, where we cannot become somebody else.
fn holding(daemon: &Daemon, test: &str) -> Option<Child> {
    let mut child = daemon.as_other(test, "hold_connections_child")?;
    Some(child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
}

async fn told(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = tokio::task::spawn_blocking(move || lines.any(|line| line.unwrap().contains("held")));
    assert!(tokio::time::timeout(SOON, told).await.unwrap().unwrap());
}

async fn kept_out_by(roles: std::collections::BTreeMap<String, Role>, test: &str) {
    let daemon = Setup::default()
        .listen(|o| o.mode = 0o666)
        .serve(move |o| o.roles = roles)
        .start()
        .await;
    if let Some(mut child) = holding(&daemon, test) {
        told(&mut child).await;
        assert_eq!(say(&daemon.connect().await, "root").await.unwrap(), "root");
        let degraded = daemon.health.degraded();
        assert!(
            degraded
                .iter()
                .any(|(part, why)| part == "connections" && why.contains("refused")),
            "{degraded:?}"
        );
        drop(child.stdin.take());
        tokio::task::spawn_blocking(move || child.wait().unwrap())
            .await
            .unwrap();
    }
    daemon.stopped().await;
}

/// Attack: a uid without a role opens a thousand connections to the socket of root.
#[tokio::test]
async fn a_stranger_cannot_lock_root_out_of_its_own_socket() {
    kept_out_by(Default::default(), "a_stranger_cannot_lock_root_out_of_its_own_socket").await;
}

/// Attack: a user opens a thousand connections to the socket of root.
#[tokio::test]
async fn a_user_cannot_lock_root_out_of_its_own_socket() {
    kept_out_by(role(OTHER, Role::User), "a_user_cannot_lock_root_out_of_its_own_socket").await;
}

/// Attack: a token that was revoked, or has expired, goes on in a stream it opened before.
#[tokio::test]
async fn a_stream_ends_with_its_token_whether_frames_come_or_not() {
    let daemon = loopback().start().await;
    let channel = dial(&daemon).await;
    let file = daemon.dir.path().join("tokens.toml");
    let revoked = token(&daemon, "revoked", None);
    let kept = token(&daemon, "kept", None);
    let mut silent = flow(&channel, bearing(&revoked, "open")).await.unwrap();
    let mut busy = flow(&channel, bearing(&revoked, "flood")).await.unwrap();
    let mut other = flow(&channel, bearing(&kept, "open")).await.unwrap();
    assert!(next(&mut silent).await.unwrap().is_some() && next(&mut other).await.unwrap().is_some());
    token::revoke(&file, "revoked").unwrap();
    let since = Instant::now();
    let ended = next(&mut silent).await.unwrap_err();
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    assert_eq!(
        (ended.code(), reason(&ended).as_deref()),
        (Code::Unauthenticated, Some("TOKEN_ENDED"))
    );
    let ended = async {
        loop {
            if let Err(ended) = next(&mut busy).await {
                return ended;
            }
        }
    };
    assert_eq!(
        tokio::time::timeout(SOON, ended).await.unwrap().code(),
        Code::Unauthenticated
    );

    let short = token(&daemon, "short", Some(Duration::from_secs(2)));
    let since = Instant::now();
    let mut expiring = flow(&channel, bearing(&short, "open")).await.unwrap();
    next(&mut expiring).await.unwrap();
    assert_eq!(next(&mut expiring).await.unwrap_err().code(), Code::Unauthenticated);
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert!(
        futures_util::FutureExt::now_or_never(other.message()).is_none(),
        "another's goes on"
    );
    daemon.stopped().await;
}

/// Attack: one token opens streams, and hangs in calls, until there is room for nobody else.
#[tokio::test]
async fn each_caller_has_its_share_of_streams_and_calls() {
    let daemon = loopback().serve(|o| o.max_in_flight_per_caller = 4).start().await;
    let (bad, good) = (token(&daemon, "bad", None), token(&daemon, "good", None));
    let channel = dial(&daemon).await;
    let streams = join_all((0..50).map(|_| flow(&channel, bearing(&bad, "open")))).await;
    let mut streams: Vec<_> = streams.into_iter().map(Result::unwrap).collect();
    let refused = flow(&channel, bearing(&bad, "open")).await.unwrap_err();
    assert_eq!(reason(&refused).as_deref(), Some("MAX_OPEN_STREAMS"));
    drop(flow(&channel, bearing(&good, "open")).await.unwrap());
    streams.clear();
    until("streams that ended are given back", async || {
        flow(&channel, bearing(&bad, "short")).await.is_ok()
    })
    .await;

    let calls: Vec<_> = (0..4)
        .map(|_| {
            let (channel, request) = (channel.clone(), bearing(&bad, "hold"));
            tokio::spawn(async move { call(&channel, SAY, request).await })
        })
        .collect();
    let at_work = || daemon.gate.calls.load(std::sync::atomic::Ordering::SeqCst);
    until("calls at work", async || at_work() >= 4).await;
    let refused = call(&channel, SAY, bearing(&bad, "more")).await.unwrap_err();
    assert_eq!(reason(&refused).as_deref(), Some("MAX_IN_FLIGHT"));
    assert_eq!(call(&channel, SAY, bearing(&good, "in")).await.unwrap(), "in");
    daemon.gate.open.add_permits(4);
    for call in join_all(calls).await {
        call.unwrap().unwrap();
    }
    daemon.stopped().await;
}

/// A cleaner of /tmp takes the socket file, or its whole directory, away.
#[tokio::test]
async fn a_socket_file_that_vanishes_is_bound_again_and_open_connections_go_on() {
    let daemon = Setup::default()
        .listen(|o| o.socket = o.socket.with_file_name("run/s.sock"))
        .start()
        .await;
    let socket = daemon.dir.path().join("run/s.sock");
    let channel = serve_kit::connect(&socket).await;
    let mut open = flow(&channel, Request::new("open".into())).await.unwrap();
    next(&mut open).await.unwrap();
    Gate::wait(&daemon.gate.inside).await;
    for what in [socket.as_path(), socket.parent().unwrap()] {
        match what.is_dir() {
            true => std::fs::remove_dir_all(what).unwrap(),
            false => std::fs::remove_file(what).unwrap(),
        }
        let gone = Instant::now();
        until("the socket is there again", async || {
            std::path::Path::new(&socket).exists()
        })
        .await;
        assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
        assert_eq!(say(&serve_kit::connect(&socket).await, "new").await.unwrap(), "new");
        assert_eq!(say(&channel, "old").await.unwrap(), "old");
    }
    assert!(futures_util::FutureExt::now_or_never(open.message()).is_none());

    // What cannot be mended is told: something else lies at the path.
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "mine").unwrap();
    until("health tells", async || {
        daemon.health.degraded().iter().any(|(part, _)| part == "socket")
    })
    .await;
    std::fs::remove_file(&socket).unwrap();
    until("health is well", async || daemon.health.degraded().is_empty()).await;
    assert_eq!(say(&serve_kit::connect(&socket).await, "again").await.unwrap(), "again");
    daemon.stopped().await;
    assert!(!socket.exists());
}
