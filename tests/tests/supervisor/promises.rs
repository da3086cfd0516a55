//! What `docs/SERVICES.md` says beside the deaths: exit codes, reasons, signals, commands that come at the same time.

use std::{thread, time::Instant};

use nix::sys::signal::Signal;

use crate::world::{SERVICES, World, kill, lives, until};

#[test]
fn the_exit_code_says_whether_all_is_as_it_is_wanted() {
    let world = World::new("");
    let code = |args: &[&str]| world.run(&[&["services", "status"], args].concat()).status.code();
    assert_eq!((code(&[]), code(&["llm"]), code(&["lmm"])), (Some(0), Some(3), Some(4)));
    world.works(&["up"]);
    assert_eq!((code(&[]), code(&["llm"])), (Some(0), Some(0)));
    // Stopped on purpose is as it is wanted; who asks for it by name wants to know.
    world.works(&["services", "stop", "llm"]);
    assert_eq!(
        (code(&[]), code(&["llm"]), code(&["gateway"])),
        (Some(0), Some(3), Some(0))
    );
    world.works(&["services", "start", "llm"]);
    kill(world.pid("gateway"), Signal::SIGSTOP);
    let frozen = world.pid("gateway");
    until("it is missed", || (code(&["--deep"]) == Some(1)).then_some(()));
    kill(frozen, Signal::SIGCONT);
}

#[test]
fn what_limps_says_why_and_what_helps() {
    let world =
        World::new("[llm]\nanthropic_key = \"file:/nonexistent/key\"\nopenai_key = \"env:NEXUS_TEST_NO_SUCH\"\n");
    // It serves, and is not what was wanted.
    let begun = Instant::now();
    let up = world.run(&["up"]);
    let said = String::from_utf8_lossy(&up.stderr).into_owned();
    assert_eq!(up.status.code(), Some(1), "{said}");
    assert!(said.contains("/nonexistent/key"), "{said}");
    println!("told after {:?}", begun.elapsed());
    let llm = until("both were asked for", || {
        let llm = world.service("llm");
        let mut credentials = llm["credentials"].as_array()?.iter();
        let settled = credentials.all(|one| one["status"] != "pending");
        (settled && llm["state"] == "degraded").then_some(llm)
    });
    let credentials = llm["credentials"].as_array().unwrap();
    let said: Vec<(&str, &str, &str)> = credentials
        .iter()
        .map(|one| {
            let word = |key: &str| one[key].as_str().unwrap();
            (word("ref"), word("provider"), word("status"))
        })
        .collect();
    assert_eq!(
        said,
        [
            ("file:/nonexistent/key", "file", "not-found"),
            ("env:NEXUS_TEST_NO_SUCH", "env", "not-found")
        ]
    );
    let checks = llm["checks"].as_array().unwrap();
    let health = checks.iter().find(|check| check["id"] == "health").unwrap();
    assert_eq!(health["status"], "warn");
    let message = health["message"].as_str().unwrap();
    assert!(message.contains("credentials: anthropic"), "{message}");
    assert!(health["fix"].as_str().unwrap().contains("nexus services logs llm"));
    // The table says it beside, and a daemon that is well has nothing to say.
    let said = world.run(&["services", "status"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("llm: ") && said.contains("/nonexistent/key"), "{said}");
    assert_eq!(world.service("gateway")["credentials"].as_array().unwrap().len(), 0);
    // It was told without asking: what it says of itself goes when it does.
    let file = world.root().join("state/run/llm.json");
    assert!(file.exists());
    world.works(&["down"]);
    assert!(!file.exists());
}

#[test]
fn a_signal_is_a_down_and_a_second_one_leaves_the_daemons_running() {
    let world = World::new("");
    world.works(&["up"]);
    let supervisor = world.supervisor();
    let pids = SERVICES.map(|service| world.pid(service));
    kill(supervisor, Signal::SIGTERM);
    until("all have ended", || {
        let over = |pid: &i32| !lives(*pid);
        (pids.iter().all(over) && over(&supervisor)).then_some(())
    });

    world.works(&["up"]);
    let (supervisor, orchestrator, llm) = (world.supervisor(), world.pid("orchestrator"), world.pid("llm"));
    // One that does not stop holds up those that it needs.
    kill(llm, Signal::SIGSTOP);
    kill(supervisor, Signal::SIGTERM);
    until("it is about to end", || {
        let stopping = world.snapshot()["supervisor"]["stopping"] == true;
        (stopping || !lives(supervisor)).then_some(())
    });
    let begun = Instant::now();
    kill(supervisor, Signal::SIGTERM);
    until("it has left", || (!lives(supervisor)).then_some(()));
    println!("left after {:?}", begun.elapsed());
    assert!(lives(orchestrator) && lives(llm));
    kill(llm, Signal::SIGCONT);
    // The next one stops what was to be stopped, before it starts it again.
    world.works(&["up"]);
    for service in SERVICES {
        assert_eq!(world.count(service), 1, "{service}");
    }
    assert!(world.works(&["chat", "hello"]).contains("hello"));
}

#[test]
fn commands_at_the_same_time_leave_one_of_each() {
    let world = World::forgiving();
    world.works(&["up"]);
    thread::scope(|scope| {
        for round in 0..4 {
            for change in ["restart", "restart", "stop", "start"] {
                scope.spawn(|| world.run(&["services", change, "llm"]));
            }
            let whole: &[&str] = if round % 2 == 0 {
                &["services", "restart"]
            } else {
                &["up"]
            };
            scope.spawn(|| world.run(whole));
        }
    });
    // Whichever was last.
    world.works(&["services", "start"]);
    for service in SERVICES {
        assert_eq!(world.count(service), 1, "{service}");
        assert_eq!(world.service(service)["state"], "ready");
    }
    assert!(world.works(&["chat", "hello"]).contains("hello"));
}

/// A token is demanded of everybody, and the daemons, the supervisor and the command of this user show each other theirs.
#[tokio::test]
async fn with_require_token_everything_comes_up_and_a_bare_caller_is_nobody() {
    let world = World::new("[common]\nrequire_token = true\n");
    world.works(&["up"]);
    for service in SERVICES {
        let found = world.service(service);
        assert_eq!(found["state"], "ready", "{found}");
        let connection = world.connect(service);
        let whole = tonic_health::pb::HealthCheckRequest { service: String::new() };
        let refused = connection.health().check(whole).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{service}");
    }
    assert!(world.works(&["chat", "hello"]).contains("hello"));
    // One that is started again is known again.
    let before = world.pid("llm");
    kill(before, Signal::SIGKILL);
    until("the model daemon is started again", || {
        let service = world.service("llm");
        (service["state"] == "ready" && service["pid"] != before).then_some(())
    });
    assert!(world.works(&["chat", "hello"]).contains("hello"));
    world.works(&["down"]);
}
