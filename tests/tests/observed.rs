//! What an operator sees: one message followed through every daemon's log by one id, no secret in any of them, and a
//! dashboard that asks only for numbers that there are.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nexus_proto::gateway::v1::{
    CreateGatewaySessionRequest, GatewayMessage, GatewayMessageMetadata, GatewayMessageRole, GatewaySendMessageRequest,
};
use nexus_tests::{Daemon, PATIENCE, Site};
use nix::sys::signal::Signal;
use std::io::Write;
use tokio::time::{Instant, sleep};

const CANARY: &str = "sk-canary-0f3c9d";

/// Asks by the gateway, and waits until every log has `id`.
async fn followed(site: &mut Site, message: GatewayMessage, id: &str) {
    let connection = site.dial(Daemon::Gateway).connection();
    let made = connection
        .gateway()
        .create_gateway_session(CreateGatewaySessionRequest::default())
        .await;
    let session_id = made.expect("a session can be made").into_inner().session_id;
    let request = GatewaySendMessageRequest {
        session_id,
        message: Some(message),
    };
    connection
        .gateway()
        .gateway_send_message(request)
        .await
        .expect("it is taken");
    let until = Instant::now() + PATIENCE;
    for daemon in Daemon::ALL {
        let log = site.process(daemon).log().to_path_buf();
        while !std::fs::read_to_string(&log).expect("logs are text").contains(id) {
            assert!(Instant::now() < until, "{daemon} never named {id}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn one_message_is_followed_through_every_log_and_no_log_has_a_secret() {
    let mut site = Site::new().env("LOG_LEVEL", "trace").env("ANTHROPIC_API_KEY", CANARY);
    let keys = site.root().key_file();
    std::fs::create_dir_all(keys.parent().expect("a file in the root")).expect("it can be made");
    std::fs::write(&keys, format!("[keys]\nopenai = \"{CANARY}-file\"\n")).expect("it can be written");
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    site.set("NEXUS_LLM__DEFAULT_PROVIDER", Some("offline"));
    site.up(&Daemon::ALL).await;
    site.answers().await;

    let question = |id: &str, correlation_id: &str| GatewayMessage {
        id: id.into(),
        role: GatewayMessageRole::User.into(),
        content: "follow me".into(),
        metadata: Some(GatewayMessageMetadata {
            correlation_id: correlation_id.into(),
            ..GatewayMessageMetadata::default()
        }),
        ..GatewayMessage::default()
    };
    followed(&mut site, question("follow-by-message-id", ""), "follow-by-message-id").await;
    followed(
        &mut site,
        question("m-2", "follow-by-correlation"),
        "follow-by-correlation",
    )
    .await;

    for daemon in Daemon::ALL {
        site.process(daemon).signal(Signal::SIGHUP);
        site.stopped(daemon).await;
    }
    let mut files = vec![site.folder().path().to_path_buf()];
    let mut read = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(
                std::fs::read_dir(&path)
                    .expect("readable")
                    .flatten()
                    .map(|entry| entry.path()),
            );
        } else if path.is_file() && path != keys {
            read += 1;
            let bytes = std::fs::read(&path).expect("readable");
            let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
            assert!(!found, "the canary is in {}", path.display());
        }
    }
    assert!(read > 8, "logs and stores were looked at: {read}");
}

fn scrape(socket: &std::path::Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    let ask = b"GET /metrics HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).expect("it hears");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers with text");
    text
}

/// Names in a query that are numbers of ours: functions, labels and Prometheus' own `up` are not.
fn names(query: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    query
        .split(|c| !word(c))
        .filter(|word| word.starts_with("nexus_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_dashboard_asks_only_for_numbers_that_every_daemon_shows() {
    let text = include_str!("../../deploy/grafana/nexus.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let mut asked = BTreeSet::new();
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("it has targets"))
    {
        asked.extend(names(target["expr"].as_str().expect("it has a query")));
    }
    assert!(asked.len() > 8, "{asked:?}");

    for daemon in Daemon::ALL {
        let site = Site::new();
        let socket = site.folder().path().join("metrics.sock");
        let mut site = site
            .settings("[common]\nwake_check = \"100ms\"\nwake_threshold = \"300ms\"\n")
            .env(
                "NEXUS_COMMON__METRICS",
                socket.to_str().expect("temporary paths are text"),
            );
        site.up(&[daemon]).await;
        // A wake and a call, so that everything has been counted once. Frozen, not waiting: the time is the point.
        site.process(daemon).signal(Signal::SIGSTOP);
        sleep(Duration::from_millis(800)).await;
        site.process(daemon).signal(Signal::SIGCONT);
        let shown = |name: &str, text: &str| {
            text.lines()
                .any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        };
        // Alone, nobody but the orchestrator is back from a wake: they wait for it.
        let missing = |text: &str| -> Vec<String> {
            let recovers = daemon == Daemon::Orchestrator;
            asked
                .iter()
                .filter(|name| recovers || !name.contains("wake"))
                .filter(|name| !shown(name, text))
                .cloned()
                .collect()
        };
        let until = Instant::now() + PATIENCE;
        loop {
            site.ready(daemon).await;
            let text = scrape(&socket);
            let missing = missing(&text);
            if missing.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "{daemon} shows no {missing:?}:\n{text}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}
