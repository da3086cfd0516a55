//! Bad input on every call: a clear status, nothing lost, and the server goes on as if nothing had been.

mod agents;
mod catalogue;
mod doors;
mod refused;
mod sessions;
mod streams;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use catalogue::{cases, methods};
use nexus_client::Connection;
use nexus_proto::orchestrator::v1::MessageRole;
use nexus_tests::{Daemon, PATIENCE, Site, ask, raw};
use tokio::time::sleep;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

/// What a caller cannot act upon: the server's own fault, or nobody knows whose.
pub const UNCLEAR: [Code; 3] = [Code::Unknown, Code::Internal, Code::DataLoss];

async fn all_serve(connection: &Connection) {
    for service in ["", "orchestrator", "agent", "gateway", "llm"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = connection
            .health()
            .check(request)
            .await
            .unwrap_or_else(|error| panic!("{service:?}: {error}"));
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
}

/// Waits until the daemons behind the front door answer through it.
pub async fn through_the_door(connection: &Connection) {
    let until = Instant::now() + PATIENCE;
    loop {
        let llm = connection.llm().get_status(()).await;
        let gateway = connection.gateway().get_status(()).await;
        match (llm, gateway) {
            (Ok(_), Ok(_)) => break,
            both => assert!(Instant::now() < until, "{both:?}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn every_call_refuses_what_it_cannot_read() {
    let mut site = Site::new();
    site.up(&Daemon::ALL).await;
    site.answers().await;
    let connection = site.connect();
    through_the_door(&connection).await;
    let session = ask::create(&connection, "untouched").await;
    for number in 0..5 {
        let message = ask::message("", MessageRole::System, &number.to_string());
        ask::send(&connection, &session, message).await.unwrap();
    }
    let before = ask::session(&connection, &session).await;

    let mut wrong = Vec::new();
    let mut made = BTreeMap::new();
    for method in methods() {
        for case in cases(&method) {
            let answer = raw::call(&connection, &method.path, case.call.clone()).await;
            let code = answer.code();
            let fits = if case.codes.is_empty() {
                !UNCLEAR.contains(&code)
            } else {
                case.codes.contains(&code)
            };
            if !fits || (code != Code::Ok && answer.status.message().is_empty()) {
                wrong.push(format!("{} {}: {:?}", method.path, case.name, answer.status));
            }
            *made.entry(format!("{}: {code:?}", case.name)).or_insert(0) += 1;
        }
    }
    println!("{made:#?}");
    assert!(
        wrong.is_empty(),
        "{} unclear answers:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    all_serve(&connection).await;
    assert_eq!(ask::session(&connection, &session).await, before);
    site.answers().await;
    for daemon in Daemon::ALL {
        let ended = site.process(daemon).ended();
        assert_eq!(ended, None, "{daemon} runs on");
    }
}

#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    for path in [
        "/orchestrator.v1.OrchestratorService/NoSuchCall",
        "/orchestrator.v9.OrchestratorService/GetSession",
        "/no.such.Service/Call",
        "/nonsense",
        "/",
    ] {
        let answer = raw::call(&connection, path, raw::Call::message(b"")).await;
        assert_eq!(answer.code(), Code::Unimplemented, "{path}: {:?}", answer.status);
    }
    // The prefix of the documents works, and its own unknown calls are unknown.
    let answer = raw::call(
        &connection,
        "/proto.orchestrator.v1.OrchestratorService/GetStatus",
        raw::Call::message(b""),
    );
    assert_eq!(answer.await.code(), Code::Ok);
    // Nobody is behind the front door; the answer says what to do.
    for path in [
        "/gateway.v1.GatewayService/GetStatus",
        "/proto.llm.v1.LLMService/GetStatus",
    ] {
        let answer = raw::call(&connection, path, raw::Call::message(b"")).await;
        assert_eq!(answer.code(), Code::Unavailable);
        assert!(answer.status.message().contains("nexus up"), "{:?}", answer.status);
    }
    let headers = vec![("grpc-timeout", "soon".to_owned())];
    let call = raw::Call {
        headers,
        ..raw::Call::message(b"")
    };
    let answer = raw::call(&connection, "/orchestrator.v1.OrchestratorService/GetStatus", call).await;
    assert_eq!(answer.code(), Code::InvalidArgument);
}
