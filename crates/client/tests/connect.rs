//! Connecting, losing the other side, and finding it again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fake::{Handler, Server, serve, unary};
use nexus_client::{Address, Connection, Kind, Options, ServerUid};
use nexus_proto::orchestrator::v1::{HealthCheckResponse, StreamMessageRequest, StreamMessageResponse};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, UnixListener},
    time::{Instant, timeout},
};
use tonic::Request;

const SOON: Duration = Duration::from_secs(20);

fn healthy() -> Handler {
    Arc::new(|request| {
        Box::pin(unary(request, |_: tonic::Request<()>| async {
            Ok(HealthCheckResponse {
                version: "1".into(),
                ..HealthCheckResponse::default()
            })
        }))
    })
}

/// Accepts calls and never answers.
fn silent() -> Handler {
    Arc::new(|_| Box::pin(std::future::pending()))
}

async fn version(connection: &Connection) -> Result<String, nexus_client::Error> {
    Ok(connection.orchestrator().health_check(()).await?.into_inner().version)
}

#[tokio::test]
async fn nobody_listens_and_the_error_names_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let address = Address::Unix(dir.path().join("o.sock"));
    let error = Connection::open(&address, &Options::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotRunning);
    assert!(error.message.contains("o.sock"), "{error}");
    assert_eq!(error.hint.as_deref(), Some("start it with: nexus up"));

    let error = version(&Connection::lazy(&address, &Options::default()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::NotRunning);
}

#[tokio::test]
async fn a_path_that_no_socket_can_have_is_invalid() {
    let address = Address::Unix(format!("/tmp/{}", "x".repeat(300)).into());
    let error = Connection::open(&address, &Options::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
}

#[tokio::test]
async fn another_users_server_is_refused_before_any_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    let own = nix::unistd::geteuid().as_raw();
    let options = Options {
        server_uid: ServerUid::Is(own + 1),
        ..Options::default()
    };
    let error = Connection::open(&Address::Unix(path), &options).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused(own));
    assert!(error.message.contains(&own.to_string()), "{error}");
    assert!(error.hint.unwrap().contains("another user"));
    assert_eq!(heard.await.unwrap(), b"");
}

#[tokio::test]
async fn the_same_connection_finds_a_server_that_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let server = Server::start(&path, healthy());
    let connection = Connection::open(&Address::Unix(path.clone()), &Options::default())
        .await
        .unwrap();
    assert_eq!(version(&connection).await.unwrap(), "1");

    server.kill().await;
    timeout(SOON, connection.lost()).await.unwrap();
    assert!(!connection.is_connected());
    assert!(version(&connection).await.unwrap_err().is_retryable());

    let back = tokio::spawn({
        let connection = connection.clone();
        async move { connection.connected().await }
    });
    let _server = Server::start(&path, healthy());
    timeout(SOON, back).await.unwrap().unwrap().unwrap();
    assert_eq!(version(&connection).await.unwrap(), "1");
}

#[tokio::test]
async fn no_call_fails_because_the_connection_closed_while_idle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let mut server = Server::start(&path, healthy());
    let connection = Connection::lazy(&Address::Unix(path.clone()), &Options::default());
    for round in 0..50 {
        assert_eq!(version(&connection).await.unwrap(), "1", "round {round}");
        server.kill().await;
        // The client has had no chance to notice the loss when it calls again.
        server = Server::start(&path, healthy());
    }
}

#[tokio::test]
async fn a_unary_call_ends_at_the_default_deadline_and_at_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let _server = Server::start(&path, silent());
    let options = Options {
        rpc_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let connection = Connection::lazy(&Address::Unix(path), &options);
    let begun = Instant::now();
    let error = version(&connection).await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
    assert!(error.message.contains("50ms"), "{error}");
    assert!(error.hint.is_some());
    assert!(begun.elapsed() < SOON);

    let mut request = Request::new(());
    request.set_timeout(Duration::from_millis(10));
    let status = connection.orchestrator().health_check(request).await.unwrap_err();
    assert!(status.message().contains("10ms"), "{status}");
}

#[tokio::test]
async fn the_deadline_holds_for_an_answer_that_stops_half_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let _server = Server::start(
        &path,
        Arc::new(|_| {
            Box::pin(async {
                let body = http_body_util::StreamBody::new(futures_util::stream::pending::<
                    Result<http_body::Frame<bytes::Bytes>, std::io::Error>,
                >());
                http::Response::builder()
                    .header("content-type", "application/grpc")
                    .body(tonic::body::Body::new(body))
                    .unwrap()
            })
        }),
    );
    let options = Options {
        rpc_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let connection = Connection::lazy(&Address::Unix(path), &options);
    let error = timeout(SOON, version(&connection)).await.unwrap().unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{error}");
}

#[tokio::test]
async fn a_stream_outlives_the_call_deadline_and_tells_when_its_server_dies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let echo: Handler = Arc::new(|request| {
        if !request.uri().path().ends_with("/StreamMessages") {
            return silent()(request);
        }
        Box::pin(fake::bidi(request, |input: tonic::Streaming<StreamMessageRequest>| {
            use futures_util::StreamExt as _;
            Box::pin(input.map(|_| Ok(StreamMessageResponse::default())))
        }))
    });
    let server = Server::start(&path, echo);
    let options = Options {
        rpc_timeout: Duration::from_millis(1),
        ..Options::default()
    };
    let connection = Connection::lazy(&Address::Unix(path), &options);
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let input = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut output = connection
        .orchestrator()
        .stream_messages(input)
        .await
        .unwrap()
        .into_inner();
    // A unary call beside it runs into the deadline that the stream must not have.
    assert_eq!(version(&connection).await.unwrap_err().kind, Kind::Timeout);
    send.send(StreamMessageRequest::default()).await.unwrap();
    assert!(timeout(SOON, output.message()).await.unwrap().unwrap().is_some());

    server.kill().await;
    let error = timeout(SOON, output.message()).await.unwrap().unwrap_err();
    let error = nexus_client::Error::from(error);
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn many_calls_at_once_share_one_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, healthy()));
        }
    });
    let connection = Connection::lazy(&Address::Unix(path), &Options::default());
    let calls = (0..200).map(|_| version(&connection));
    for result in futures_util::future::join_all(calls).await {
        assert_eq!(result.unwrap(), "1");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    server.abort();
}

#[tokio::test]
async fn the_server_sees_a_valid_authority_and_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let _server = Server::start(
        &path,
        Arc::new(move |request| {
            let header = |name: &str| {
                request
                    .headers()
                    .get(name)
                    .map(|value| value.to_str().unwrap().to_owned())
                    .unwrap_or_default()
            };
            record.lock().unwrap().push((
                request.uri().to_string(),
                header("authorization"),
                header("grpc-timeout"),
            ));
            healthy()(request)
        }),
    );
    let options = Options {
        token: Some("abc".into()),
        ..Options::default()
    };
    version(&Connection::lazy(&Address::Unix(path), &options))
        .await
        .unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        [(
            "http://localhost/orchestrator.v1.OrchestratorService/HealthCheck".to_owned(),
            "Bearer abc".to_owned(),
            "10000000u".to_owned()
        )]
    );
}

#[tokio::test]
async fn tls_is_spoken_where_asked_for_and_the_certificate_counts() {
    let dir = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, own.cert.pem()).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let mut config = tokio_rustls::rustls::ServerConfig::builder_with_provider(Arc::new(
        tokio_rustls::rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![own.cert.der().clone()], key)
    .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(serve(stream, healthy()));
            }
        }
    });

    let address: Address = format!("https://localhost:{port}").parse().unwrap();
    let trusting = Options {
        tls_ca: Some(ca),
        ..Options::default()
    };
    assert_eq!(version(&Connection::lazy(&address, &trusting)).await.unwrap(), "1");
    let error = Connection::open(
        &address,
        &Options {
            tls_ca: Some(dir.path().join("none.pem")),
            ..Options::default()
        },
    )
    .await
    .unwrap_err();
    assert!(error.hint.unwrap().contains("certificate"));
    server.abort();
}

#[tokio::test]
async fn attempts_end_where_the_options_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        reconnect_max_attempts: 3,
        reconnect_interval: Duration::from_millis(1),
        ..Options::default()
    };
    let connection = Connection::lazy(&Address::Unix(dir.path().join("o.sock")), &options);
    let error = timeout(SOON, connection.connected()).await.unwrap().unwrap_err();
    assert_eq!(error.kind, Kind::NotRunning);
}
