//! Keys: set while the daemon runs, refused where others could read them, and shown nowhere.

mod support;

use std::{process::Stdio, sync::Arc, time::Duration};

use nexus_client::{Address, Connection, Options};
use nexus_config::Root;
use nexus_proto::{common::v1::Health, llm::v1 as wire};
use support::{ask, settings, world, write_keys};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpStream},
    process::Command,
    time::timeout,
};
use tonic::Code;

#[tokio::test]
async fn a_key_set_while_we_run_is_used_at_once() {
    let world = world(&[], &[]).await;
    let error = world.complete(ask("r", "openai/text", "hi")).await.expect_err("no key");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(world.fake.requests("text"), 0, "nothing is sent without one");
    write_keys(&world.key_file(), &[("openai", "sk-x")], 0o600);
    assert_eq!(
        world
            .complete(ask("r", "openai/text", "hi"))
            .await
            .expect("a key")
            .provider,
        "openai"
    );
    write_keys(&world.key_file(), &[], 0o600);
    assert!(world.complete(ask("r", "openai/text", "hi")).await.is_err());
}

#[tokio::test]
async fn a_key_file_others_can_read_is_refused() {
    let world = world(&[], &[]).await;
    write_keys(&world.key_file(), &[("openai", "sk-canary")], 0o644);
    let error = world
        .complete(ask("r", "openai/text", "hi"))
        .await
        .expect_err("refused");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(
        error.message().contains("chmod 600") && !error.message().contains("canary"),
        "{error}"
    );
    assert_eq!(world.fake.requests("text"), 0);
    let error = world
        .complete(ask("r", "", "hi"))
        .await
        .expect_err("not the offline model in its place");
    assert!(error.message().contains("chmod 600"), "{error}");
    let health = world.llm().health_check(()).await.expect("health").into_inner();
    assert_eq!(health.health(), Health::Degraded);
    assert!(
        world.complete(ask("r", "offline/nexus-offline-1", "hi")).await.is_ok(),
        "the rest works"
    );
}

/// The real binary, all logs on, a provider that quotes the key it refuses.
#[tokio::test]
async fn a_key_is_shown_nowhere() {
    const CANARY: &str = "sk-wrong-canary-51c0";
    let dir = tempfile::tempdir().expect("temporary directory");
    let root = Root::at(dir.path());
    root.create().expect("directories");
    write_keys(&root.key_file(), &[("openai", CANARY), ("rack", CANARY)], 0o600);
    let fake = support::Fake::start().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexus-llm"));
    for (key, value) in settings(fake.port) {
        command.env(format!("NEXUS_LLM__{}", key.to_uppercase()), value);
    }
    let mut process = command
        .env("NEXUS_ROOT", dir.path())
        .env("NEXUS_COMMON__ORCHESTRATOR", dir.path().join("nobody.sock"))
        .env("RUST_LOG", "trace")
        .env("ANTHROPIC_API_KEY", CANARY)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the daemon starts");
    // Read all along: a daemon with all its logs on would wait for a reader.
    let (stdout, stderr) = (
        process.stdout.take().expect("piped"),
        process.stderr.take().expect("piped"),
    );
    let (stdout, stderr) = (tokio::spawn(read(stdout)), tokio::spawn(read(stderr)));
    // An orchestrator is not there, and is not waited for.
    let connection = Connection::lazy(&Address::Unix(root.socket("llm")), &Options::default());
    timeout(Duration::from_secs(20), connection.connected())
        .await
        .expect("in time")
        .expect("ready");
    let mut said = String::new();
    for model in ["anthropic/text", "openai/text", "rack/text"] {
        let request = wire::CompleteLlmRequest {
            request: Some(ask("r", model, "hi")),
        };
        let error = connection.llm().complete_llm(request).await.expect_err("refused");
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().contains("Incorrect API key provided: [key]"), "{error}");
        said += &format!("{error:?}");
    }
    said += &format!("{:?}", connection.llm().get_status(()).await.expect("status"));
    let process_id = process.id().and_then(|id| i32::try_from(id).ok()).expect("runs");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(process_id),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("signal");
    let status = timeout(Duration::from_secs(20), process.wait())
        .await
        .expect("stops in time")
        .expect("ended");
    assert!(status.success(), "{status}");
    said += &stdout.await.expect("read");
    said += &stderr.await.expect("read");
    let mut files = vec![root.state()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(
                std::fs::read_dir(&path)
                    .expect("readable")
                    .map(|entry| entry.expect("entry").path()),
            );
        } else if path != root.key_file() {
            said += &std::fs::read_to_string(&path).unwrap_or_default();
        }
    }
    assert!(said.contains("provider failed"), "the failures are in the log");
    assert!(
        said.contains("hyper") || said.contains("reqwest"),
        "libraries logged too"
    );
    assert!(!said.contains("canary"), "a key was shown");
}

/// The real binary against a provider behind TLS: a certificate it can check is needed, and enough.
#[tokio::test]
async fn https_is_checked() {
    let fake = support::Fake::start().await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they match");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("https://localhost:{}/v1", listener.local_addr().expect("bound").port());
    let plain = fake.port;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A caller that does not trust us breaks the handshake off.
            let Ok(mut outside) = acceptor.accept(stream).await else {
                continue;
            };
            let mut inside = TcpStream::connect(("127.0.0.1", plain))
                .await
                .expect("the fake one listens");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut outside, &mut inside).await });
        }
    });
    let dir = tempfile::tempdir().expect("temporary directory");
    let trusted = dir.path().join("trusted.pem");
    std::fs::write(&trusted, made.cert.pem()).expect("write");
    for (name, authorities, trusts) in [("trusting", Some(&trusted), true), ("careful", None, false)] {
        let root = Root::at(dir.path().join(name));
        root.create().expect("directories");
        let mut command = Command::new(env!("CARGO_BIN_EXE_nexus-llm"));
        if let Some(file) = authorities {
            command.env("SSL_CERT_FILE", file);
        }
        let mut process = command
            .env("NEXUS_ROOT", root.path())
            .env("NEXUS_COMMON__ORCHESTRATOR", dir.path().join("nobody.sock"))
            .env("NEXUS_LLM__ENDPOINTS", format!("rack={url}"))
            .env("NEXUS_LLM__MAX_RETRIES", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the daemon starts");
        let connection = Connection::lazy(&Address::Unix(root.socket("llm")), &Options::default());
        timeout(Duration::from_secs(20), connection.connected())
            .await
            .expect("in time")
            .expect("ready");
        let request = wire::CompleteLlmRequest {
            request: Some(ask("r", "rack/text", "hi")),
        };
        let answer = connection.llm().complete_llm(request).await;
        match answer {
            Ok(_) => assert!(trusts, "{name}"),
            Err(error) => assert!(!trusts && error.message().contains("certificate"), "{name}: {error}"),
        }
        process.kill().await.expect("ends");
    }
}

async fn read(mut pipe: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).await.expect("readable");
    String::from_utf8_lossy(&bytes).into_owned()
}
