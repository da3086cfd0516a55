//! grpcio with a plain `unix:<path>`, which its core sends as `:authority`, sync and aio. The clients are in
//! `foreign/python` and make their stubs from `proto/` as they run.

use std::{process::Command, time::Duration};

use crate::kit::{checkout, has, made, orchestrator, run};
use nexus_tests::Daemon;

fn play(client: &str, scenarios: &[&str]) {
    let python = made("venv/bin/python");
    if !has(&[(python.clone(), "python3 with grpcio")]) {
        return;
    }
    let site = orchestrator();
    let mut command = Command::new(python);
    command
        .arg("-B")
        .arg(checkout().join("tests/foreign/python").join(client))
        .arg(site.socket(Daemon::Orchestrator));
    let said = run(&mut command, Duration::from_secs(120));
    for scenario in scenarios {
        assert!(
            said.contains(&format!("ok {scenario}")),
            "nothing said of {scenario}:\n{said}"
        );
    }
}

#[test]
fn a_plain_unix_address_works() {
    play(
        "client.py",
        &["authority", "health", "reflection", "chat", "churn", "large"],
    );
}

#[test]
fn so_it_does_with_everything_at_once() {
    play("client_aio.py", &["authority", "chat", "churn"]);
}
