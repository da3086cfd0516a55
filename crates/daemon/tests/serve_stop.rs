//! Stop, health and reflection, as a client sees them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod serve_kit;

use std::time::{Duration, Instant};

use nexus_daemon::Health;
use serve_kit::{Daemon, Gate, SOON, Setup, flow, next, say};
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

async fn check(channel: &Channel, name: &str) -> Result<ServingStatus, (Code, String)> {
    let request = HealthCheckRequest { service: name.into() };
    match HealthClient::new(channel.clone()).check(request).await {
        Ok(answer) => Ok(answer.into_inner().status()),
        Err(status) => Err((status.code(), status.message().into())),
    }
}

async fn watch(channel: &Channel, name: &str) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let request = HealthCheckRequest { service: name.into() };
    HealthClient::new(channel.clone())
        .watch(request)
        .await
        .unwrap()
        .into_inner()
}

async fn seen(
    states: &mut tonic::Streaming<tonic_health::pb::HealthCheckResponse>,
) -> Result<Option<ServingStatus>, tonic::Status> {
    let next = tokio::time::timeout(SOON, states.message())
        .await
        .expect("a state in time")?;
    Ok(next.map(|answer| answer.status()))
}

#[tokio::test]
async fn a_hundred_open_streams_do_not_hold_the_stop() {
    let daemon = Setup::default()
        .serve(|o| o.stop_budget = Duration::from_secs(60))
        .start()
        .await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let channel = daemon.connect().await;
        for _ in 0..25 {
            let mut open = flow(&channel, Request::new("open".into())).await.unwrap();
            assert_eq!(next(&mut open).await.unwrap().as_deref(), Some("first"));
            streams.push(open);
        }
    }
    let idle = daemon.connect().await;
    assert_eq!(say(&idle, "hi").await.unwrap(), "hi");
    let _silent = tokio::net::UnixStream::connect(&daemon.socket).await.unwrap();
    daemon.stop.trigger();
    for open in &mut streams {
        let error = next(open).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Unavailable, "shutting down"));
    }
    // SOON is a third of the budget: nothing waited for its end.
    let socket = daemon.socket.clone();
    daemon.stopped().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut_off_at_the_end_of_the_budget() {
    let budget = Duration::from_millis(600);
    let daemon = Setup::default().serve(move |o| o.stop_budget = budget).start().await;
    let channel = daemon.connect().await;
    let _unread = flow(&channel, Request::new("flood".into())).await.unwrap();
    Gate::wait(&daemon.gate.inside).await;
    let started = Instant::now();
    daemon.stopped().await;
    assert!(started.elapsed() < budget * 4, "{:?}", started.elapsed());
}

#[tokio::test]
async fn calls_at_work_are_answered_before_streams_end() {
    let daemon = Daemon::start().await;
    let channel = daemon.connect().await;
    let mut open = flow(&channel, Request::new("open".into())).await.unwrap();
    Gate::wait(&daemon.gate.inside).await;
    assert_eq!(next(&mut open).await.unwrap().as_deref(), Some("first"));
    let held = tokio::spawn({
        let channel = channel.clone();
        async move { say(&channel, "hold").await }
    });
    Gate::wait(&daemon.gate.inside).await;
    let mut state = watch(&channel, "").await;
    assert_eq!(seen(&mut state).await.unwrap(), Some(ServingStatus::Serving));

    daemon.stop.trigger();
    assert_eq!(seen(&mut state).await.unwrap(), Some(ServingStatus::NotServing));
    assert!(!daemon.socket.exists(), "nobody new finds the daemon while it drains");
    // While the call is held no stream ends, since it may carry that call's effects.
    assert!(futures_util::FutureExt::now_or_never(open.message()).is_none());
    daemon.gate.open.add_permits(1);
    assert_eq!(held.await.unwrap().unwrap(), "hold");
    assert_eq!(next(&mut open).await.unwrap_err().message(), "shutting down");
    assert_eq!(seen(&mut state).await.unwrap_err().code(), Code::Unavailable);
    daemon.stopped().await;
}

#[tokio::test]
async fn a_handler_that_hangs_does_not_hold_the_stop() {
    let daemon = Setup::default()
        .serve(|o| o.stop_budget = Duration::from_millis(400))
        .start()
        .await;
    let channel = daemon.connect().await;
    let hung = tokio::spawn(async move { say(&channel, "hang").await });
    Gate::wait(&daemon.gate.inside).await;
    let dropped = daemon.gate.dropped.clone();
    daemon.stopped().await;
    assert!(hung.await.unwrap().is_err());
    Gate::wait(&dropped).await;
}

#[tokio::test]
async fn health_follows_each_service() {
    let daemon = Daemon::start().await;
    let channel = daemon.connect().await;
    daemon.health.set("llm", false);
    for (name, want) in [
        ("", Ok(ServingStatus::Serving)),
        ("test.v1.Echo", Ok(ServingStatus::Serving)),
        ("grpc.health.v1.Health", Ok(ServingStatus::Serving)),
        ("llm", Ok(ServingStatus::NotServing)),
        ("nobody", Err((Code::NotFound, "unknown service".to_string()))),
    ] {
        assert_eq!(check(&channel, name).await, want, "{name:?}");
    }
    let mut later = watch(&channel, "later").await;
    assert_eq!(seen(&mut later).await.unwrap(), Some(ServingStatus::ServiceUnknown));
    daemon.health.degrade("other", Some("changes nothing here".into()));
    daemon.health.set("later", true);
    assert_eq!(seen(&mut later).await.unwrap(), Some(ServingStatus::Serving));
    daemon.health.set("later", false);
    assert_eq!(seen(&mut later).await.unwrap(), Some(ServingStatus::NotServing));
    daemon.stopped().await;
}

#[tokio::test]
async fn nothing_serves_before_it_is_ready() {
    let health = Health::new();
    health.follow("test.v1.Echo");
    assert_eq!(health.is_serving("test.v1.Echo"), Some(false));
    health.ready();
    assert_eq!(health.is_serving("test.v1.Echo"), Some(true));
}

mod reflection {
    use super::*;
    use futures_util::stream;
    use tonic_reflection::pb::{v1, v1alpha};

    #[tokio::test]
    async fn v1_lists_what_is_served_and_knows_the_alias() {
        use v1::{
            server_reflection_request::MessageRequest as Ask, server_reflection_response::MessageResponse as Told,
        };
        let daemon = Daemon::start().await;
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(daemon.connect().await);
        let ask = |message| v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message),
        };
        let asked = [
            Ask::ListServices(String::new()),
            Ask::FileContainingSymbol("test.v1.Echo".into()),
            Ask::FileContainingSymbol("proto.orchestrator.v1.OrchestratorService".into()),
            Ask::FileContainingSymbol("test.v1.Nobody".into()),
            Ask::FileByFilename("nothing.proto".into()),
            Ask::FileContainingSymbol("grpc.health.v1.Health".into()),
            Ask::FileContainingSymbol("orchestrator.v1.Event".into()),
        ];
        let mut told = client
            .server_reflection_info(stream::iter(asked.map(ask)))
            .await
            .unwrap()
            .into_inner();
        let Some(Told::ListServicesResponse(list)) = told.message().await.unwrap().unwrap().message_response else {
            panic!("no list");
        };
        let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        names.sort();
        let served = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "test.v1.Closed",
            "test.v1.Echo",
        ];
        names.retain(|name| !name.starts_with("proto."));
        assert_eq!(names, served);
        for known in [true, true, false, false, true, true] {
            match told.message().await.unwrap().unwrap().message_response {
                Some(Told::FileDescriptorResponse(_)) if known => {}
                Some(Told::ErrorResponse(error)) if !known => assert_eq!(error.error_code, Code::NotFound as i32),
                answer => panic!("{answer:?}"),
            }
        }
        daemon.stopped().await;
    }

    #[tokio::test]
    async fn v1alpha_answers_too() {
        use v1alpha::server_reflection_request::MessageRequest as Ask;
        let daemon = Daemon::start().await;
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(daemon.connect().await);
        let ask = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(Ask::FileByFilename("test.proto".into())),
        };
        let mut told = client
            .server_reflection_info(stream::iter([ask]))
            .await
            .unwrap()
            .into_inner();
        assert!(told.message().await.unwrap().is_some());
        daemon.stopped().await;
    }
}
