//! Every backend fetches from the same registry, and is refused by it alike.

use nexus_runtime::{Choice, Config, Credentials, Error, Found, PullPolicy, choose};
use nexus_tests::engines::{Machine, busybox};
use nexus_tests::registry::Registry;
use nexus_tests::skipped;
use tokio::sync::mpsc;

use super::{sandbox, says};

const STEPS: usize = 4096;

fn registry(test: &str) -> Option<Registry> {
    Registry::start().map_err(|missing| skipped(test, &missing)).ok()
}

async fn has(found: &Found, reference: &str) -> bool {
    let all = found.engine.images().await.unwrap();
    all.iter()
        .any(|image| image.references.iter().any(|one| one == reference))
}

async fn fetches(found: Found, registry: &Registry) {
    let directory = tempfile::tempdir().unwrap();
    let root = busybox(directory.path()).unwrap();
    let engine = &found.engine;
    let first = registry.push("tool:1", &root, "one").await;
    let name = first.reference.as_str();

    let never = engine.pull(name, PullPolicy::Never, None, None).await;
    assert!(matches!(never, Err(Error::ImageNotFound { .. })), "{never:?}");
    let wrong = Credentials {
        password: "guessed".into(),
        ..registry.login()
    };
    for login in [None, Some(&wrong)] {
        let refused = engine.pull(name, PullPolicy::Missing, login, None).await;
        let Err(Error::Pull { image, why }) = &refused else {
            panic!("{login:?}: {refused:?}")
        };
        assert!(image == name && !why.contains("guessed"), "{why}");
        assert!(!has(&found, name).await);
    }

    let login = registry.login();
    let (told, mut steps) = mpsc::channel(STEPS);
    let pull = engine.pull(name, PullPolicy::Missing, Some(&login), Some(told));
    let pulled = pull.await.unwrap();
    assert!(pulled.fetched, "{pulled:?}");
    let mut said = Vec::new();
    while let Ok(step) = steps.try_recv() {
        said.push(step);
    }
    assert!(said.iter().any(|step| !step.status.is_empty()), "nothing was told");
    assert!(has(&found, name).await);
    assert_eq!(says(&found, name, "registry", "echo $VERSION").await, "one\n");

    // The name means something else now: who has it is not disturbed, who asks gets the new one.
    let second = registry.push("tool:1", &root, "two").await;
    let kept = engine.pull(name, PullPolicy::Missing, Some(&login), None).await;
    let kept = kept.unwrap();
    assert!(!kept.fetched && kept.image.id == pulled.image.id, "{kept:?}");
    let newer = engine.pull(name, PullPolicy::Always, Some(&login), None).await;
    let newer = newer.unwrap();
    assert!(newer.fetched && newer.image.id != pulled.image.id, "{newer:?}");
    assert_eq!(says(&found, name, "registry", "echo $VERSION").await, "two\n");

    // A digest is what it was, whatever the name means.
    assert_ne!(first.by_digest, second.by_digest);
    let exact = engine.pull(&first.by_digest, PullPolicy::Missing, Some(&login), None);
    exact.await.unwrap();
    let said = says(&found, &first.by_digest, "registry", "echo $VERSION").await;
    assert_eq!(said, "one\n");

    // What we unpack ourselves we verify ourselves. Podman would take it, as it knows the layer already.
    if engine.name() == "sandbox" {
        let forged = registry.push_forged("forged:1", &root).await.reference;
        let refused = engine.pull(&forged, PullPolicy::Missing, Some(&login), None).await;
        assert!(
            matches!(&refused, Err(Error::Pull { why, .. }) if why.contains("digest")),
            "{refused:?}"
        );
        assert!(!has(&found, &forged).await);
    }

    for absent in ["tool:none", "none:1"] {
        let absent = format!("{}/{absent}", registry.address());
        let told = engine.pull(&absent, PullPolicy::Missing, Some(&login), None).await;
        assert!(matches!(told, Err(Error::ImageNotFound { .. })), "{told:?}");
    }
    let nowhere = engine.pull("127.0.0.1:1/tool:1", PullPolicy::Missing, None, None).await;
    assert!(nowhere.is_err());
}

async fn at(backend: Choice, machine: &Machine) -> Found {
    let config = Config {
        backend,
        host: machine.host(),
        directory: machine.own(),
        ..Config::default()
    };
    choose(&config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_fetches_from_a_registry() {
    let test = "docker_fetches_from_a_registry";
    let docker = Machine::docker().map_err(|missing| skipped(test, &missing));
    let (Ok(docker), Some(registry)) = (docker, registry(test)) else {
        return;
    };
    fetches(at(Choice::Docker, &docker).await, &registry).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_fetches_from_a_registry() {
    let test = "podman_fetches_from_a_registry";
    let podman = Machine::podman().map_err(|missing| skipped(test, &missing));
    let (Ok(mut podman), Some(registry)) = (podman, registry(test)) else {
        return;
    };
    podman.trust(registry.address());
    fetches(at(Choice::Podman, &podman).await, &registry).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandbox_fetches_from_a_registry() {
    let Some(registry) = registry("sandbox_fetches_from_a_registry") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    fetches(sandbox(directory.path()).await, &registry).await;
}

#[test]
fn sandbox_fetches_for_an_ordinary_user() {
    crate::ordinary::runs(
        "sandbox_fetches_for_an_ordinary_user",
        &["images::registry::sandbox_fetches_from_a_registry"],
    );
}
