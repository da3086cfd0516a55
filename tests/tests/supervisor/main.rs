//! The supervisor with the real daemons: each killed, frozen and restarted, itself too, and nobody the worse for it.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod environment;
mod promises;
mod sockets;
mod world;

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use nexus_proto::orchestrator::v1::ListSessionsRequest;
use nix::sys::signal::Signal;
use tonic_health::pb::HealthCheckRequest;
use world::{SERVICES, World, kill, lives, until};

/// Whoever is killed first, and whoever next: all serve again, each once, and a question is answered.
#[test]
fn killed_in_any_order_everything_serves_again_and_nothing_twice() {
    let world = World::forgiving();
    world.works(&["up"]);
    let victims: Vec<&str> = SERVICES.into_iter().chain(["supervisor"]).collect();
    for first in &victims {
        for second in victims.iter().filter(|second| *second != first) {
            let number = |who: &str| match who {
                "supervisor" => world.supervisor(),
                service => world.pid(service),
            };
            let pids = (number(first), number(second));
            kill(pids.0, Signal::SIGKILL);
            kill(pids.1, Signal::SIGKILL);
            until("both have ended", || (!lives(pids.0) && !lives(pids.1)).then_some(()));
            if [*first, *second].contains(&"supervisor") {
                // Nobody starts it again by himself; the next command does.
                until("it is gone", || world.snapshot()["supervisor"].is_null().then_some(()));
            }
            world.works(&["up"]);
            for service in SERVICES {
                assert_eq!(world.count(service), 1, "{service} after {first} and {second}");
            }
        }
    }
    assert!(world.works(&["chat", "hello"]).contains("hello"));
}

#[test]
fn a_supervisor_without_memory_finds_the_daemons_by_their_sockets() {
    let world = World::forgiving();
    world.works(&["up"]);
    let before = SERVICES.map(|service| world.pid(service));
    kill(world.supervisor(), Signal::SIGKILL);
    std::fs::remove_file(world.root().join("state/run/supervisor.json")).unwrap();
    until("it is gone", || world.snapshot()["supervisor"].is_null().then_some(()));
    world.works(&["up"]);
    assert_eq!(SERVICES.map(|service| world.pid(service)), before);
    // It looks after them as after its own.
    kill(before[1], Signal::SIGKILL);
    until("the model daemon is started again", || {
        let service = world.service("llm");
        (service["state"] == "ready" && service["pid"] != before[1]).then_some(())
    });
    world.works(&["down"]);
    for service in SERVICES {
        assert_eq!(world.count(service), 0, "{service}");
    }
}

/// Printed, for those who want to know how long it takes.
#[tokio::test]
async fn a_killed_daemon_serves_again_and_its_clients_reconnect_by_themselves() {
    let world = World::forgiving();
    world.works(&["up"]);
    let connection = world.connect("orchestrator");
    let ask = || async {
        let mut orchestrator = connection.orchestrator();
        orchestrator.list_sessions(ListSessionsRequest::default()).await
    };
    ask().await.unwrap();
    let mut times = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        kill(world.pid("orchestrator"), Signal::SIGKILL);
        // The call that is cut off by the kill may fail; the next ones wait at the socket.
        until_asked(&ask).await;
        times.push(begin.elapsed().as_millis());
    }
    println!("a killed orchestrator answers its client again after {times:?} ms");
    for service in SERVICES {
        let connection = world.connect(service);
        let ask = || async {
            let whole = HealthCheckRequest { service: String::new() };
            connection.health().check(whole).await
        };
        ask().await.unwrap();
        let pid = world.pid(service);
        let begin = Instant::now();
        kill(pid, Signal::SIGKILL);
        until_asked(&ask).await;
        println!(
            "{service}, killed, answers its client again after {} ms",
            begin.elapsed().as_millis()
        );
    }
    until("the others are of use again", || {
        (world.snapshot()["ok"] == true).then_some(())
    });
    assert!(world.works(&["chat", "hello"]).contains("hello"));
}

async fn until_asked<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(ask: &impl Fn() -> F) {
    let begin = Instant::now();
    while let Err(error) = ask().await {
        assert!(begin.elapsed() < nexus_tests::PATIENCE, "{error:?}");
        tokio::task::yield_now().await;
    }
}

/// As the seed's users start it, where nobody looks after it.
#[test]
fn the_gateway_runs_in_the_foreground_by_its_old_name() {
    let world = World::forgiving();
    let mut daemon = world
        .command(&["gateway-daemon"])
        .env("NEXUS_LOAD_SHELL_ENV", "1")
        .env("SHELL", "/bin/sh")
        .spawn()
        .unwrap();
    let pid = i32::try_from(daemon.id()).unwrap();
    until("it listens", || UnixStream::connect(world.socket("gateway")).ok());
    let gateway = world.service("gateway");
    assert_eq!(gateway["pid"], pid, "{gateway}");
    assert_eq!(gateway["manager"], "none", "kept by nobody: {gateway}");
    kill(pid, Signal::SIGTERM);
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn nobody_is_refused_while_everything_is_restarted() {
    let world = World::forgiving();
    world.works(&["up"]);
    let over = Arc::new(AtomicBool::new(false));
    let tried = Arc::new(AtomicU64::new(0));
    let knocking: Vec<_> = SERVICES
        .map(|service| {
            let (socket, over, tried) = (world.socket(service), over.clone(), tried.clone());
            thread::spawn(move || {
                let mut refused = 0;
                while !over.load(Ordering::Relaxed) {
                    match UnixStream::connect(&socket) {
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => refused += 1,
                        _ => {}
                    }
                    tried.fetch_add(1, Ordering::Relaxed);
                    thread::yield_now();
                }
                refused
            })
        })
        .into();
    let before = SERVICES.map(|service| world.pid(service));
    for _ in 0..3 {
        world.works(&["services", "restart"]);
    }
    kill(world.pid("llm"), Signal::SIGKILL);
    until("the killed one is back", || {
        (world.service("llm")["restarts"] == 1 && world.snapshot()["ok"] == true).then_some(())
    });
    over.store(true, Ordering::Relaxed);
    let refused: Vec<u64> = knocking.into_iter().map(|knocking| knocking.join().unwrap()).collect();
    println!(
        "{} connections in three restarts and a kill",
        tried.load(Ordering::Relaxed)
    );
    assert_eq!(refused, [0; 5]);
    for (service, before) in SERVICES.into_iter().zip(before) {
        assert_ne!(world.pid(service), before, "{service}");
    }
}

#[test]
fn a_daemon_that_freezes_is_started_again() {
    let world = World::new("[cli]\nprobe_interval = \"50ms\"\nprobe_timeout = \"500ms\"\n");
    world.works(&["up"]);
    let frozen = world.pid("llm");
    kill(frozen, Signal::SIGSTOP);
    let service = until("another one serves", || {
        let service = world.service("llm");
        (service["state"] == "ready" && service["pid"] != frozen).then_some(service)
    });
    assert_eq!(service["restarts"], 1, "{service}");
    assert_eq!(service["lastExit"]["forced"], true, "{service}");
    assert_eq!(world.count("llm"), 1);
}

#[test]
fn sockets_are_where_the_settings_say() {
    let settings = "[llm]\nsocket_path = \"$NEXUS_ROOT/l.sock\"\n[agent]\nllm_url = \"$NEXUS_ROOT/l.sock\"\n\
                    [gateway]\nsocket_path = \"$NEXUS_ROOT/g.sock\"\n";
    let world = World::new(&settings.replace("$NEXUS_ROOT", "NEXUS_ROOT_HERE"));
    let config = world.root().join("state/nexus/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("NEXUS_ROOT_HERE", world.root().to_str().unwrap())).unwrap();
    world.works(&["up"]);
    for name in ["l.sock", "g.sock"] {
        UnixStream::connect(world.root().join(name)).unwrap();
    }
    world.works(&["status"]);
    world.works(&["services", "status", "--deep"]);
    assert!(world.works(&["chat", "hello"]).contains("hello"));
    world.works(&["down"]);
    assert!(!world.root().join("l.sock").exists());
}

#[test]
fn logs_of_all_services_come_in_the_order_of_time() {
    let world = World::forgiving();
    world.works(&["up"]);
    world.works(&["down"]);
    let lines = world.works(&["services", "logs", "--json", "--since", "10m"]);
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let times: Vec<&str> = lines.iter().map(|line| line["timestamp"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    for service in SERVICES {
        let own = || lines.iter().filter(|line| line["service"] == service);
        assert!(own().any(|line| line["message"] == "ready"), "{service}");
        assert_eq!(
            own().filter(|line| line["message"] == "stopped").count(),
            1,
            "{service} says it once"
        );
    }
    let one = world.works(&["services", "logs", "llm", "--grep", "READY"]);
    assert!(one.lines().count() == 1 && one.contains("llm"), "{one}");
}
