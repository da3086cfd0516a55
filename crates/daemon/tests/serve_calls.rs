//! What a caller notices: panics, deadlines, limits, malformed calls, the alias prefix, routes and the front door.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod serve_kit;

use std::{future::Future, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use nexus_daemon::{
    Access, Caller,
    metrics::{self, MetricsBind},
    status::reason,
};
use serve_kit::{Daemon, Gate, LIMIT, SOON, Setup, call, flow, next, say};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Request, body::Body};

#[tokio::test]
async fn a_panic_ends_its_own_call_only() {
    let daemon = Daemon::start().await;
    let channel = daemon.connect().await;
    let mut open = flow(&channel, Request::new("open".into())).await.unwrap();
    assert_eq!(next(&mut open).await.unwrap().as_deref(), Some("first"));

    let error = say(&channel, "panic").await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert_eq!(error.message(), "internal error; see the log");
    assert_eq!(reason(&error).as_deref(), Some("PANIC"));

    let mut broken = flow(&channel, Request::new("panic".into())).await.unwrap();
    assert_eq!(next(&mut broken).await.unwrap().as_deref(), Some("first"));
    let error = next(&mut broken).await.unwrap_err();
    assert_eq!(
        (error.code(), reason(&error).as_deref()),
        (Code::Internal, Some("PANIC"))
    );

    assert_eq!(say(&channel, "still here").await.unwrap(), "still here");
    daemon.stop.trigger();
    assert_eq!(next(&mut open).await.unwrap_err().code(), Code::Unavailable);
    daemon.stopped().await;
}

#[tokio::test]
async fn deadlines_end_unary_calls_and_streams_and_free_the_handler() {
    let daemon = Daemon::start().await;
    // Raw, since tonic's client watches the deadline it sends and would hide what the server does.
    let timed = async |path, text: &str, after| {
        let message = prost::Message::encode_to_vec(&text.to_string());
        let headers = [("content-type", "application/grpc"), ("grpc-timeout", after)];
        let (_, headers) = raw(&daemon, path, &frame(&message), &headers).await;
        let ended = tonic::Status::from_header_map(&headers).expect("a grpc-status");
        (ended.code(), reason(&ended))
    };
    let late = (Code::DeadlineExceeded, Some("DEADLINE".to_string()));
    assert_eq!(timed("/test.v1.Echo/Say", "hang", "80m").await, late);
    Gate::wait(&daemon.gate.dropped).await;
    assert_eq!(timed("/test.v1.Echo/Flow", "open", "80m").await, late);
    Gate::wait(&daemon.gate.dropped).await;
    assert_eq!(timed("/test.v1.Echo/Flow", "flood", "80m").await, late);
    assert_eq!(timed("/test.v1.Echo/Flow", "one", "80m").await, (Code::Ok, None));
    assert_eq!(timed("/test.v1.Echo/Say", "x", "soon").await.0, Code::InvalidArgument);
    daemon.stopped().await;
}

#[tokio::test]
async fn the_default_deadline_is_for_unary_calls_without_their_own() {
    let daemon = Setup::default()
        .serve(|o| o.default_deadline = Some(Duration::from_millis(80)))
        .start()
        .await;
    let channel = daemon.connect().await;
    let mut open = flow(&channel, Request::new("open".into())).await.unwrap();
    assert_eq!(next(&mut open).await.unwrap().as_deref(), Some("first"));
    assert_eq!(say(&channel, "hang").await.unwrap_err().code(), Code::DeadlineExceeded);
    // Two more default deadlines pass; the stream stays and a longer deadline of its own is kept.
    let mut longer = Request::new("hold".to_string());
    longer.metadata_mut().insert("grpc-timeout", "20S".parse().unwrap());
    let held = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, "/test.v1.Echo/Say", longer).await }
    });
    assert_eq!(say(&channel, "hang").await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(say(&channel, "hang").await.unwrap_err().code(), Code::DeadlineExceeded);
    daemon.gate.open.add_permits(1);
    assert_eq!(held.await.unwrap().unwrap(), "hold");
    daemon.stop.trigger();
    assert_eq!(next(&mut open).await.unwrap_err().code(), Code::Unavailable);
    daemon.stopped().await;
}

#[tokio::test]
async fn what_is_too_large_names_the_limit() {
    let daemon = Daemon::start().await;
    let channel = daemon.connect().await;
    let fits = "x".repeat(LIMIT - 16);
    assert_eq!(say(&channel, &fits).await.unwrap(), fits);
    for text in ["y".repeat(LIMIT + 1).as_str(), "large"] {
        let error = say(&channel, text).await.unwrap_err();
        assert_eq!(
            (error.code(), reason(&error).as_deref()),
            (Code::ResourceExhausted, Some("MAX_MESSAGE_BYTES"))
        );
        assert!(error.message().contains(&LIMIT.to_string()), "{}", error.message());
    }
    daemon.stopped().await;
}

#[tokio::test]
async fn more_calls_than_there_is_room_for_are_refused_at_once() {
    let daemon = Setup::default().serve(|o| o.max_in_flight = 4).start().await;
    let channel = daemon.connect().await;
    // Streams take no room.
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(flow(&channel, Request::new("open".into())).await.unwrap());
        Gate::wait(&daemon.gate.inside).await;
    }
    let held: Vec<_> = (0..4)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { say(&channel, "hold").await })
        })
        .collect();
    for _ in 0..4 {
        Gate::wait(&daemon.gate.inside).await;
    }
    let error = say(&channel, "one more").await.unwrap_err();
    assert_eq!(
        (error.code(), reason(&error).as_deref()),
        (Code::ResourceExhausted, Some("MAX_IN_FLIGHT"))
    );
    assert!(error.message().contains("max_in_flight"), "{}", error.message());
    assert_eq!(daemon.gate.calls.load(Ordering::SeqCst), 4);

    daemon.gate.open.add_permits(4);
    for answer in join_all(held).await {
        assert_eq!(answer.unwrap().unwrap(), "hold");
    }
    assert_eq!(say(&channel, "room again").await.unwrap(), "room again");
    drop(open);
    daemon.stopped().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_room_comes_back() {
    let daemon = Setup::default().serve(|o| o.max_connections = 1).start().await;
    let first = daemon.connect().await;
    assert_eq!(say(&first, "in").await.unwrap(), "in");
    let mut second = tokio::net::UnixStream::connect(&daemon.socket).await.unwrap();
    let mut buffer = [0u8; 1];
    let read = tokio::io::AsyncReadExt::read(&mut second, &mut buffer);
    assert_eq!(tokio::time::timeout(SOON, read).await.unwrap().unwrap(), 0);
    drop(first);
    // The slot is free once the daemon has noticed; until then a new connection is closed too.
    let again = async {
        loop {
            let channel = tonic::transport::Endpoint::try_from(format!("unix://{}", daemon.socket.display())).unwrap();
            if let Ok(channel) = channel.connect().await
                && let Ok(text) = say(&channel, "back").await
            {
                return text;
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, again).await.unwrap(), "back");
    daemon.stopped().await;
}

/// One raw call: any head, any body. Its HTTP status, and its headers and trailers.
async fn raw(daemon: &Daemon, path: &str, body: &[u8], headers: &[(&str, &str)]) -> (u16, http::HeaderMap) {
    let (status, headers, _) = whole(daemon, path, body, headers).await;
    (status, headers)
}

/// The same, with headers and body of the answer.
async fn bodied(daemon: &Daemon, path: &str, body: &[u8], headers: &[(&str, &str)]) -> (http::HeaderMap, Bytes) {
    let (_, headers, body) = whole(daemon, path, body, headers).await;
    (headers, body)
}

async fn whole(daemon: &Daemon, path: &str, body: &[u8], headers: &[(&str, &str)]) -> (u16, http::HeaderMap, Bytes) {
    let stream = tokio::net::UnixStream::connect(&daemon.socket).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut send, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://localhost{path}")).header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    let (head, body) = tokio::time::timeout(SOON, send.send_request(request))
        .await
        .unwrap()
        .unwrap()
        .into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    drop(send);
    connection.await.unwrap().unwrap();
    let mut all = head.headers;
    all.extend(trailers.unwrap_or_default());
    (head.status.as_u16(), all, body.to_bytes())
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    bytes
}

#[tokio::test]
async fn malformed_calls_are_the_callers_mistake() {
    let daemon = Daemon::start().await;
    let grpc = [("content-type", "application/grpc")];
    let say = "/test.v1.Echo/Say";
    let cut = &frame(b"\x0a\x02hi")[..7];
    for (path, body, want, why) in [
        (say, &frame(b"\x0a\x02hi")[..], Code::Ok, "a sound call"),
        (say, &[][..], Code::InvalidArgument, "half-closed without a message"),
        (
            say,
            &frame(b"\x0a\x7fhi")[..],
            Code::InvalidArgument,
            "a message that is no protobuf",
        ),
        (say, cut, Code::InvalidArgument, "ended within a message"),
        (
            "/test.v1.Echo/Nothing",
            &frame(b"")[..],
            Code::Unimplemented,
            "an unknown method",
        ),
        (
            "/test.v1.Nothing/Say",
            &frame(b"")[..],
            Code::Unimplemented,
            "an unknown service",
        ),
        ("/", &frame(b"")[..], Code::Unimplemented, "no method at all"),
    ] {
        let (http, headers) = raw(&daemon, path, body, &grpc).await;
        let code = tonic::Status::from_header_map(&headers).expect("a grpc-status").code();
        assert_eq!((http, code), (200, want), "{why}");
    }
    let zipped = [("content-type", "application/grpc"), ("grpc-encoding", "snappy")];
    let (_, headers) = raw(&daemon, say, &frame(b""), &zipped).await;
    assert_eq!(headers["grpc-status"], "12", "an encoding we do not have");
    let (http, _) = raw(&daemon, say, b"{}", &[("content-type", "application/json")]).await;
    assert_eq!(http, 415);
    daemon.stopped().await;
}

#[tokio::test]
async fn a_stream_answers_after_the_client_half_closed() {
    let daemon = Daemon::start().await;
    let channel = daemon.connect().await;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let sent = futures_util::stream::iter(["a", "b"].map(String::from));
    let codec = tonic_prost::ProstCodec::<String, String>::default();
    let answer = client
        .streaming(Request::new(sent), "/test.v1.Echo/Chat".parse().unwrap(), codec)
        .await
        .unwrap();
    let mut items = answer.into_inner();
    assert_eq!(next(&mut items).await.unwrap().as_deref(), Some("a"));
    assert_eq!(next(&mut items).await.unwrap().as_deref(), Some("b"));
    assert_eq!(next(&mut items).await.unwrap(), None);
    daemon.stopped().await;
}

#[tokio::test]
async fn every_path_answers_under_the_alias_prefix_too() {
    let daemon = Daemon::start().await;
    let channel = daemon.connect().await;
    let aliased = call(&channel, "/proto.test.v1.Echo/Say", Request::new("hi".into())).await;
    assert_eq!(aliased.unwrap(), "hi");
    daemon.stopped().await;
}

/// Answers every call with the path it saw and who the caller was.
async fn mirror(request: http::Request<Body>) -> Result<http::Response<Body>, std::convert::Infallible> {
    let text = format!("{} {}", request.uri().path(), Caller::of_http(&request).principal);
    let message = prost::Message::encode_to_vec(&text);
    let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let body = Full::new(Bytes::from(frame(&message))).with_trailers(std::future::ready(Some(Ok(trailers))));
    let answer = http::Response::builder().header("content-type", "application/grpc");
    Ok(answer.body(Body::new(body)).unwrap())
}

#[tokio::test]
async fn routes_go_before_services_and_the_front_door_takes_the_rest() {
    let daemon = Setup::default()
        .services(|services| {
            services
                .route("/test.v1.Echo/Say", tower::service_fn(mirror))
                .front_door([("/llm.v1.", Access::USERS)], tower::service_fn(mirror))
        })
        .start()
        .await;
    let channel = daemon.connect().await;
    let me = format!("uid:{}", nix::unistd::geteuid());
    let call = async |path| call(&channel, path, Request::new("x".into())).await;
    assert_eq!(
        call("/test.v1.Echo/Say").await.unwrap(),
        format!("/test.v1.Echo/Say {me}")
    );
    assert_eq!(call("/test.v1.Closed/Say").await.unwrap(), "x");
    let foreign = "/llm.v1.LLMService/CompleteLLM";
    assert_eq!(call(foreign).await.unwrap(), format!("{foreign} {me}"));
    assert_eq!(
        call("/proto.llm.v1.LLMService/CompleteLLM").await.unwrap(),
        format!("{foreign} {me}")
    );
    assert_eq!(
        call("/llm.v1.Other/New").await.unwrap(),
        format!("/llm.v1.Other/New {me}")
    );
    assert_eq!(
        call("/gateway.v1.GatewayService/X").await.unwrap_err().code(),
        Code::Unimplemented
    );
    daemon.stopped().await;
}

#[tokio::test]
async fn a_connection_is_told_how_many_streams_it_may_open() {
    let daemon = Setup::default()
        .serve(|o| o.max_streams_per_connection = 7)
        .start()
        .await;
    let stream = tokio::net::UnixStream::connect(&daemon.socket).await.unwrap();
    let (send, mut connection) = h2::client::handshake(stream).await.unwrap();
    let told = std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(ended) = std::pin::Pin::new(&mut connection).poll(cx) {
            panic!("the connection ended: {ended:?}");
        }
        match send.current_max_send_streams() {
            7 => std::task::Poll::Ready(()),
            _ => std::task::Poll::Pending,
        }
    });
    tokio::time::timeout(SOON, told).await.unwrap();
    drop(connection);
    daemon.stopped().await;
}

#[tokio::test]
async fn numbers_are_shown_once_asked_for() {
    let daemon = Daemon::start().await;
    let path = daemon.dir.path().join("metrics.sock");
    let showing = tokio::spawn(metrics::expose(MetricsBind::Unix(path.clone()), daemon.stop.clone()));
    let mut scraper = tokio::time::timeout(SOON, async {
        loop {
            match tokio::net::UnixStream::connect(&path).await {
                Ok(scraper) => return scraper,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await
    .unwrap();
    let channel = daemon.connect().await;
    say(&channel, "count me").await.unwrap();
    say(&channel, "panic").await.unwrap_err();
    scraper
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    tokio::time::timeout(SOON, scraper.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    for code in ["Ok", "Internal"] {
        let line = format!("nexus_rpc_total{{method=\"/test.v1.Echo/Say\",code=\"{code}\"}}");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    daemon.stopped().await;
    tokio::time::timeout(SOON, showing).await.unwrap().unwrap().unwrap();
    assert!(!path.exists());
}

/// Attack: a small message that inflates to more than a message may have.
#[tokio::test]
async fn gzip_is_taken_and_given_and_cannot_be_a_bomb() {
    let daemon = Daemon::start().await;
    let (zipped, both) = (
        [("content-type", "application/grpc"), ("grpc-encoding", "gzip")],
        [
            ("content-type", "application/grpc"),
            ("grpc-encoding", "gzip"),
            ("grpc-accept-encoding", "identity,gzip"),
        ],
    );
    let say = "/test.v1.Echo/Say";
    let sent = |text: &str| {
        let message = prost::Message::encode_to_vec(&text.to_owned());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut gzip, &message).unwrap();
        let mut bytes = frame(&gzip.finish().unwrap());
        bytes[0] = 1;
        bytes
    };
    let (large, bomb) = ("x".repeat(LIMIT / 2), "x".repeat(100 * LIMIT));
    let (head, body) = bodied(&daemon, say, &sent(&large), &zipped).await;
    assert!(!head.contains_key("grpc-encoding") && body.len() > large.len());
    let (head, body) = bodied(&daemon, say, &sent(&large), &both).await;
    assert_eq!(head["grpc-encoding"], "gzip");
    assert!(body[0] == 1 && body.len() < large.len() / 10, "{}", body.len());
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[5..]), &mut text).unwrap();
    assert_eq!(<String as prost::Message>::decode(&text[..]).unwrap(), large);
    let (_, body) = bodied(&daemon, say, &sent("tiny"), &both).await;
    assert_eq!(body[0], 0, "what is tiny stays as it is");
    let (_, headers) = raw(&daemon, say, &sent(&bomb), &zipped).await;
    assert_eq!(headers["grpc-status"], "8");
    daemon.stopped().await;
}
