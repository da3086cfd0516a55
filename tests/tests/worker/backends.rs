//! The same with Docker and Podman: commands of an image, their network, their output, and the death of their worker.

use std::{fs, time::Duration};

use nexus_runtime::{Choice, Config, choose};
use nexus_tests::{
    Daemon, Site,
    engines::{Machine, busybox},
    skipped,
};
use serde_json::json;

use crate::desk::{Desk, until};

const IMAGE: &str = "localhost/nexus-test:1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_runs_commands_as_the_sandbox_does() {
    same("docker", Choice::Docker, Machine::docker()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_runs_commands_as_the_sandbox_does() {
    same("podman", Choice::Podman, Machine::podman()).await;
}

async fn same(name: &str, backend: Choice, machine: Result<Machine, String>) {
    let machine = match machine {
        Ok(machine) => machine,
        Err(missing) => return skipped(name, &missing),
    };
    let directory = tempfile::tempdir().unwrap();
    let tar = match busybox(directory.path()) {
        Ok(tar) => tar,
        Err(missing) => return skipped(name, &missing),
    };
    let config = Config {
        backend,
        host: machine.host(),
        ..Config::default()
    };
    let found = choose(&config).await.unwrap();
    found.engine.import(&tar, IMAGE).await.unwrap();

    let site = Site::new()
        .env("NEXUS_AGENT__CONTAINER_BACKEND", name)
        .env("NEXUS_AGENT__CONTAINER_HOST", &machine.host())
        .env("NEXUS_AGENT__WORKER_IMAGE", IMAGE);
    let mut desk = Desk::at(site).await;
    let told = desk
        .told(
            "exec",
            json!({"command": "echo out; pwd; id -u; cat; exit 3", "stdin": "typed\n", "wait_s": 30}),
        )
        .await;
    assert!(
        told.starts_with("out\n/workspace\n2000000000\ntyped\n[exit code 3") || !nix::unistd::geteuid().is_root(),
        "{told}"
    );
    let told = desk
        .told(
            "exec",
            json!({"command": "echo shared >/tmp/x; seq 1 20000", "wait_s": 30}),
        )
        .await;
    assert!(
        told.starts_with("[cut: 108894 bytes, 20000 lines in all"),
        "{}",
        told.lines().next().unwrap()
    );
    let server = "echo hello | nc -l -p 4711; sleep 60";
    desk.told("exec", json!({"command": server, "background": true})).await;
    let client = "cat /tmp/x; for i in $(seq 100); do nc 127.0.0.1 4711 </dev/null && break; sleep 0.1; done";
    let told = desk.told("exec", json!({"command": client, "wait_s": 30})).await;
    assert!(told.starts_with("shared\nhello\n"), "{told}");
    let told = desk.told("process", json!({"id": "p3", "action": "kill"})).await;
    assert!(told.contains("[killed, exit code 1"), "{told}");

    let command = "echo begun >>count; while [ ! -e go ]; do sleep 0.1; done; echo ended; exit 5";
    let task = desk.begin("exec", json!({"command": command, "wait_s": 60})).await;
    let count = desk.workspace().join("count");
    until("it runs", Duration::from_secs(20), || count.exists()).await;
    desk.site.kill(Daemon::Worker);
    desk.site.up(&[Daemon::Worker]).await;
    fs::write(desk.workspace().join("go"), "").unwrap();
    let (ended, _) = desk.ended(&task).await;
    let result = ended.expect("its outcome is known");
    assert_eq!(result.exit_code, 5);
    assert!(
        result.output_text.starts_with("ended\n[exit code 5"),
        "{}",
        result.output_text
    );
    assert_eq!(fs::read_to_string(&count).unwrap(), "begun\n", "never twice");
}
