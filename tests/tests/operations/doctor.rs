//! The doctor, with daemons that are well and a tree that is not.

use std::{fs, os::unix::fs::PermissionsExt};

use nexus_tests::{Daemon, Site, ask};
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

/// A write-ahead log that was damaged behind a killed daemon is told by the doctor before anything opens it, by the log
/// when the daemon does, and by the doctor until somebody says that it is known.
#[tokio::test]
async fn a_damaged_write_ahead_log_is_told_as_data_loss() {
    use nexus_proto::orchestrator::v1::MessageRole;
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "lost").await;
    for number in 0..40 {
        let message = ask::message("", MessageRole::System, &format!("{number}"));
        ask::send(&connection, &session, message).await.unwrap();
    }
    site.kill(Daemon::Orchestrator);
    let wal = site.root().db_dir().join("orchestrator.db-wal");
    let mut bytes = fs::read(&wal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 100].fill(0x5a);
    fs::write(&wal, bytes).unwrap();
    let id = "databases.orchestrator.lost";
    let (report, _) = ends(&site, &["doctor", "--json"], 1).await;
    assert_eq!(status(&report, id).0, "fail");
    assert!(
        report.contains("DATA LOSS") && report.contains("orchestrator.db-wal"),
        "{report}"
    );

    site.up(&[Daemon::Orchestrator]).await;
    let (report, _) = ends(&site, &["doctor", "--json"], 1).await;
    assert_eq!(status(&report, id).0, "fail", "also while it runs");
    let (report, _) = ends(&site, &["doctor", "--fix", "--json"], 0).await;
    assert_eq!(status(&report, id), ("pass".to_owned(), true));
    let (report, _) = ends(&site, &["doctor", "--json"], 0).await;
    assert!(!report.contains(id), "{report}");
    site.stopped(Daemon::Orchestrator).await;
}

#[tokio::test]
async fn a_daemon_logs_what_its_write_ahead_log_has_lost() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    ask::create(&site.connect(), "lost").await;
    site.kill(Daemon::Orchestrator);
    let wal = site.root().db_dir().join("orchestrator.db-wal");
    let length = fs::metadata(&wal).unwrap().len();
    fs::File::options()
        .write(true)
        .open(&wal)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
    site.up(&[Daemon::Orchestrator]).await;
    let log = crate::read(&site.root().log_dir().join("orchestrator.log"));
    assert!(
        log.contains("DATA LOSS") && log.contains("orchestrator.db-wal"),
        "{log}"
    );
    site.stopped(Daemon::Orchestrator).await;
}

/// Too little room is a reason of the daemon that has the disk, and every command says so.
#[tokio::test]
async fn too_little_room_on_the_disk_is_told_once_and_by_its_owner() {
    // No disk has this much room.
    let mut site = Site::new().env("NEXUS_ORCHESTRATOR__LOW_DISK", "1000000GiB");
    site.up(&[Daemon::Orchestrator, Daemon::Llm]).await;
    for args in [&["status"][..], &["services", "status"]] {
        let (out, beside) = ends(&site, args, 1).await;
        let said = format!("{out}{beside}")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert!(
            said.contains("DEGRADED") && said.contains("make room"),
            "{args:?}: {said}"
        );
        assert!(said.contains("kept back"), "{args:?}: {said}");
    }
    let (_, beside) = ends(&site, &["chat", "hello"], 1).await;
    assert!(beside.contains("make room on that disk"), "{beside}");
    let begin = std::time::Instant::now();
    loop {
        let told = standing(&site, "llm");
        if told["unlinked"]
            .as_str()
            .is_some_and(|why| why.contains("the orchestrator takes nothing new"))
        {
            break;
        }
        assert!(begin.elapsed() < nexus_tests::PATIENCE, "{told}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let log = crate::read(&site.root().log_dir().join("orchestrator.log"));
    assert_eq!(log.matches("too little room on the disk").count(), 1, "{log}");
    site.stopped(Daemon::Llm).await;
    site.stopped(Daemon::Orchestrator).await;
}

fn standing(site: &Site, service: &str) -> Value {
    let file = site.root().run_dir().join(format!("{service}.json"));
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}
