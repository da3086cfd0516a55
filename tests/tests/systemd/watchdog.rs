//! A daemon that hangs is noticed, ended and started again; one that works is left alone.

use nix::sys::signal::Signal;

use crate::container::{Container, Who};

const UNIT: &str = "nexus-llm.service";

#[test]
fn a_hung_daemon_is_replaced() {
    let Some(container) = Container::boot("watchdog::a_hung_daemon_is_replaced") else {
        return;
    };
    container.run(Who::Ada, "nexus services install");
    container.amend(UNIT, "[Service]\nWatchdogSec=3\n");
    container.run(Who::Ada, &format!("systemctl --user restart {UNIT}"));
    let pid = container.pid(Who::Ada, UNIT);

    // It is fed again and again, by a daemon that answers itself.
    let fed = || container.property(Who::Ada, UNIT, "WatchdogTimestampMonotonic");
    for _ in 0..2 {
        let last = fed();
        container.until("the watchdog is fed", |_| fed() != last);
    }
    assert_eq!(container.pid(Who::Ada, UNIT), pid);

    let stop = Signal::SIGSTOP as i32;
    container.run(Who::Ada, &format!("kill -{stop} {pid}"));
    container.until("another one serves", |container| {
        ![0, pid].contains(&container.pid(Who::Ada, UNIT)) && container.is_active(Who::Ada, UNIT)
    });
    assert_eq!(container.property(Who::Ada, UNIT, "NRestarts"), "1");
    let journal = container.journal();
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    assert!(!container.run(Who::Ada, "nexus chat hello").is_empty());
}
