//! Staying registered through restarts of the orchestrator.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use fake::{Handler, Server, unary};
use nexus_client::{Address, Connection, Options, register_forever};
use nexus_proto::agent::v1::{
    HeartbeatRequest, HeartbeatResponse, RegisterRequest, RegisterResponse, UnregisterRequest, UnregisterResponse,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

const SOON: Duration = Duration::from_secs(20);

/// Tells each call; knows only the id it gave itself.
fn registry(id: &'static str, calls: mpsc::UnboundedSender<String>) -> Handler {
    let known = Arc::new(Mutex::new(false));
    Arc::new(move |request| {
        let calls = calls.clone();
        let known = known.clone();
        Box::pin(async move {
            match request.uri().path().rsplit('/').next().unwrap() {
                "Register" => {
                    unary(request, move |request: tonic::Request<RegisterRequest>| async move {
                        *known.lock().unwrap() = true;
                        calls.send(format!("register {}", request.get_ref().name)).unwrap();
                        Ok(RegisterResponse {
                            agent_id: id.into(),
                            ..RegisterResponse::default()
                        })
                    })
                    .await
                }
                "Heartbeat" => {
                    unary(request, move |request: tonic::Request<HeartbeatRequest>| async move {
                        calls.send(format!("heartbeat {}", request.get_ref().agent_id)).unwrap();
                        if !*known.lock().unwrap() {
                            return Err(Status::not_found("agent not found"));
                        }
                        Ok(HeartbeatResponse::default())
                    })
                    .await
                }
                _ => {
                    unary(request, move |request: tonic::Request<UnregisterRequest>| async move {
                        calls
                            .send(format!("unregister {}", request.get_ref().agent_id))
                            .unwrap();
                        Ok(UnregisterResponse::default())
                    })
                    .await
                }
            }
        })
    })
}

fn spawn(path: &Path, stop: &CancellationToken, ids: mpsc::UnboundedSender<String>) -> tokio::task::JoinHandle<()> {
    let options = Options {
        reconnect_interval: Duration::from_millis(5),
        ..Options::default()
    };
    let connection = Connection::lazy(&Address::Unix(path.into()), &options);
    let request = || RegisterRequest {
        name: "llm".into(),
        ..RegisterRequest::default()
    };
    let stop = stop.clone();
    tokio::spawn(async move {
        register_forever(connection, request, stop, |told| {
            if let Ok(id) = told {
                ids.send(id.to_owned()).unwrap();
            }
        })
        .await;
    })
}

#[tokio::test]
async fn registers_when_the_orchestrator_appears_and_again_when_it_forgot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let (ids, mut id) = mpsc::unbounded_channel();
    let (calls, mut call) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let task = spawn(&path, &stop, ids);

    let server = Server::start(&path, registry("id-1", calls.clone()));
    assert_eq!(timeout(SOON, call.recv()).await.unwrap().unwrap(), "register llm");
    assert_eq!(timeout(SOON, id.recv()).await.unwrap().unwrap(), "id-1");

    // Noticed at once, though the next heartbeat were half a minute away.
    server.kill().await;
    let _server = Server::start(&path, registry("id-2", calls));
    assert_eq!(timeout(SOON, call.recv()).await.unwrap().unwrap(), "heartbeat id-1");
    assert_eq!(timeout(SOON, call.recv()).await.unwrap().unwrap(), "register llm");
    assert_eq!(timeout(SOON, id.recv()).await.unwrap().unwrap(), "id-2");

    stop.cancel();
    timeout(SOON, task).await.unwrap().unwrap();
    assert_eq!(timeout(SOON, call.recv()).await.unwrap().unwrap(), "unregister id-2");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_an_orchestrator_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let (ids, _id) = mpsc::unbounded_channel();
    let task = spawn(&dir.path().join("o.sock"), &stop, ids);
    stop.cancel();
    timeout(SOON, task).await.unwrap().unwrap();
}
