//! Socket files that vanish, as programs that clean up `/tmp` make them.

use std::fs;

use nix::sys::signal::Signal;

use crate::world::{SERVICES, World, kill, until};

fn supervisors(world: &World) -> usize {
    let root = world.root().display().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(" supervise ") && line.contains(&root))
        .count()
}

#[test]
fn the_supervisors_own_socket_is_bound_again() {
    let world = World::forgiving();
    world.works(&["up"]);
    let (supervisor, daemons) = (world.supervisor(), SERVICES.map(|service| world.pid(service)));
    let socket = world.root().join("state/run/supervisor.sock");
    let lock = world.root().join("state/run/supervisor.sock.lock");
    for with_lock in [false, true] {
        fs::remove_file(&socket).unwrap();
        if with_lock {
            fs::remove_file(&lock).unwrap();
        }
        let pid = until("it answers again", || world.snapshot()["supervisor"]["pid"].as_i64());
        assert_eq!(pid, i64::from(supervisor));
        world.works(&["up"]);
        assert_eq!(SERVICES.map(|service| world.pid(service)), daemons);
    }
    // Whoever is quicker than the supervisor finds its daemons, and one supervisor is left.
    fs::remove_file(&socket).unwrap();
    fs::remove_file(&lock).unwrap();
    world.works(&["up"]);
    until("one supervisor is left", || (supervisors(&world) == 1).then_some(()));
    assert_eq!(SERVICES.map(|service| world.pid(service)), daemons);
    for service in SERVICES {
        assert_eq!(world.count(service), 1, "{service}");
    }
}

/// All commands see the same, say the same by their exit codes, and what they advise helps.
#[test]
fn a_daemon_whose_socket_file_is_gone_is_reported_alike_by_all() {
    let world = World::new("[cli]\nprobe_interval = \"50ms\"\nprobe_failures = 0\nstop_timeout = \"1s\"\n");
    world.works(&["up"]);
    // The folders of this test are open to all, which is another matter.
    world.run(&["doctor", "--fix"]);
    let code = |args: &[&str]| world.run(args).status.code();
    let all: [&[&str]; 4] = [
        &["status"],
        &["services", "status"],
        &["doctor"],
        &["up", "--wait", "1s"],
    ];
    for args in all {
        assert_eq!(code(args), Some(0), "{args:?}");
    }
    // Stopped, so that it cannot help itself.
    kill(world.pid("gateway"), Signal::SIGSTOP);
    fs::remove_file(world.socket("gateway")).unwrap();
    until("the supervisor has seen it", || {
        (world.service("gateway")["state"] == "unhealthy").then_some(())
    });
    for args in all {
        let done = world.run(args);
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        assert_eq!(done.status.code(), Some(1), "{args:?}: {said}");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("gateway.sock is gone"), "{args:?}: {said}");
        assert!(said.contains("nexus services restart gateway"), "{args:?}: {said}");
    }
    world.works(&["services", "restart", "gateway"]);
    for args in all {
        assert_eq!(code(args), Some(0), "{args:?}");
    }
}
