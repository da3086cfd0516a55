//! A daemon's start and stop: its budget, its signals, and settings that are wrong.

mod hanging;

use hanging::hanging_call;
use nexus_proto::orchestrator::v1::SessionState;
use nexus_tests::{Daemon, PATIENCE, Site, ask};
use nix::sys::signal::Signal;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

#[tokio::test]
async fn a_call_that_hangs_holds_a_stop_for_its_budget_and_no_longer() {
    let mut site = Site::new().env("NEXUS_COMMON__STOP_BUDGET", "1s");
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let hanging = hanging_call(&connection).await;
    let session = ask::create(&connection, "saved").await;
    site.stopped(Daemon::Orchestrator).await;
    let status = hanging.await.unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    site.up(&[Daemon::Orchestrator]).await;
    assert_eq!(
        ask::session(&site.connect(), &session).await.state(),
        SessionState::Active
    );
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut site = Site::new().env("NEXUS_COMMON__STOP_BUDGET", "10m");
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let hanging = hanging_call(&connection).await;
    let request = HealthCheckRequest { service: String::new() };
    let mut health = connection.health().watch(request).await.unwrap().into_inner();
    assert_eq!(
        health.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );

    let process = site.process(Daemon::Orchestrator);
    process.signal(Signal::SIGTERM);
    // Health falls first, so that nobody is sent here any more.
    let told = timeout(PATIENCE, health.message()).await.expect("health says it");
    if let Ok(Some(told)) = told {
        assert_eq!(told.status(), ServingStatus::NotServing);
    }
    assert_eq!(process.ended(), None, "it waits for the call");
    process.signal(Signal::SIGTERM);
    let ended = process.end(PATIENCE).await.expect("long before its budget is over");
    assert_eq!(ended.code(), Some(143));
    assert!(hanging.await.unwrap().code() != Code::Ok);
}

#[tokio::test]
async fn wrong_settings_are_all_told_at_once() {
    let site = Site::new()
        .settings(
            "[orchestrator]\nmax_sesions = 5\nagent_ttl = \"soon\"\n[common]\nlog_level = \"loud\"\n[orchestra]\n",
        )
        .env("NEXUS_ORCHESTRATOR__MAX_AGENTS", "-3")
        .env("NEXUS_COMMON__ROLES", "uid:5=king");
    let out = site
        .command(Daemon::Orchestrator)
        .args(["--set", "low_disk=little"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(78));
    let said = String::from_utf8(out.stderr).unwrap();
    for part in [
        "max_sesions",
        "max_sessions",
        "agent_ttl",
        "soon",
        "loud",
        "orchestra",
        "-3",
        "king",
        "little",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!site.socket(Daemon::Orchestrator).exists());
    let out = site
        .command(Daemon::Orchestrator)
        .arg("--check-config")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(78), "a check finds the same");
    let out = site
        .command(Daemon::Orchestrator)
        .arg("--no-such-flag")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(64));
}

#[test]
fn every_daemon_checks_and_shows_its_settings_and_the_example_is_good() {
    let site = Site::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config.example.toml");
    for daemon in Daemon::ALL {
        for config in [None, Some(example)] {
            let mut command = site.command(daemon);
            if let Some(config) = config {
                command.args(["--config", config]);
            }
            let out = command.arg("--check-config").output().unwrap();
            assert!(
                out.status.success(),
                "{daemon} {config:?}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
            assert_eq!(String::from_utf8_lossy(&out.stdout), "ok\n");
        }
        let out = site.command(daemon).arg("--dump-config").output().unwrap();
        let shown = String::from_utf8(out.stdout).unwrap();
        assert!(
            out.status.success() && shown.contains(&format!("[{}]", daemon.section())),
            "{shown}"
        );
        // What is shown can be given back.
        let file = site.folder().path().join("shown.toml");
        std::fs::write(&file, &shown).unwrap();
        let out = site
            .command(daemon)
            .arg("--config")
            .arg(&file)
            .arg("--check-config")
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{daemon}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    assert!(!site.root().state().exists(), "a look changes nothing");
}

#[tokio::test]
async fn every_daemon_serves_and_stops() {
    let mut site = Site::new();
    site.up(&Daemon::ALL).await;
    for daemon in Daemon::ALL.into_iter().rev() {
        site.stopped(daemon).await;
        assert!(!site.socket(daemon).exists(), "{daemon} takes its socket along");
    }
    // Without an orchestrator the others start too, and wait for it.
    site.up(&[Daemon::Agent, Daemon::Llm, Daemon::Gateway]).await;
    site.up(&[Daemon::Orchestrator]).await;
    site.answers().await;
}
