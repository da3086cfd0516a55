//! The wish to dial again: open calls end at once, a new connection is made, pauses are over.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::sync::Arc;
use std::time::Duration;

use fake::{Handler, Server};
use nexus_client::{Address, Connection, Kind, Options};
use tokio::sync::watch;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

/// Counts calls and never answers.
fn silent() -> (Handler, watch::Receiver<usize>) {
    let (count, counted) = watch::channel(0);
    let handler: Handler = Arc::new(move |_| {
        count.send_modify(|count| *count += 1);
        Box::pin(std::future::pending())
    });
    (handler, counted)
}

#[tokio::test]
async fn an_open_call_ends_and_the_next_one_dials() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let (handler, mut calls) = silent();
    let server = Server::start(&path, handler);
    let options = Options {
        rpc_timeout: SOON * 10,
        ..Options::default()
    };
    let (one, other) = (
        Connection::lazy(&Address::Unix(path.clone()), &options),
        Connection::lazy(&Address::Unix(path), &Options::default()),
    );
    other.connected().await.unwrap();
    for round in 1..=3 {
        let asking = tokio::spawn({
            let one = one.clone();
            async move { one.orchestrator().health_check(()).await }
        });
        timeout(SOON, calls.wait_for(|calls| *calls == round))
            .await
            .unwrap()
            .unwrap();
        options.redial.now();
        let error = timeout(SOON, asking).await.unwrap().unwrap().unwrap_err();
        assert_eq!(nexus_client::Error::from(error).kind, Kind::Unavailable);
        timeout(SOON, one.lost()).await.unwrap();
    }
    assert!(other.is_connected(), "it has options of its own");
    server.kill().await;
}

#[tokio::test]
async fn a_pause_is_over_and_the_next_ones_are_short_again() {
    let dir = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let options = Options {
        reconnect_interval: hour,
        ..Options::default()
    };
    let nobody = Connection::lazy(&Address::Unix(dir.path().join("nobody")), &options);
    let mut backoff = nobody.backoff();
    // The longest pauses come after many attempts; one of these is minutes at least.
    for _ in 0..30 {
        backoff.next_pause();
    }
    let pauses: Vec<_> = (0..8).map(|_| backoff.pause().unwrap()).collect();
    let waiting = tokio::spawn(futures_util::future::join_all(pauses));
    options.redial.now();
    timeout(SOON, waiting).await.unwrap().unwrap();
    assert!(backoff.next_pause().unwrap() <= Duration::from_millis(100));
}
