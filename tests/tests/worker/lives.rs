//! What is killed is gone with everything it started; what runs outlives its worker, once.

use std::{fs, time::Duration};

use nexus_tests::Daemon;
use serde_json::json;

use crate::desk::{Desk, alive, until};

/// The attack: a command hides what it starts from whoever ends it.
#[tokio::test]
async fn a_cancelled_call_leaves_nothing() {
    let desk = Desk::new().await;
    for (name, command) in [
        ("setsid", "setsid sleep 77101 & sleep 77101"),
        (
            "double fork",
            "(sleep 77102 & sleep 77102 &) ; (setsid sh -c 'sleep 77102 & sleep 77102 &') ; sleep 77102",
        ),
        ("deaf", "trap '' TERM INT HUP; while :; do sleep 77103; done"),
        ("bomb", ": sleep 77104; f() { f | f & f; }; f; sleep 77104"),
    ] {
        let word = &command[command.find("7710").unwrap()..][..5];
        let task = desk.begin("exec", json!({"command": command, "wait_s": 60})).await;
        until(name, Duration::from_secs(20), || alive(word) > 0).await;
        desk.cancel(&task).await;
        let took = until(name, Duration::from_secs(10), || alive(word) == 0).await;
        println!("{name}: nothing left after {took:?}");
        assert!(took < Duration::from_secs(1), "{name} lived for {took:?}");
    }
}

#[tokio::test]
async fn a_call_outlives_its_worker_and_runs_once() {
    let mut desk = Desk::new().await;
    let command = "echo begun >>count; while [ ! -e go ]; do sleep 0.05; done; echo ended; exit 5";
    let task = desk.begin("exec", json!({"command": command, "wait_s": 60})).await;
    let count = desk.workspace().join("count");
    until("it runs", Duration::from_secs(20), || count.exists()).await;
    for _ in 0..3 {
        desk.site.kill(Daemon::Worker);
        desk.site.up(&[Daemon::Worker]).await;
    }
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

#[tokio::test]
async fn a_worker_that_stops_leaves_nothing_of_sessions_in_which_nothing_runs() {
    let mut desk = Desk::new().await;
    desk.told("exec", json!({"command": "true"})).await;
    let below = desk.site.root().state().join("worker");
    let sandboxes = || {
        let all = nexus_tests::engines::holders(&below);
        all.into_iter()
            .filter(|holder| holder.contains("nexus-sandbox"))
            .count()
    };
    assert!(sandboxes() > 0, "the network of the session is held");
    let worker = desk.site.process(Daemon::Worker);
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = worker.end(Duration::from_secs(10)).await;
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    until("the sandboxes end", Duration::from_secs(5), || sandboxes() == 0).await;
}

#[tokio::test]
async fn an_end_that_came_while_nobody_looked_is_known() {
    let mut desk = Desk::new().await;
    let task = desk
        .begin(
            "exec",
            json!({"command": "echo begun >>count; sleep 0.4; echo ended", "wait_s": 60}),
        )
        .await;
    let count = desk.workspace().join("count");
    until("it runs", Duration::from_secs(20), || count.exists()).await;
    desk.site.kill(Daemon::Worker);
    let containers = desk.site.root().state().join("worker/worker/containers");
    until("it ends", Duration::from_secs(20), || {
        let ends = fs::read_dir(&containers).unwrap().flatten();
        ends.filter(|entry| entry.path().join("exit.json").exists()).count() > 0
    })
    .await;
    desk.site.up(&[Daemon::Worker]).await;
    let (ended, _) = desk.ended(&task).await;
    assert!(ended.unwrap().output_text.starts_with("ended\n[exit code 0"));
    assert_eq!(fs::read_to_string(&count).unwrap(), "begun\n");
}

#[tokio::test]
async fn a_stop_lets_calls_end_and_a_result_waits_for_the_orchestrator() {
    let mut desk = Desk::new().await;
    let task = desk
        .begin("exec", json!({"command": "echo begun >>count; sleep 0.5; echo ended"}))
        .await;
    let count = desk.workspace().join("count");
    until("it runs", Duration::from_secs(20), || count.exists()).await;
    let status = desk.site.stop(Daemon::Worker).await;
    assert!(status.success(), "{status}");
    let (ended, _) = desk.ended(&task).await;
    assert!(ended.unwrap().output_text.starts_with("ended\n"));

    desk.site.up(&[Daemon::Worker]).await;
    fs::remove_file(&count).unwrap();
    let task = desk
        .begin(
            "exec",
            json!({"command": "echo begun >>count; sleep 0.5; echo later", "wait_s": 60}),
        )
        .await;
    until("it runs", Duration::from_secs(20), || count.exists()).await;
    desk.site.kill(Daemon::Orchestrator);
    let spill = desk.site.root().state().join("worker/worker/sessions");
    let results = spill.join(&desk.session).join("results").join(&task);
    until("it ends", Duration::from_secs(20), || results.exists()).await;
    desk.site.up(&[Daemon::Orchestrator]).await;
    let (ended, _) = desk.ended(&task).await;
    assert!(ended.unwrap().output_text.starts_with("later\n"));
    assert_eq!(fs::read_to_string(&count).unwrap(), "begun\n");
}
