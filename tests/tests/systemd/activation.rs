//! The socket outlives the daemon: nobody who connects while it restarts is refused.

use std::{os::unix::net::UnixStream, time::Duration};

use nexus_client::{Address, Connection, Options, ServerUid};
use nexus_tests::PATIENCE;
use tonic_health::pb::HealthCheckRequest;

use crate::container::{Container, Who};

const UNIT: &str = "nexus-orchestrator.service";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_refused_while_it_restarts() {
    let Some(container) = Container::boot("activation::nobody_is_refused_while_it_restarts") else {
        return;
    };
    container.run(Who::Root, "nexus services install --system orchestrator");
    let socket = container.path("/tmp/baaaht-grpc.sock");
    let first = container.pid(Who::Root, UNIT);

    let (done, over) = std::sync::mpsc::channel();
    let container = std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                container.run(Who::Root, &format!("systemctl restart {UNIT}"));
            }
            done.send(()).unwrap();
        });
        let mut connections = 0;
        while over.try_recv().is_err() {
            UnixStream::connect(&socket).unwrap_or_else(|error| panic!("connection {connections}: {error}"));
            connections += 1;
            // Not faster than the daemon can take them, or the queue is what is measured.
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(connections > 10, "{connections}");
        println!("{connections} connections over 3 restarts, none refused");
        &container
    });
    assert_ne!(container.pid(Who::Root, UNIT), first);

    // A call made while it is down waits for the next one, and is answered by it.
    container.run(Who::Root, &format!("systemctl stop {UNIT}"));
    assert!(container.is_active(Who::Root, "nexus-orchestrator.socket"));
    let options = Options {
        rpc_timeout: PATIENCE,
        server_uid: ServerUid::Any,
        ..Options::default()
    };
    let connection = Connection::lazy(&Address::Unix(socket), &options);
    connection.health().check(HealthCheckRequest::default()).await.unwrap();
    assert!(container.is_active(Who::Root, UNIT));
}
