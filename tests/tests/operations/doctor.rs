//! The doctor, with daemons that are well and a tree that is not.

use std::{fs, os::unix::fs::PermissionsExt};

use nexus_tests::{Daemon, Site};
use serde_json::Value;

use crate::ends;

fn status(report: &str, id: &str) -> (String, bool) {
    let report: Value = serde_json::from_str(report).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let one = checks.iter().find(|check| check["id"] == id);
    let one = one.unwrap_or_else(|| panic!("there is no check {id}: {report:#}"));
    (one["status"].as_str().unwrap().to_owned(), one["repaired"].is_string())
}

#[tokio::test]
async fn it_tells_what_is_wrong_and_repairs_what_is_safe() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator, Daemon::Llm]).await;
    let (report, _) = ends(&site, &["doctor", "--json"], 0).await;
    for id in [
        "tree.state",
        "settings.orchestrator",
        "sockets.llm",
        "databases.orchestrator",
        "host.clock",
    ] {
        assert_eq!(status(&report, id).0, "pass", "{id}: {report}");
    }
    // It serves, and this test is no supervisor.
    assert_eq!(status(&report, "daemons.orchestrator").0, "warn");
    // A model daemon that was killed leaves its socket; somebody opened the state to all.
    site.kill(Daemon::Llm);
    let state = site.root().state();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let (report, _) = ends(&site, &["doctor", "--json"], 1).await;
    assert_eq!(status(&report, "tree.state"), ("fail".to_owned(), false));
    assert_eq!(status(&report, "sockets.llm"), ("warn".to_owned(), false));
    let (report, _) = ends(&site, &["doctor", "--fix", "--json"], 0).await;
    assert_eq!(status(&report, "tree.state"), ("pass".to_owned(), true));
    assert_eq!(status(&report, "sockets.llm"), ("pass".to_owned(), true));
    assert!(!site.socket(Daemon::Llm).exists());
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    ends(&site, &["doctor"], 0).await;
    site.stopped(Daemon::Orchestrator).await;
    let database = site.root().db_dir().join("orchestrator.db");
    let mut bytes = fs::read(&database).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    fs::write(&database, bytes).unwrap();
    let (report, _) = ends(&site, &["doctor", "--json"], 1).await;
    assert_eq!(status(&report, "databases.orchestrator").0, "fail");
}
