//! A daemon inside this process: what tests of daemons build on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[path = "frame/probe.rs"]
mod probe;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nexus_config::Root;
use nexus_daemon::{BootError, start};
use probe::Probe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

fn root() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::at(dir.path());
    (dir, root)
}

/// What a server says first: a SETTINGS frame.
async fn greeted(path: &std::path::Path) -> bool {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut frame = [0; 9];
    timeout(SOON, stream.read_exact(&mut frame)).await.unwrap().unwrap();
    frame[3] == 4
}

#[tokio::test]
async fn it_is_ready_when_start_returns_and_gone_when_stop_does() {
    let (_dir, root) = root();
    let running = start::<Probe>(root.clone(), &[]).await.unwrap();
    assert_eq!(running.socket(), root.socket("agent-probe"));
    for name in ["", "agent", "agent-probe"] {
        assert_eq!(running.health().is_serving(name), Some(true), "{name:?}");
    }
    assert!(greeted(running.socket()).await);
    let mode = std::fs::metadata(running.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (socket, health) = (running.socket().to_path_buf(), running.health().clone());
    timeout(SOON, running.stop()).await.unwrap();
    assert!(!socket.exists());
    assert_eq!(health.is_serving(""), Some(false));
}

#[tokio::test]
async fn two_roots_never_meet_and_one_root_holds_one() {
    let ((_a, one), (_b, two)) = (root(), root());
    let first = start::<Probe>(one.clone(), &[]).await.unwrap();
    let second = start::<Probe>(two, &[]).await.unwrap();
    let Err(BootError::Taken(said)) = start::<Probe>(one.clone(), &[]).await else {
        panic!("the socket is taken")
    };
    assert!(said.contains(&*one.socket("agent-probe").to_string_lossy()), "{said}");
    first.stop().await;
    second.stop().await;
    start::<Probe>(one, &[]).await.unwrap().stop().await;
}

#[tokio::test]
async fn overrides_reach_both_sections_and_mistakes_are_all_told() {
    let (_dir, root) = root();
    let socket = root.path().join("elsewhere.sock");
    let overrides = [
        ("socket_path", socket.to_str().unwrap()),
        ("common.max_streams", "7"),
        ("socket_mode", "0660"),
    ];
    let running = start::<Probe>(root.clone(), &overrides).await.unwrap();
    assert_eq!(running.socket(), socket);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    running.stop().await;

    let wrong = [
        ("greting", "x"),
        ("low", "10"),
        ("socket_mode", "9"),
        ("tls_key", "/k"),
        ("tcp_listen", "0.0.0.0:1"),
    ];
    let Err(BootError::Config(lines)) = start::<Probe>(root, &wrong).await else {
        panic!("these are mistakes")
    };
    for part in [
        "greeting",
        "low (10) is above high (9)",
        "socket_mode",
        "tls_cert",
        "reachable from other hosts",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(part)),
            "{part} is not in {lines:#?}"
        );
    }
}

#[tokio::test]
async fn roles_and_metrics_are_checked_before_anything_starts() {
    let (_dir, root) = root();
    let wrong = [
        ("common.roles", "uid:x=user, gid:5=king"),
        ("common.metrics", "0.0.0.0:9"),
    ];
    let Err(BootError::Config(lines)) = start::<Probe>(root, &wrong).await else {
        panic!("these are mistakes")
    };
    for part in ["\"uid:x\"", "\"king\"", "loopback"] {
        assert!(
            lines.iter().any(|line| line.contains(part)),
            "{part} is not in {lines:#?}"
        );
    }
}

#[tokio::test]
async fn a_build_that_fails_leaves_no_socket() {
    let (_dir, root) = root();
    let failed = start::<Probe>(root.clone(), &[("fail", "data")]).await;
    assert!(matches!(failed, Err(BootError::Data(_))));
    assert!(!root.socket("agent-probe").exists());
}

#[tokio::test]
async fn a_flush_that_hangs_ends_with_the_budget() {
    let (_dir, root) = root();
    let slow = [("flush_takes", "1h"), ("common.stop_budget", "200ms")];
    let running = start::<Probe>(root, &slow).await.unwrap();
    let said = timeout(SOON, running.stopped()).await.unwrap().unwrap_err().to_string();
    assert!(said.contains("stop_budget"), "{said}");
}

#[tokio::test]
async fn tcp_is_bound_where_asked() {
    let (_dir, root) = root();
    let running = start::<Probe>(root, &[("tcp_listen", "127.0.0.1:0")]).await.unwrap();
    let address = running.tcp().unwrap();
    tokio::net::TcpStream::connect(address).await.unwrap();
    running.stop().await;
}
