//! Containers through the real orchestrator: made, limited by policy, killed in the middle, and its engine taken away.

mod away;
mod life;
mod owners;
mod rules;

use std::time::{Duration, Instant};

use nexus_client::{Connection, Events};
use nexus_proto::orchestrator::v1::container_service_client::ContainerServiceClient;
use nexus_proto::orchestrator::v1::*;
use nexus_runtime::{Choice, Config, Found, choose};
use nexus_tests::engines::{Machine, busybox, holders};
use nexus_tests::{Daemon, PATIENCE, Site, skipped};

const IMAGE: &str = "localhost/nexus-test:1";
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[test]
fn all_on_the_sandbox_for_an_ordinary_user() {
    crate::ordinary::runs(
        "all_on_the_sandbox_for_an_ordinary_user",
        &[
            "commands::a_command_is_run_and_ends_as_it_does",
            "commands::a_container_is_followed_entered_and_taken_away",
            "commands::the_bare_host_is_named_and_told_everywhere",
            "orchestrated::life::sandbox_after_a_kill_in_the_middle",
            "orchestrated::life::sandbox_ends_with_its_session",
            "orchestrated::life::sandbox_stops_and_starts_again",
            "orchestrated::life::sandbox_tells_of_memory",
            "orchestrated::rules::a_limit_that_does_not_hold_is_told_or_refused",
            "orchestrated::rules::a_link_leads_nowhere_else",
            "orchestrated::rules::without_an_image_it_is_the_hosts_own_programs",
        ],
    );
}

/// An orchestrator, and the backend that it uses, with the test image in it.
pub struct Stage {
    site: Site,
    /// Docker or Podman. `None`: the sandbox, which is the orchestrator's own.
    docker: Option<(Machine, Found)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Docker,
    Podman,
    Sandbox,
}

impl Stage {
    /// `None` where the backend is missing, which is said.
    async fn set(test: &str, backend: Backend) -> Option<Stage> {
        Stage::set_with(test, backend, &[]).await
    }

    /// With more settings of the orchestrator's, by their keys.
    async fn set_with(test: &str, backend: Backend, settings: &[(&str, &str)]) -> Option<Stage> {
        Stage::set_in(test, backend, settings, &[]).await
    }

    /// And with variables of the whole site's.
    async fn set_in(
        test: &str,
        backend: Backend,
        settings: &[(&str, &str)],
        variables: &[(&str, &str)],
    ) -> Option<Stage> {
        let directory = tempfile::tempdir().unwrap();
        let archive = busybox(directory.path())
            .map_err(|missing| skipped(test, &missing))
            .ok()?;
        let mut site = Site::new().env("NEXUS_ORCHESTRATOR__CONTAINER_ENGINE_TIMEOUT", "10s");
        let mut docker = None;
        let engine = match backend {
            Backend::Docker => Some(("docker", Choice::Docker, Machine::docker())),
            Backend::Podman => Some(("podman", Choice::Podman, Machine::podman())),
            Backend::Sandbox => None,
        };
        if let Some((name, choice, machine)) = engine {
            let machine = machine.map_err(|missing| skipped(test, &missing)).ok()?;
            let config = Config {
                backend: choice,
                host: machine.host(),
                ..Config::default()
            };
            let found = choose(&config).await.unwrap();
            site = site
                .env("NEXUS_ORCHESTRATOR__CONTAINER_BACKEND", name)
                .env("NEXUS_ORCHESTRATOR__CONTAINER_HOST", &machine.host());
            docker = Some((machine, found));
        }
        for (key, value) in settings {
            let name = format!("NEXUS_ORCHESTRATOR__{}", key.to_uppercase());
            site.set(&name, Some(value));
        }
        for (name, value) in variables {
            site.set(name, Some(value));
        }
        site.up(&[Daemon::Orchestrator]).await;
        let mut client = ContainerServiceClient::new(site.connect().channel());
        let import = ImportImageRequest {
            path: archive.to_string_lossy().into_owned(),
            reference: IMAGE.into(),
        };
        client.import_image(import).await.unwrap();
        Some(Stage { site, docker })
    }

    /// How many containers the backend has: all are the test's own.
    async fn count(&self) -> usize {
        match &self.docker {
            Some((_, found)) => {
                let all = found.engine.list(&Default::default()).await;
                all.map_or(usize::MAX, |all| all.len())
            }
            None => {
                let entries = std::fs::read_dir(self.site.root().state().join("containers/containers"));
                entries.into_iter().flatten().count()
            }
        }
    }

    /// Nothing of what it ran is there any more.
    async fn nothing_left(&self) {
        until("the end of its containers", async || self.count().await == 0).await;
        let state = self.site.root().state().join("containers");
        let orchestrator = format!("{}: ", self.site.pid(Daemon::Orchestrator));
        until("the end of their processes", async || {
            holders(&state).iter().all(|one| one.starts_with(&orchestrator))
        })
        .await;
    }

    /// The next event of this name about this container or session.
    async fn event(&self, name: &str, about: &str) -> Event {
        let filter = EventFilter {
            names: vec![name.into()],
            ..EventFilter::default()
        };
        let request = SubscribeEventsRequest {
            filter: Some(filter),
            after_sequence: Some(0),
        };
        let mut events = Events::new(self.site.connect(), request);
        let found = async {
            loop {
                let event = events.next().await.unwrap().unwrap();
                if event.data.values().any(|value| value.contains(about)) {
                    return event;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("no {name} about {about}"))
    }
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

/// The same with another config.
fn with(mut request: CreateContainerRequest, change: impl FnOnce(&mut ContainerConfig)) -> CreateContainerRequest {
    change(request.config.as_mut().unwrap());
    request
}

async fn create(connection: &Connection, request: CreateContainerRequest) -> Result<Container, tonic::Status> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(PATIENCE);
    let made = connection.orchestrator().create_container(request).await?.into_inner();
    Ok(made.container.unwrap())
}

async fn session_with(connection: &Connection, config: SessionConfig) -> String {
    let request = CreateSessionRequest {
        metadata: None,
        config: Some(config),
    };
    let made = connection.orchestrator().create_session(request).await.unwrap();
    made.into_inner().session_id
}

async fn close(connection: &Connection, session: &str) {
    let close = CloseSessionRequest {
        session_id: session.into(),
        reason: String::new(),
    };
    connection.orchestrator().close_session(close).await.unwrap();
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
    let found = connection.orchestrator().get_container(request).await.unwrap();
    found.into_inner().container.unwrap()
}

/// Once it has ended.
async fn ended(connection: &Connection, id: &str) -> Container {
    until("its end", async || {
        get(connection, id).await.state() == ContainerState::Exited
    })
    .await;
    get(connection, id).await
}

/// All that it writes until its end, stdout and stderr.
async fn written(connection: &Connection, id: &str) -> (String, String) {
    let logs = ContainerLogsRequest {
        container_id: id.into(),
        follow: true,
        ..ContainerLogsRequest::default()
    };
    let mut client = ContainerServiceClient::new(connection.channel());
    let mut pieces = client.container_logs(logs).await.unwrap().into_inner();
    let (mut out, mut err) = (String::new(), String::new());
    while let Some(piece) = pieces.message().await.unwrap() {
        let into = if piece.is_stderr { &mut err } else { &mut out };
        into.push_str(std::str::from_utf8(&piece.data).unwrap());
    }
    (out, err)
}

/// Waits until it is so.
pub async fn until(what: &str, so: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, so).await;
}

/// The same for what takes longer.
pub async fn until_within(patience: Duration, what: &str, mut so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + patience;
    while !so().await {
        assert!(Instant::now() < end, "{what} did not come true");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
