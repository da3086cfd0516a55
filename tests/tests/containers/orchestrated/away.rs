//! An engine that goes away, or hangs: the service is degraded, and recovers by itself.

use nexus_client::Connection;
use nexus_proto::common::v1::Health;
use nexus_proto::orchestrator::v1::ContainerState;
use nexus_tests::ask;
use tonic::Code;

use super::{Backend, Stage, create, get, list, shell, until};

async fn health(connection: &Connection) -> Health {
    let health = connection.orchestrator().health_check(()).await.unwrap();
    health.into_inner().health()
}

async fn is(connection: &Connection, wanted: Health) {
    until(&format!("{wanted:?}"), async || health(connection).await == wanted).await;
}

#[tokio::test]
async fn an_engine_that_goes_away_is_no_end() {
    let Some(mut stage) = Stage::set("an_engine_that_goes_away_is_no_end", Backend::Docker).await else {
        return;
    };
    let connection = stage.site.connect();
    let session = ask::create(&connection, "work").await;
    let kept = create(&connection, shell(&session, "sleep 600")).await.unwrap();
    stage.docker.as_mut().unwrap().0.stop();
    is(&connection, Health::Degraded).await;
    let refused = create(&connection, shell(&session, "true")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    // What needs no engine goes on.
    ask::create(&connection, "other").await;
    assert_eq!(list(&connection).await.len(), 1);
    stage.docker.as_mut().unwrap().0.start();
    is(&connection, Health::Healthy).await;
    // Whether it lived through that is the engine's affair; that the record says the same is ours.
    until("records and engine in step", async || {
        let found = &stage.docker.as_ref().unwrap().1;
        let there = found.engine.list(&Default::default()).await.unwrap_or_default();
        let runs = there.iter().any(|info| info.state == nexus_runtime::State::Running);
        (get(&connection, &kept.id).await.state() == ContainerState::Running) == runs
    })
    .await;
    create(&connection, shell(&session, "true")).await.unwrap();
}

#[tokio::test]
async fn an_engine_that_hangs_holds_nobody_up() {
    let settings = [("container_engine_timeout", "3s"), ("container_sample_every", "500ms")];
    let test = "an_engine_that_hangs_holds_nobody_up";
    let Some(stage) = Stage::set_with(test, Backend::Docker, &settings).await else {
        return;
    };
    let connection = stage.site.connect();
    let session = ask::create(&connection, "work").await;
    let kept = create(&connection, shell(&session, "sleep 600")).await.unwrap();
    let machine = &stage.docker.as_ref().unwrap().0;
    machine.freeze();
    is(&connection, Health::Degraded).await;
    let refused = create(&connection, shell(&session, "true")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    // All that needs no engine, and what is known of a container anyway, is answered.
    let other = ask::create(&connection, "other").await;
    ask::send(
        &connection,
        &other,
        ask::message("m", nexus_proto::orchestrator::v1::MessageRole::System, "words"),
    )
    .await
    .unwrap();
    assert_eq!(get(&connection, &kept.id).await.id, kept.id);
    assert!(list(&connection).await.iter().any(|one| one.id == kept.id));
    machine.thaw();
    is(&connection, Health::Healthy).await;
    // What it was asked while it hung it may have done since: that is nobody's, and goes.
    until("records and engine in step", async || {
        let records = list(&connection).await;
        records.len() == 1 && stage.count().await == 1
    })
    .await;
    assert_eq!(get(&connection, &kept.id).await.state(), ContainerState::Running);
    create(&connection, shell(&session, "true")).await.unwrap();
}
