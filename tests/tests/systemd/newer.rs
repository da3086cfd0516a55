//! What only a newer systemd offers is used there, and nowhere else.

use crate::container::{Container, NEW, OLD, Who};

const UNIT: &str = "nexus-orchestrator.service";

#[test]
fn pauses_grow_where_systemd_can_let_them() {
    let Some(container) = Container::boot_tree("newer::pauses_grow_where_systemd_can_let_them", NEW) else {
        return;
    };
    container.run(Who::Ada, "nexus services install");
    assert_eq!(container.property(Who::Ada, UNIT, "RestartSteps"), "6");
    assert_eq!(container.property(Who::Ada, UNIT, "Type"), "notify-reload");
    let group = container.property(Who::Ada, UNIT, "ControlGroup");
    let pid = container.pid(Who::Ada, UNIT);
    let place = container.run(Who::Root, &format!("cat /proc/{pid}/cgroup"));
    assert!(place.contains(&format!("{group}/daemon")), "{place}");
    assert!(!container.run(Who::Ada, "nexus chat hello").is_empty());
    // A reload is waited for.
    container.run(Who::Ada, &format!("systemctl --user reload {UNIT}"));
    assert!(container.is_active(Who::Ada, UNIT));
    assert_eq!(container.pid(Who::Ada, UNIT), pid);
    container.run(Who::Ada, "nexus services uninstall");
}

#[test]
fn an_older_systemd_is_told_nothing_it_does_not_know() {
    let Some(container) = Container::boot_tree("newer::an_older_systemd_is_told_nothing_it_does_not_know", OLD) else {
        return;
    };
    container.run(Who::Ada, "nexus services install");
    let journal = container.journal();
    assert!(!journal.contains("Unknown key"), "{journal}");
    container.run(Who::Ada, &format!("systemctl --user reload {UNIT}"));
    assert!(container.is_active(Who::Ada, UNIT));
}
