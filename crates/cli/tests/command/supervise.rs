//! The supervisor, where the daemons are scripts that misbehave: they never serve, do not stop, multiply, and shout.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{fake::text, updown::Tree};

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn until<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(seen) = seen() {
            return seen;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(LOOK_AGAIN);
    }
}

fn snapshot(tree: &Tree) -> Value {
    let done = tree.run(&["services", "status", "--json"]);
    serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", text(&done.stderr)))
}

fn service(tree: &Tree, name: &str) -> Value {
    let all = snapshot(tree);
    let services = all["services"].as_array().unwrap();
    services.iter().find(|service| service["id"] == name).unwrap().clone()
}

fn settings(tree: &Tree, text: &str) {
    let dir = tree.path().join("state/nexus");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.toml"), text).unwrap();
}

fn begin(tree: &Tree, service: &str) {
    // Scripts never serve: nobody waits for them.
    let done = tree.run(&["services", "start", service, "--wait", "0s"]);
    assert!(matches!(done.status.code(), Some(0 | 1 | 6)), "{}", text(&done.stderr));
}

fn written(path: &Path) -> i32 {
    until("the script says its number", || {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    })
}

fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn what_does_not_stop_is_killed_with_all_that_it_started() {
    let tree = Tree::new();
    let file = tree.path().join("child");
    tree.daemons(&format!(
        "trap '' TERM\nsleep 1000 &\necho $! > {}\nwhile :; do sleep 1; done",
        file.display()
    ));
    begin(&tree, "orchestrator");
    let (child, main) = (written(&file), service(&tree, "orchestrator")["pid"].as_i64().unwrap());
    let done = tree.run(&["services", "stop", "orchestrator", "--timeout", "200ms", "--json"]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let ended = &service(&tree, "orchestrator")["lastExit"];
    assert_eq!(
        (&ended["signal"], &ended["forced"]),
        (&9.into(), &true.into()),
        "{ended}"
    );
    until("everything of it is gone", || {
        (!lives(child) && !lives(i32::try_from(main).unwrap())).then_some(())
    });
}

#[test]
fn what_slips_away_by_forking_twice_does_not_outlive_its_service() {
    let tree = Tree::new();
    let file = tree.path().join("slipped");
    tree.daemons(&format!(
        "setsid sh -c 'sleep 1000 & echo $! > {}.new; mv {}.new {}' \nexec sleep 1000",
        file.display(),
        file.display(),
        file.display()
    ));
    begin(&tree, "orchestrator");
    let slipped = written(&file);
    fs::remove_file(&file).unwrap();
    let main = i32::try_from(service(&tree, "orchestrator")["pid"].as_i64().unwrap()).unwrap();
    Command::new("kill").args(["-9", &main.to_string()]).status().unwrap();
    let next = written(&file);
    assert_ne!(next, slipped);
    assert!(!lives(slipped), "two of one");
    assert!(lives(next));
    assert_eq!(service(&tree, "orchestrator")["restarts"], 1);
}

#[test]
fn a_flood_neither_fills_the_disk_nor_stops_the_supervisor() {
    let tree = Tree::new();
    tree.daemons("while :; do echo 'the same words again and again, and again'; done");
    begin(&tree, "orchestrator");
    let log = tree.path().join("state/logs/orchestrator.err.log");
    until("it is said that something was dropped", || {
        let said = tree.run(&["services", "logs", "orchestrator", "--level", "error"]);
        text(&said.stdout).contains("bytes were dropped").then_some(())
    });
    assert_eq!(service(&tree, "orchestrator")["state"], "starting");
    assert!(fs::metadata(&log).unwrap().len() <= 1 << 20);
}

#[test]
fn a_crash_loop_ends_and_a_wrong_config_never_begins_one() {
    let tree = Tree::new();
    settings(&tree, "[cli]\nbackoff_min = \"10ms\"\n");
    tree.daemons("case $0 in *llm) exit 78;; *) exit 1;; esac");
    let done = tree.run(&["up"]);
    assert_eq!(done.status.code(), Some(1));
    let (looped, wrong) = until("both are left alone", || {
        let (looped, wrong) = (service(&tree, "orchestrator"), service(&tree, "llm"));
        (looped["state"] == "failed" && wrong["state"] == "failed").then_some((looped, wrong))
    });
    assert_eq!(looped["restarts"], 4, "five crashes in all: {looped}");
    assert_eq!(wrong["restarts"], 0);
    assert_eq!(wrong["lastExit"]["code"], 78);
    let fix = wrong["checks"][0]["fix"].as_str().unwrap();
    assert!(
        fix.contains("config.toml") && fix.contains("nexus services start llm"),
        "{fix}"
    );
    assert_eq!(tree.run(&["services", "status"]).status.code(), Some(1));
    assert!(!tree.socket().exists(), "nobody waits at its socket");
}

#[test]
fn a_stranger_with_the_number_of_a_daemon_is_left_alone() {
    let tree = Tree::new();
    tree.daemons("exec sleep 1000");
    let mut stranger = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let run = tree.path().join("state/run");
    fs::create_dir_all(&run).unwrap();
    let remembered = serde_json::json!({
        "boot_id": boot.trim(),
        "services": { "orchestrator": { "wanted": true, "pid": stranger.id(), "start_time": 1 } },
    });
    fs::write(run.join("supervisor.json"), remembered.to_string()).unwrap();
    begin(&tree, "orchestrator");
    let found = service(&tree, "orchestrator");
    assert_ne!(found["pid"], stranger.id());
    assert!(found["pid"].is_i64(), "it was started anew: {found}");
    assert!(tree.run(&["down"]).status.success());
    assert!(stranger.try_wait().unwrap().is_none(), "it was signalled");
    stranger.kill().unwrap();
    assert_eq!(stranger.wait().unwrap().signal(), Some(9));
}

#[test]
fn survivors_of_a_killed_supervisor_are_found_again_and_never_doubled() {
    let tree = Tree::new();
    tree.daemons("exec sleep 1000");
    begin(&tree, "orchestrator");
    let before = service(&tree, "orchestrator");
    let supervisor = snapshot(&tree)["supervisor"]["pid"].as_i64().unwrap().to_string();
    Command::new("kill").args(["-9", &supervisor]).status().unwrap();
    until("it is gone", || snapshot(&tree)["supervisor"].is_null().then_some(()));
    begin(&tree, "orchestrator");
    let after = service(&tree, "orchestrator");
    assert_eq!(
        (&before["pid"], &before["startTime"]),
        (&after["pid"], &after["startTime"])
    );
    // One that died while nobody looked is started.
    let supervisor = snapshot(&tree)["supervisor"]["pid"].as_i64().unwrap().to_string();
    Command::new("kill").args(["-9", &supervisor]).status().unwrap();
    let daemon = after["pid"].as_i64().unwrap().to_string();
    Command::new("kill").args(["-9", &daemon]).status().unwrap();
    begin(&tree, "llm");
    let new = service(&tree, "orchestrator");
    assert!(new["pid"].is_i64() && new["pid"] != after["pid"], "{new}");
}

#[test]
fn there_is_one_supervisor() {
    let tree = Tree::new();
    tree.daemons("exec sleep 1000");
    begin(&tree, "orchestrator");
    let first = snapshot(&tree)["supervisor"]["pid"].as_i64().unwrap();
    let second = tree.run(&["supervise"]);
    assert_eq!(second.status.code(), Some(5));
    let said = text(&second.stderr);
    assert!(
        said.contains("another supervisor") && said.contains(&first.to_string()),
        "{said}"
    );
    // Two commands at once bring up one.
    assert!(tree.run(&["down"]).status.success());
    let start = ["services", "start", "orchestrator", "--wait", "0s"];
    let mut both: Vec<_> = (0..2)
        .map(|_| {
            tree.command(&start)
                .stderr(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for one in &mut both {
        one.wait().unwrap();
    }
    assert_eq!(service(&tree, "orchestrator")["restarts"], 0);
    assert!(service(&tree, "orchestrator")["pid"].is_i64());
}

#[test]
fn a_supervisor_whose_tree_is_gone_leaves_too() {
    let tree = Tree::new();
    tree.daemons("exec sleep 1000");
    begin(&tree, "orchestrator");
    let pid = snapshot(&tree)["supervisor"]["pid"].as_i64().unwrap();
    let daemon = service(&tree, "orchestrator")["pid"].as_i64().unwrap();
    fs::remove_dir_all(tree.path().join("state")).unwrap();
    until("both are gone", || {
        let gone = |pid: i64| !lives(i32::try_from(pid).unwrap());
        (gone(pid) && gone(daemon)).then_some(())
    });
}

#[test]
fn names_are_checked_and_commands_say_what_is_not_there() {
    let tree = Tree::new();
    tree.daemons("exec sleep 1000");
    let done = tree.run(&["services", "status", "gatway"]);
    assert_eq!(done.status.code(), Some(4));
    assert!(
        text(&done.stderr).contains("did you mean gateway"),
        "{}",
        text(&done.stderr)
    );
    assert_eq!(tree.run(&["services", "status"]).status.code(), Some(0));
    assert_eq!(tree.run(&["services", "status", "llm"]).status.code(), Some(3));
    assert_eq!(tree.run(&["services", "stop"]).status.code(), Some(0));
    for (name, daemon) in [
        (&["cloud", "status"][..], "nexus-cloud"),
        (&["hub"], "nexus-hub"),
        (&["skills", "search", "x"], "nexus-hub"),
        (&["collab"], "nexus-collab"),
    ] {
        let done = tree.run(name);
        assert_eq!(done.status.code(), Some(1), "{name:?}");
        let said = text(&done.stderr);
        assert!(said.contains(&format!("{daemon} is not part of this build")), "{said}");
    }
}

#[test]
fn a_disabled_service_is_passed_over_also_by_the_next_supervisor() {
    let tree = Tree::new();
    tree.daemons("exec sleep 1000");
    assert_eq!(tree.run(&["services", "disable", "gateway"]).status.code(), Some(0));
    assert!(tree.run(&["down"]).status.success());
    begin(&tree, "orchestrator");
    assert_eq!(service(&tree, "gateway")["desired"], "disabled");
    let done = tree.run(&["services", "start", "gateway"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("nexus services enable gateway"));
    assert_eq!(tree.run(&["services", "enable", "gateway"]).status.code(), Some(0));
    begin(&tree, "gateway");
    assert!(service(&tree, "gateway")["pid"].is_i64());
}
