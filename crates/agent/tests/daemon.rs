//! The agent as a daemon: ready without neighbours, its own service, its settings, its stop.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../client/tests/fake/mod.rs"]
mod fake;
#[expect(dead_code, reason = "the other tests need more of it")]
mod stage;

use nexus_agent::Agent;
use nexus_client::{Address, Connection, Kind, Options};
use nexus_daemon::{BootError, Running};
use nexus_proto::{
    agent::v1::{AgentState, CancelTaskRequest, RegisterRequest},
    common::v1::Status,
    orchestrator::v1::MessageRole::User,
};
use stage::{Said, Stage, Told, soon, words};

fn dial(agent: &Running) -> Connection {
    Connection::lazy(&Address::Unix(agent.socket().to_owned()), &Options::default())
}

#[tokio::test]
async fn ready_with_no_neighbour_there_and_says_so() {
    let stage = Stage::new();
    let agent = stage.agent(&[]).await;
    let connection = dial(&agent);
    assert_eq!(agent.socket(), stage.path("agent-assistant"));
    let health = connection.agent().health_check(()).await.unwrap().into_inner();
    assert_eq!(health.status(), Status::Starting);
    let status = connection.agent().get_status(()).await.unwrap().into_inner();
    assert_eq!(status.state(), AgentState::Registering);
    soon("the stop", agent.stop()).await;
}

#[tokio::test]
async fn its_own_service_tells_its_state_and_ends_a_turn() {
    let (mut stage, agent, mut line) = Stage::play(&[]).await;
    let connection = dial(&agent);
    let status = connection.agent().get_status(()).await.unwrap().into_inner();
    assert_eq!((status.state(), status.active_tasks), (AgentState::Idle, 0));
    let capabilities = connection
        .agent()
        .get_capabilities(())
        .await
        .unwrap()
        .into_inner()
        .capabilities
        .unwrap();
    assert!(capabilities.supports_streaming && capabilities.supports_cancellation);

    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[]).await;
    let call = stage.call().await;
    let status = connection.agent().get_status(()).await.unwrap().into_inner();
    assert_eq!((status.state(), status.active_tasks), (AgentState::Busy, 1));

    let cancel = |task: &str| CancelTaskRequest {
        task_id: task.into(),
        ..CancelTaskRequest::default()
    };
    let unknown = connection.agent().cancel_task(cancel("nothing")).await.unwrap_err();
    assert_eq!(nexus_client::Error::from(unknown).kind, Kind::NotFound);
    assert!(
        connection
            .agent()
            .cancel_task(cancel("c1"))
            .await
            .unwrap()
            .into_inner()
            .cancelled
    );
    call.given_up().await;
    let Said::Error { turn, code, .. } = line.next().await else {
        panic!()
    };
    assert_eq!(
        (turn.as_str(), code.as_str()),
        ("c1", "CANCELLED"),
        "the orchestrator must hear of it"
    );
    agent.stop().await;
}

#[tokio::test]
async fn the_registry_is_elsewhere() {
    let stage = Stage::new();
    let agent = stage.agent(&[]).await;
    let error = dial(&agent)
        .agent()
        .register(RegisterRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    assert!(error.message().contains("orchestrator"), "{error}");
    agent.stop().await;
}

#[tokio::test]
async fn a_stop_ends_an_open_turn_and_says_goodbye() {
    let (mut stage, agent, line) = Stage::play(&[]).await;
    assert!(matches!(stage.told().await, Told::Registered(_)));
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[]).await;
    let call = stage.call().await;
    call.say("half").await;
    soon("the stop", agent.stop()).await;
    call.given_up().await;
    assert_eq!(stage.told().await, Told::Unregistered(line.agent_id));
}

#[tokio::test]
async fn every_mistake_in_the_settings_is_named_at_once() {
    let stage = Stage::new();
    let wrong = [
        ("role", "butler"),
        ("name", "../x"),
        ("orchestrator_url", "nowhere"),
        ("idle_timeout", "0s"),
    ];
    let error = nexus_daemon::start::<Agent>(stage.root.clone(), &wrong)
        .await
        .err()
        .unwrap();
    let BootError::Config(mistakes) = error else {
        panic!("{error}")
    };
    let all = mistakes.join("\n");
    assert!(
        all.contains("\"butler\"") && all.contains("this build has: assistant, worker"),
        "{all}"
    );
    for part in ["name:", "orchestrator_url:", "idle_timeout:"] {
        assert!(all.contains(part), "{part} in {all}");
    }
}
