//! What `cargo xtask dist` makes, installed and run as its users would. The Debian package is installed under a real
//! systemd, among the tests of the units.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod image;
mod made;
mod program;
mod tarball;

use std::{path::Path, process::Command};

use nexus_tests::skipped;

#[test]
fn the_checksums_are_those_of_the_packages() {
    let said = program::run(
        Command::new("sha256sum")
            .args(["--check", "SHA256SUMS"])
            .current_dir(made::packages()),
    );
    assert_eq!(said.lines().filter(|line| line.ends_with(": OK")).count(), 3, "{said}");
}

/// The tools of the containers' world that read a compose file, whichever is here.
#[test]
fn the_compose_file_is_sound() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/compose.yaml");
    let own = std::env::current_exe().unwrap();
    // target/<profile>/deps/<test>
    let fetched = own.ancestors().nth(3).unwrap().join("ci/compose/bin/podman-compose");
    let fetched = fetched.display().to_string();
    let tools: [&[&str]; 3] = [&["docker", "compose"], &["docker-compose"], &[&fetched]];
    let works = |tool: &&&[&str]| {
        // Docker without compose answers a request for help too, and an old podman-compose has no config.
        [&["version"][..], &["config", "--help"]].iter().all(|args| {
            let output = Command::new(tool[0]).args(&tool[1..]).args(*args).output();
            output.is_ok_and(|output| output.status.success())
        })
    };
    let Some(tool) = tools.iter().find(works) else {
        skipped(
            "packaging::the_compose_file_is_sound",
            "needs docker compose, or tests/packaging/setup.sh",
        );
        return;
    };
    let said = program::run(
        Command::new(tool[0])
            .args(&tool[1..])
            .arg("--file")
            .arg(file)
            .arg("config"),
    );
    for kept in ["read_only: true", "no-new-privileges", "127.0.0.1"] {
        assert!(said.contains(kept), "{kept}: {said}");
    }
}

/// By the tool of Prometheus itself.
#[test]
fn the_settings_for_prometheus_are_sound() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus.yml");
    let own = std::env::current_exe().unwrap();
    // target/<profile>/deps/<test>
    let fetched = own.ancestors().nth(3).unwrap().join("ci/prometheus/promtool");
    let tools = [Path::new("promtool"), &fetched];
    let works = |tool: &&&Path| Command::new(tool).arg("--version").output().is_ok();
    let Some(tool) = tools.iter().find(works) else {
        skipped(
            "packaging::the_settings_for_prometheus_are_sound",
            "needs promtool, or tests/packaging/setup.sh",
        );
        return;
    };
    let said = program::run(Command::new(tool).args(["check", "config"]).arg(file));
    assert!(said.contains("SUCCESS"), "{said}");
}
