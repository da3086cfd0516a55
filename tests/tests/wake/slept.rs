//! Real daemons on a host that "slept" an hour (their boot clock jumps), and on one whose wall clock was set.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nexus_client::Connection;
use nexus_tests::{Daemon, Site, skipped};
use tokio::time::timeout;

use crate::kit::{QUICK, Question, event, events, length, log_of, logged, report};

const HOUR: Duration = Duration::from_secs(3600);

/// Names of agents that were given up, as far as the log tells by now.
async fn lost(connection: &Connection) -> Vec<String> {
    let mut all = events(connection, "agent.lost");
    let mut names = Vec::new();
    // What is in the log comes at once.
    while let Ok(Some(Ok(event))) = timeout(Duration::from_millis(500), all.next()).await {
        names.push(event.data["name"].clone());
    }
    names
}

async fn all_recover(site: &mut Site, marks: &[(PathBuf, u64)], since: Instant, text: &str) {
    for (daemon, (log, mark)) in Daemon::ALL.iter().zip(marks) {
        logged(log, *mark, text).await;
        report(&format!("{daemon}: {text:?} {:?} after", since.elapsed()));
    }
    site.answers().await;
    report(&format!("a new question was answered {:?} after", since.elapsed()));
}

fn marks(site: &mut Site) -> Vec<(PathBuf, u64)> {
    Daemon::ALL
        .iter()
        .map(|daemon| {
            let log = log_of(site, *daemon);
            let length = length(&log);
            (log, length)
        })
        .collect()
}

#[tokio::test]
async fn after_an_hour_of_sleep_nobody_is_given_up_and_all_is_answered() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/wake/slept.c");
    let site = Site::new();
    let shim = site.folder().path().join("slept.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&shim)
        .arg(source)
        .status();
    if !compiled.is_ok_and(|status| status.success()) {
        return skipped(
            "after_an_hour_of_sleep_nobody_is_given_up_and_all_is_answered",
            "cc, a C compiler",
        );
    }
    let slept = site.folder().path().join("slept");
    std::fs::write(&slept, 0_i64.to_ne_bytes()).expect("a file can be written");
    let text = |path: &PathBuf| path.to_str().expect("temporary paths are text").to_owned();
    let mut site = site
        .settings(QUICK)
        .env("LD_PRELOAD", &text(&shim))
        .env("NEXUS_TEST_SLEPT", &text(&slept));
    site.up(&Daemon::ALL).await;
    site.answers().await;

    let connection = site.connect();
    let question = Question::ask(&connection, "and now we sleep").await;
    let marks = marks(&mut site);
    let woke = Instant::now();
    let nanos = i64::try_from(HOUR.as_nanos()).expect("an hour is short");
    // In place: the daemons have mapped it.
    let file = std::fs::File::options()
        .write(true)
        .open(&slept)
        .expect("it was made above");
    std::os::unix::fs::FileExt::write_all_at(&file, &nanos.to_ne_bytes(), 0).expect("a file can be written");

    all_recover(&mut site, &marks, woke, "recovered: the host slept 1h").await;
    question.answered(&connection).await;
    let wake = event(&connection, "system.wake").await;
    assert_eq!(wake.data["kind"], "slept");
    let told: u64 = wake.data["slept_ms"].parse().expect("a number");
    assert!(told.abs_diff(3_600_000) < 5_000, "{wake:?}");
    let took: u64 = wake.data["recovered_ms"].parse().expect("a number");
    report(&format!("system.wake: slept {told} ms, recovered in {took} ms"));
    // Their last heartbeat is an hour old by the wall clock, and they are alive.
    let lost = lost(&connection).await;
    assert!(!lost.iter().any(|name| name == "llm" || name == "gateway"), "{lost:?}");
    let health = connection
        .orchestrator()
        .health_check(())
        .await
        .expect("it answers")
        .into_inner();
    assert!(
        health
            .subsystems
            .iter()
            .any(|part| part.starts_with("last wake: the host slept 1h")),
        "{health:?}"
    );
}

#[tokio::test]
async fn a_wall_clock_that_was_set_is_no_sleep() {
    let test = "a_wall_clock_that_was_set_is_no_sleep";
    let Some(library) = std::fs::read_dir("/usr/lib").ok().and_then(|folders| {
        folders
            .flatten()
            .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.is_file())
    }) else {
        return skipped(test, "libfaketime (tests/wake/setup.sh)");
    };
    let site = Site::new();
    let stamp = site.folder().path().join("faketime");
    std::fs::write(&stamp, "+0").expect("a file can be written");
    let mut site = site
        .settings(QUICK)
        .env("LD_PRELOAD", library.to_str().expect("a path of letters"))
        .env("FAKETIME_TIMESTAMP_FILE", stamp.to_str().expect("a path of letters"))
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    site.up(&Daemon::ALL).await;
    site.answers().await;
    let marks = marks(&mut site);
    let set = Instant::now();
    std::fs::write(&stamp, "+3600").expect("a file can be written");
    all_recover(&mut site, &marks, set, "recovered: the wall clock was set by").await;
    let wake = event(&site.connect(), "system.wake").await;
    assert_eq!(wake.data["kind"], "clock-set");
    let lost = lost(&site.connect()).await;
    assert!(!lost.iter().any(|name| name == "llm" || name == "gateway"), "{lost:?}");
}
