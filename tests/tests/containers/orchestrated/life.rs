//! From the making to the end, on both kinds of backend.

use std::time::Duration;

use nexus_proto::common::v1::ResourceLimits;
use nexus_proto::orchestrator::v1::*;
use nexus_tests::{Daemon, PATIENCE, ask};
use tonic::Code;

use super::{Backend, Stage, close, create, ended, get, list, shell, until, with, written};

macro_rules! on_both {
    ($($case:ident $docker:ident $sandbox:ident;)+) => { $(
        #[tokio::test]
        async fn $docker() {
            if let Some(stage) = Stage::set_with(stringify!($docker), Backend::Docker, SETTINGS).await {
                $case(stage).await;
            }
        }

        #[tokio::test]
        async fn $sandbox() {
            if let Some(stage) = Stage::set_with(stringify!($sandbox), Backend::Sandbox, SETTINGS).await {
                $case(stage).await;
            }
        }
    )+ };
}

const SETTINGS: &[(&str, &str)] = &[("container_sample_every", "200ms")];

on_both! {
    with_its_session docker_ends_with_its_session sandbox_ends_with_its_session;
    stop_and_start docker_stops_and_starts_again sandbox_stops_and_starts_again;
    killed_in_the_middle docker_after_a_kill_in_the_middle sandbox_after_a_kill_in_the_middle;
    memory docker_tells_of_memory sandbox_tells_of_memory;
}

async fn with_its_session(stage: Stage) {
    let connection = stage.site.connect();
    let session = ask::create(&connection, "work").await;
    let request = shell(&session, "pwd; echo err >&2; touch made; exit 3");
    let made = create(&connection, request).await.unwrap();
    let (out, err) = written(&connection, &made.id).await;
    assert_eq!((out.as_str(), err.as_str()), ("/workspace\n", "err\n"));
    let over = ended(&connection, &made.id).await;
    assert_eq!((over.exit_code, over.oom_killed), (3, false));
    assert!(over.exited_at.is_some() && over.started_at.is_some());
    let files = stage.site.root().state().join("workspaces").join(&session);
    assert!(files.join("made").exists());
    assert_eq!(
        ask::session(&connection, &session).await.container_ids,
        std::slice::from_ref(&made.id)
    );
    assert_eq!(stage.event("container.stopped", &made.id).await.data["exit_code"], "3");

    let long = create(&connection, shell(&session, "sleep 600")).await.unwrap();
    let denied = with(shell(&session, "true"), |config| config.network_mode = "bridge".into());
    let denied = create(&connection, denied).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(get(&connection, &long.id).await.state(), ContainerState::Running);
    close(&connection, &session).await;
    until("the end of its records", async || list(&connection).await.is_empty()).await;
    stage.nothing_left().await;
    ask::delete(&connection, &session).await;
    until("the end of its files", async || !files.exists()).await;
}

async fn stop_and_start(stage: Stage) {
    let connection = stage.site.connect();
    let session = ask::create(&connection, "work").await;
    let again = with(shell(&session, "sleep 0.2; exit 1"), |config| {
        config.restart_policy = Some(RestartPolicy {
            name: "on-failure".into(),
            maximum_retry_count: 2,
            timeout_ns: 50_000_000,
        });
    });
    let again = create(&connection, again).await.unwrap();
    let deaf = shell(&session, "trap '' TERM; echo deaf; while :; do sleep 0.1; done");
    let deaf = create(&connection, deaf).await.unwrap();
    let stop = StopContainerRequest {
        container_id: deaf.id.clone(),
        timeout_ns: 1_000_000_000,
    };
    let stopped = connection.orchestrator().stop_container(stop).await.unwrap();
    assert_eq!(stopped.into_inner().state(), ContainerState::Exited);
    assert_eq!(get(&connection, &deaf.id).await.exit_code, 137);
    until("the last try", async || {
        let now = get(&connection, &again.id).await;
        now.restart_count == 2 && now.state() == ContainerState::Exited
    })
    .await;
    for id in [again.id, deaf.id] {
        remove(&stage, id).await;
    }
    stage.nothing_left().await;
}

async fn remove(stage: &Stage, container_id: String) {
    let remove = RemoveContainerRequest {
        container_id,
        force: true,
    };
    let connection = stage.site.connect();
    connection.orchestrator().remove_container(remove).await.unwrap();
}

async fn killed_in_the_middle(mut stage: Stage) {
    let session = ask::create(&stage.site.connect(), "work").await;
    let request = shell(&session, "sleep 600");
    let kept = create(&stage.site.connect(), request.clone()).await.unwrap();
    // A sandbox is made in a few milliseconds, a Docker's container in a fifth of a second.
    let waits = if stage.docker.is_some() {
        [5, 40, 120, 250]
    } else {
        [1, 4, 8, 12]
    };
    for wait in waits {
        let (connection, request) = (stage.site.connect(), request.clone());
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
                && stage.count().await == records.len()
        })
        .await;
        for one in list(&connection).await.into_iter().filter(|one| one.id != kept.id) {
            remove(&stage, one.id).await;
        }
    }
    let kept_now = get(&stage.site.connect(), &kept.id).await;
    assert_eq!(kept_now.state(), ContainerState::Running);
    remove(&stage, kept.id).await;
    stage.nothing_left().await;
}

/// A mark that is passed, and then the limit.
async fn memory(stage: Stage) {
    let connection = stage.site.connect();
    let session = ask::create(&connection, "work").await;
    let limited = |script: &str, mib: i64| {
        with(shell(&session, script), |config| {
            config.resources = Some(ResourceLimits {
                memory_bytes: mib << 20,
                ..ResourceLimits::default()
            });
        })
    };
    let most = limited("head -c 57000000 /dev/zero > /tmp/much; sleep 600", 64);
    let most = create(&connection, most).await.unwrap();
    if most.unenforced_limits.iter().any(|limit| limit == "memory") {
        println!("memory is not enforced here, and the container says so");
        assert!(!nix::unistd::geteuid().is_root(), "root can limit memory: {most:?}");
        close(&connection, &session).await;
        return stage.nothing_left().await;
    }
    let told = stage.event("resource.threshold", &most.id).await;
    assert_eq!(told.r#type(), EventType::ResourceThreshold);
    assert_eq!((&*told.data["resource"], &*told.data["percent"]), ("memory", "80"));
    let used = get(&connection, &most.id).await.resources.unwrap();
    assert!(used.memory_percent >= 80.0 && used.memory_limit == 64 << 20, "{used:?}");

    let hungry = "exec awk 'BEGIN { s = \"0123456789abcdef\"; while (1) s = s s }'";
    let hungry = create(&connection, limited(hungry, 32)).await.unwrap();
    let over = ended(&connection, &hungry.id).await;
    assert!(over.oom_killed && over.exit_code == 137, "{over:?}");
    assert!(over.error.contains("memory"), "{over:?}");
    let told = stage.event("container.error", &hungry.id).await;
    assert_eq!(told.r#type(), EventType::ContainerError);
    assert_eq!(
        (&*told.data["reason"], &*told.data["memory_limit"]),
        ("oom", "33554432")
    );
    close(&connection, &session).await;
    stage.nothing_left().await;
    // What is gone is known as gone, within the deadline of any call.
    let gone = tokio::time::timeout(PATIENCE, list(&connection)).await.unwrap();
    assert!(gone.is_empty(), "{gone:?}");
}
