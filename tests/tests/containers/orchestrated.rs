//! Containers through the real orchestrator: made, limited by policy, killed in the middle, and its engine taken away.

use std::path::Path;
use std::time::{Duration, Instant};

use nexus_client::Connection;
use nexus_proto::common::v1::Health;
use nexus_proto::orchestrator::v1::container_service_client::ContainerServiceClient;
use nexus_proto::orchestrator::v1::*;
use nexus_runtime::{Choice, Config, Found, choose};
use nexus_tests::engines::{Machine, busybox};
use nexus_tests::{Daemon, PATIENCE, Site, ask, skipped};
use tonic::Code;

const IMAGE: &str = "localhost/nexus-test:1";
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A Docker with the test image, and an orchestrator that uses it.
struct Stage {
    docker: Machine,
    found: Found,
    site: Site,
}

async fn stage(test: &str) -> Option<Stage> {
    let docker = Machine::docker().map_err(|missing| skipped(test, &missing)).ok()?;
    let config = Config {
        backend: Choice::Docker,
        host: docker.host(),
        ..Config::default()
    };
    let found = choose(&config).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    found
        .engine
        .import(&busybox(directory.path()).unwrap(), IMAGE)
        .await
        .unwrap();
    let mut site = Site::new()
        .env("NEXUS_ORCHESTRATOR__CONTAINER_BACKEND", "docker")
        .env("NEXUS_ORCHESTRATOR__CONTAINER_HOST", &docker.host())
        .env("NEXUS_ORCHESTRATOR__CONTAINER_ENGINE_TIMEOUT", "10s");
    site.up(&[Daemon::Orchestrator]).await;
    Some(Stage { docker, found, site })
}

fn shell(session: &str, script: &str) -> CreateContainerRequest {
    CreateContainerRequest {
        session_id: session.into(),
        config: Some(ContainerConfig {
            image: IMAGE.into(),
            command: ["/bin/sh", "-c"].map(String::from).into(),
            args: vec![script.into()],
            ..ContainerConfig::default()
        }),
    }
}

async fn create(connection: &Connection, request: CreateContainerRequest) -> Result<Container, tonic::Status> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(PATIENCE);
    let made = connection.orchestrator().create_container(request).await?.into_inner();
    Ok(made.container.unwrap())
}

async fn list(connection: &Connection) -> Vec<Container> {
    let all = connection
        .orchestrator()
        .list_containers(ListContainersRequest::default())
        .await;
    all.unwrap().into_inner().containers
}

async fn get(connection: &Connection, id: &str) -> Container {
    let request = GetContainerRequest {
        container_id: id.into(),
    };
    connection
        .orchestrator()
        .get_container(request)
        .await
        .unwrap()
        .into_inner()
        .container
        .unwrap()
}

/// Waits until it is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < end, "{what} did not come true");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// How many containers the engine has: it is the test's own.
async fn all_of(found: &Found) -> usize {
    found
        .engine
        .list(&Default::default())
        .await
        .map_or(usize::MAX, |all| all.len())
}

#[tokio::test]
async fn a_container_lives_with_its_session() {
    let Some(stage) = stage("a_container_lives_with_its_session").await else {
        return;
    };
    let connection = stage.site.connect();
    let session = ask::create(&connection, "work").await;
    let made = create(&connection, shell(&session, "pwd; echo err >&2; touch made; exit 3"))
        .await
        .unwrap();
    let mut client = ContainerServiceClient::new(connection.channel());
    let logs = ContainerLogsRequest {
        container_id: made.id.clone(),
        follow: true,
        ..ContainerLogsRequest::default()
    };
    let mut pieces = client.container_logs(logs).await.unwrap().into_inner();
    let (mut out, mut err) = (String::new(), String::new());
    while let Some(piece) = pieces.message().await.unwrap() {
        let into = if piece.is_stderr { &mut err } else { &mut out };
        into.push_str(std::str::from_utf8(&piece.data).unwrap());
    }
    assert_eq!((out.as_str(), err.as_str()), ("/workspace\n", "err\n"));
    until("its end", async || {
        get(&connection, &made.id).await.state() == ContainerState::Exited
    })
    .await;
    let ended = get(&connection, &made.id).await;
    assert_eq!((ended.exit_code, ended.oom_killed), (3, false));
    assert!(ended.exited_at.is_some() && ended.started_at.is_some());
    assert!(
        Path::new(&stage.site.root().state())
            .join("workspaces")
            .join(&session)
            .join("made")
            .exists()
    );
    assert_eq!(ask::session(&connection, &session).await.container_ids, [made.id]);

    let long = create(&connection, shell(&session, "sleep 600")).await.unwrap();
    let denied = ContainerConfig {
        network_mode: "bridge".into(),
        ..shell(&session, "true").config.unwrap()
    };
    let denied = CreateContainerRequest {
        session_id: session.clone(),
        config: Some(denied),
    };
    assert_eq!(
        create(&connection, denied).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(get(&connection, &long.id).await.state(), ContainerState::Running);
    let close = CloseSessionRequest {
        session_id: session.clone(),
        reason: String::new(),
    };
    connection.orchestrator().close_session(close).await.unwrap();
    until("the end of its containers", async || {
        list(&connection).await.is_empty() && all_of(&stage.found).await == 0
    })
    .await;
    ask::delete(&connection, &session).await;
    let files = stage.site.root().state().join("workspaces").join(&session);
    until("the end of its files", async || !files.exists()).await;
}

#[tokio::test]
async fn a_stop_waits_and_kills_and_a_policy_starts_again() {
    let Some(stage) = stage("a_stop_waits_and_kills_and_a_policy_starts_again").await else {
        return;
    };
    let connection = stage.site.connect();
    let session = ask::create(&connection, "work").await;
    let mut again = shell(&session, "sleep 0.2; exit 1");
    again.config.as_mut().unwrap().restart_policy = Some(RestartPolicy {
        name: "on-failure".into(),
        maximum_retry_count: 2,
        timeout_ns: 50_000_000,
    });
    let again = create(&connection, again).await.unwrap();
    let deaf = create(
        &connection,
        shell(&session, "trap '' TERM; while :; do sleep 0.1; done"),
    )
    .await
    .unwrap();
    let stop = StopContainerRequest {
        container_id: deaf.id.clone(),
        timeout_ns: 1_000_000_000,
    };
    let stopped = connection
        .orchestrator()
        .stop_container(stop)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stopped.state(), ContainerState::Exited);
    assert_eq!(get(&connection, &deaf.id).await.exit_code, 137);
    until("the last try", async || {
        let now = get(&connection, &again.id).await;
        now.restart_count == 2 && now.state() == ContainerState::Exited
    })
    .await;
}

#[tokio::test]
async fn killed_while_it_makes_one_it_leaves_nothing_behind() {
    let Some(mut stage) = stage("killed_while_it_makes_one_it_leaves_nothing_behind").await else {
        return;
    };
    let session = ask::create(&stage.site.connect(), "work").await;
    let kept = create(&stage.site.connect(), shell(&session, "sleep 600"))
        .await
        .unwrap();
    for wait in [5, 40, 120, 250] {
        let connection = stage.site.connect();
        let request = shell(&session, "sleep 600");
        let call = tokio::spawn(async move { create(&connection, request).await });
        tokio::time::sleep(Duration::from_millis(wait)).await;
        stage.site.kill(Daemon::Orchestrator);
        let told = call.await.unwrap();
        stage.site.up(&[Daemon::Orchestrator]).await;
        let connection = stage.site.connect();
        let promised = 1 + usize::from(told.is_ok());
        // What was promised is there, and as much is in the engine as in the records.
        until("records and engine in step", async || {
            let records = list(&connection).await;
            records.iter().any(|one| one.id == kept.id)
                && records.len() >= promised
                && all_of(&stage.found).await == records.len()
        })
        .await;
        for one in list(&connection).await.into_iter().filter(|one| one.id != kept.id) {
            let remove = RemoveContainerRequest {
                container_id: one.id,
                force: true,
            };
            connection.orchestrator().remove_container(remove).await.unwrap();
        }
    }
    assert_eq!(
        get(&stage.site.connect(), &kept.id).await.state(),
        ContainerState::Running
    );
}

async fn health(connection: &Connection) -> Health {
    connection
        .orchestrator()
        .health_check(())
        .await
        .unwrap()
        .into_inner()
        .health()
}

#[tokio::test]
async fn an_engine_that_goes_away_is_no_end() {
    let Some(mut stage) = stage("an_engine_that_goes_away_is_no_end").await else {
        return;
    };
    let connection = stage.site.connect();
    let session = ask::create(&connection, "work").await;
    let kept = create(&connection, shell(&session, "sleep 600")).await.unwrap();
    stage.docker.stop();
    until("the loss noticed", async || {
        health(&connection).await == Health::Degraded
    })
    .await;
    let refused = create(&connection, shell(&session, "true")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    // What needs no engine goes on.
    ask::create(&connection, "other").await;
    assert_eq!(list(&connection).await.len(), 1);
    stage.docker.start();
    until("the return noticed", async || {
        health(&connection).await == Health::Healthy
    })
    .await;
    // Whether it lived through that is the engine's affair; that the record says the same is ours.
    until("records and engine in step", async || {
        let there = stage.found.engine.list(&Default::default()).await.unwrap_or_default();
        let runs = there.iter().any(|info| info.state == nexus_runtime::State::Running);
        (get(&connection, &kept.id).await.state() == ContainerState::Running) == runs
    })
    .await;
    create(&connection, shell(&session, "true")).await.unwrap();
}
