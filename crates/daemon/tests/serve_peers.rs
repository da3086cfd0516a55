//! Who may call what: other uids over the real socket, tokens over TCP and TLS, and metadata that lies.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod serve_kit;

use std::{os::unix::process::CommandExt, process::Command, sync::Arc, time::Duration};

use nexus_daemon::{
    Role,
    token::{self, Fresh},
};
use serve_kit::{Daemon, OTHER, Setup, call, connect, role, say, skipped, socket_of_child};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Run again by the tests below, as another uid: prints what each call got.
#[tokio::test]
#[ignore = "a part of the tests that call as another uid"]
async fn as_another_uid_child() {
    let channel = connect(&socket_of_child()).await;
    for path in ["/test.v1.Echo/Say", "/test.v1.Closed/Say"] {
        let mut request = Request::new("who".to_string());
        request.metadata_mut().insert("nexus-peer-uid", "0".parse().unwrap());
        request
            .metadata_mut()
            .insert("nexus-peer-role", "admin".parse().unwrap());
        match call(&channel, path, request).await {
            Ok(text) => println!("{path} ok {text}"),
            Err(status) => println!("{path} {:?} {}", status.code(), status.message()),
        }
    }
    let mut health = HealthClient::new(channel);
    match health.check(HealthCheckRequest::default()).await {
        Ok(answer) => println!("{HEALTH} ok {:?}", answer.into_inner().status()),
        Err(status) => println!("{HEALTH} {:?} {}", status.code(), status.message()),
    }
}

/// `None`, after saying so, where we cannot become somebody else.
async fn as_another_uid(daemon: &Daemon, test: &str) -> Option<String> {
    let mut child = daemon.as_other(test, "as_another_uid_child")?;
    let output = tokio::task::spawn_blocking(move || child.output().unwrap())
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(text)
}

fn line<'a>(text: &'a str, path: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.split_once(path))
        .expect("a line for each path")
        .1
        .trim()
}

#[tokio::test]
async fn a_stranger_is_refused_everywhere_and_told_why() {
    let daemon = Setup::default().listen(|o| o.mode = 0o666).start().await;
    if let Some(text) = as_another_uid(&daemon, "a_stranger_is_refused_everywhere_and_told_why").await {
        for path in ["/test.v1.Echo/Say", "/test.v1.Closed/Say", HEALTH] {
            let said = line(&text, path);
            assert!(said.starts_with("PermissionDenied"), "{said}");
            assert!(
                said.contains("uid 65534") && said.contains("uid 0") && said.contains("roles"),
                "{said}"
            );
        }
    }
    daemon.stopped().await;
}

#[tokio::test]
async fn the_socket_itself_keeps_a_stranger_out() {
    let daemon = Daemon::start().await;
    if nix::unistd::geteuid().is_root() {
        let mut child = Command::new("/bin/sh");
        child
            .args(["-c", "test ! -w \"$0\""])
            .arg(&daemon.socket)
            .uid(OTHER)
            .gid(OTHER);
        assert!(
            tokio::task::spawn_blocking(move || child.status().unwrap())
                .await
                .unwrap()
                .success()
        );
    } else {
        skipped("the_socket_itself_keeps_a_stranger_out", "root, to become another uid");
    }
    daemon.stopped().await;
}

#[tokio::test]
async fn a_uid_with_a_role_reaches_what_the_role_may() {
    let daemon = Setup::default()
        .listen(|o| o.mode = 0o666)
        .serve(|o| o.roles = role(OTHER, Role::User))
        .start()
        .await;
    if let Some(text) = as_another_uid(&daemon, "a_uid_with_a_role_reaches_what_the_role_may").await {
        // Its metadata claimed uid 0 and admin.
        assert_eq!(line(&text, "/test.v1.Echo/Say"), "ok user uid:65534 Some(65534)");
        let denied = line(&text, "/test.v1.Closed/Say");
        assert!(denied.starts_with("PermissionDenied"), "{denied}");
        assert!(
            denied.contains("role user") && denied.contains("needs admin"),
            "{denied}"
        );
        assert_eq!(line(&text, HEALTH), "ok Serving");
    }
    daemon.stopped().await;
}

#[tokio::test]
async fn a_gid_with_a_role_counts_too() {
    let roles = [(format!("gid:{OTHER}"), Role::Agent)];
    let daemon = Setup::default()
        .listen(|o| o.mode = 0o666)
        .serve(|o| o.roles = roles.into())
        .start()
        .await;
    if let Some(text) = as_another_uid(&daemon, "a_gid_with_a_role_counts_too").await {
        assert_eq!(line(&text, "/test.v1.Echo/Say"), "ok agent uid:65534 Some(65534)");
    }
    daemon.stopped().await;
}

#[tokio::test]
async fn our_own_uid_is_admin_and_may_speak_for_others() {
    let daemon = Setup::default()
        .serve(|o| o.roles = role(1234, Role::User))
        .start()
        .await;
    let channel = daemon.connect().await;
    let own = nix::unistd::geteuid();
    assert_eq!(
        say(&channel, "who").await.unwrap(),
        format!("admin uid:{own} Some({own})")
    );

    let told = |uid: &str, text: &str| {
        let mut request = Request::new(text.to_string());
        request.metadata_mut().insert("nexus-peer-uid", uid.parse().unwrap());
        request
    };
    let echo = "/test.v1.Echo/Say";
    assert_eq!(
        call(&channel, echo, told("1234", "who")).await.unwrap(),
        "user uid:1234 Some(1234)"
    );
    assert_eq!(
        call(&channel, echo, told("1234", "stamps")).await.unwrap(),
        "false",
        "handlers see the caller only"
    );
    let denied = call(&channel, "/test.v1.Closed/Say", told("1234", "x"))
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(
        call(&channel, echo, told("4321", "x")).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        call(&channel, echo, told("root", "x")).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    daemon.stopped().await;
}

async fn with_token(channel: &Channel, token: &str, path: &'static str) -> Result<String, Status> {
    let mut request = Request::new("who".to_string());
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    call(channel, path, request).await
}

fn loopback() -> Setup {
    Setup::default().listen(|o| o.tcp = Some("127.0.0.1:0".parse().unwrap()))
}

async fn dial(daemon: &Daemon) -> Channel {
    let address = daemon.tcp.expect("a TCP listener");
    Endpoint::try_from(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

#[tokio::test]
async fn tcp_takes_a_token_with_its_role_and_scope() {
    let daemon = loopback().start().await;
    let file = daemon.dir.path().join("tokens.toml");
    let phone = token::new(&file, "phone", Role::User, &[], None).unwrap();
    let user = phone.text;
    let scopes = ["test.v1.Closed".into()];
    let Fresh { id, text: narrow } = token::new(&file, "narrow", Role::Admin, &scopes, None).unwrap();
    let old = token::new(&file, "old", Role::Admin, &[], Some(Duration::ZERO))
        .unwrap()
        .text;
    let channel = dial(&daemon).await;
    let (echo, closed) = ("/test.v1.Echo/Say", "/test.v1.Closed/Say");

    assert_eq!(say(&channel, "x").await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(
        with_token(&channel, "nxs_wrong", echo).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(
        with_token(&channel, &old, echo).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(
        with_token(&channel, &user, echo).await.unwrap(),
        format!("user token:{} None", phone.id)
    );
    assert_eq!(
        with_token(&channel, &user, closed).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        with_token(&channel, &narrow, closed).await.unwrap(),
        format!("admin token:{id} None")
    );
    assert_eq!(
        with_token(&channel, &narrow, echo).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let reader = token::new(&file, "reader", Role::Admin, &["read".into()], None).unwrap();
    let refused = with_token(&channel, &reader.text, echo).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("do not include write"), "{refused:?}");

    token::revoke(&file, "phone").unwrap();
    let gone = async { while with_token(&channel, &user, echo).await.is_ok() {} };
    tokio::time::timeout(serve_kit::SOON, gone)
        .await
        .expect("a revoked token stops working");
    daemon.stopped().await;
}

#[tokio::test]
async fn loopback_without_a_token_only_where_the_config_says_so() {
    let daemon = loopback().listen(|o| {
        o.tcp = Some("127.0.0.1:0".parse().unwrap());
        o.allow_anonymous_loopback = true;
    });
    let daemon = daemon.start().await;
    let channel = dial(&daemon).await;
    assert_eq!(say(&channel, "who").await.unwrap(), "user anonymous None");
    // A token that is sent is checked all the same.
    assert_eq!(
        with_token(&channel, "nxs_wrong", "/test.v1.Echo/Say")
            .await
            .unwrap_err()
            .code(),
        Code::Unauthenticated
    );
    daemon.stopped().await;
}

#[tokio::test]
async fn the_config_can_demand_a_token_on_the_socket() {
    let daemon = Setup::default().serve(|o| o.require_token = true).start().await;
    let channel = daemon.connect().await;
    assert_eq!(say(&channel, "x").await.unwrap_err().code(), Code::Unauthenticated);
    let made = token::new(&daemon.dir.path().join("tokens.toml"), "me", Role::User, &[], None).unwrap();
    let own = nix::unistd::geteuid();
    let text = with_token(&channel, &made.text, "/test.v1.Echo/Say").await.unwrap();
    assert_eq!(text, format!("user token:{} Some({own})", made.id));
    daemon.stopped().await;
}

#[tokio::test]
async fn tls_serves_grpc_to_who_holds_a_token() {
    let pem = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let (chain, key) = (pem.path().join("chain.pem"), pem.path().join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files = (chain, key);
    let daemon = loopback()
        .listen(move |o| {
            // Beyond loopback is allowed with TLS.
            o.tcp = Some("0.0.0.0:0".parse().unwrap());
            o.tls = Some(files);
        })
        .start()
        .await;
    let far = token::new(&daemon.dir.path().join("tokens.toml"), "far", Role::User, &[], None).unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let port = daemon.tcp.unwrap().port();
    let dial = tower::service_fn(move |_: http::Uri| {
        let connector = connector.clone();
        async move {
            let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            let tls = connector.connect("localhost".try_into().unwrap(), tcp).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tls))
        }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(dial)
        .await
        .unwrap();
    assert_eq!(say(&channel, "x").await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(
        with_token(&channel, &far.text, "/test.v1.Echo/Say").await.unwrap(),
        format!("user token:{} None", far.id)
    );
    daemon.stopped().await;
}
