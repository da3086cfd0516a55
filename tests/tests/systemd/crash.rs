//! A crash is followed by a start, and a crash loop by an end.

use std::time::Instant;

use crate::container::{Container, Who};

#[test]
fn a_killed_daemon_serves_again() {
    let Some(container) = Container::boot("crash::a_killed_daemon_serves_again") else {
        return;
    };
    container.run(Who::Ada, "nexus services install");
    for service in [
        "nexus-orchestrator",
        "nexus-llm",
        "nexus-agent@assistant",
        "nexus-agent@worker",
        "nexus-gateway",
    ] {
        let unit = format!("{service}.service");
        let pid = container.pid(Who::Ada, &unit);
        let killed = Instant::now();
        container.run(Who::Ada, &format!("kill -9 {pid}"));
        container.until("another one serves", |container| {
            ![0, pid].contains(&container.pid(Who::Ada, &unit)) && container.is_active(Who::Ada, &unit)
        });
        println!("{service}: ready {} ms after kill -9", killed.elapsed().as_millis());
        assert!(container.is_active(Who::Ada, &format!("{service}.socket")));
    }
    assert!(!container.run(Who::Ada, "nexus chat hello").is_empty());
}

#[test]
fn a_crash_loop_is_stopped() {
    let Some(container) = Container::boot("crash::a_crash_loop_is_stopped") else {
        return;
    };
    container.run(Who::Ada, "nexus services install");
    let (unit, socket) = ("nexus-llm.service", "nexus-llm.socket");
    container.amend(
        unit,
        "[Service]\nExecStart=\nExecStart=/bin/sh -c 'kill -9 $$$$'\nRestartSec=10ms\n",
    );
    let pid = container.pid(Who::Ada, unit);
    container.run(Who::Ada, &format!("kill -9 {pid}"));
    container.until("it is given up", |container| {
        container.property(Who::Ada, unit, "ActiveState") == "failed"
    });
    container.until("its socket too, so that callers are refused at once", |container| {
        !container.is_active(Who::Ada, socket)
    });
    let restarts: u32 = container.property(Who::Ada, unit, "NRestarts").parse().unwrap();
    // The last of them is the one that was refused.
    assert!((1..=11).contains(&restarts), "{restarts}");
    assert!(!container.path("/home/ada/nexus/state/run/llm.sock").exists());
    assert!(
        container.is_active(Who::Ada, "nexus-orchestrator.service"),
        "the others go on"
    );

    // The cause gone, one command brings it back.
    container.run(
        Who::Ada,
        &format!("rm -r ~/.config/systemd/user/{unit}.d && systemctl --user daemon-reload"),
    );
    container.run(Who::Ada, "nexus services install llm");
    assert!(!container.run(Who::Ada, "nexus chat hello").is_empty());
}
