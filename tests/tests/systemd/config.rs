//! A wrong config is said once and not tried again, whoever knocks.

use crate::container::{Container, Who};

const CONFIG: &str = "/home/ada/nexus/state/nexus/config.toml";

#[test]
fn a_wrong_config_is_not_tried_again() {
    let Some(container) = Container::boot("config::a_wrong_config_is_not_tried_again") else {
        return;
    };
    container.run(Who::Ada, "nexus services install");
    let (unit, socket) = ("nexus-llm.service", "nexus-llm.socket");
    container.run(Who::Ada, &format!("printf '[llm]\\nno_such_key = 1\\n' > {CONFIG}"));
    let output = container.try_run(Who::Ada, &format!("systemctl --user restart {unit}"));
    assert!(!output.status.success(), "the start fails");
    container.until("it has failed", |container| {
        container.property(Who::Ada, unit, "ActiveState") == "failed"
    });
    container.until("nobody can knock", |container| !container.is_active(Who::Ada, socket));
    assert_eq!(container.property(Who::Ada, unit, "ExecMainStatus"), "78");
    assert_eq!(container.property(Who::Ada, unit, "Result"), "exit-code");
    assert_eq!(container.property(Who::Ada, unit, "NRestarts"), "0");
    let journal = container.journal();
    assert!(journal.contains("no_such_key"), "the mistake is named:\n{journal}");

    container.run(Who::Ada, &format!("rm {CONFIG}"));
    container.run(Who::Ada, "nexus services install llm");
    assert!(!container.run(Who::Ada, "nexus chat hello").is_empty());
}

#[test]
fn a_socket_in_use_is_not_taken_away() {
    let Some(container) = Container::boot("config::a_socket_in_use_is_not_taken_away") else {
        return;
    };
    container.run(Who::Ada, "nexus up");
    let output = container.try_run(Who::Ada, "nexus services install");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("outside systemd"), "{said}");
    assert!(!container.path("/home/ada/.config/systemd/user/nexus.target").exists());

    container.run(Who::Ada, "nexus down");

    // Not even by a unit that is started past us.
    container.run(Who::Ada, "nexus services install --no-start");
    container.run(
        Who::Ada,
        "setsid nexus-orchestrator >/dev/null 2>&1 & echo $! > /tmp/pid",
    );
    let socket = container.path("/tmp/baaaht-grpc.sock");
    container.until("it listens", |_| {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    let output = container.try_run(Who::Ada, "systemctl --user start nexus-orchestrator.socket");
    assert!(!output.status.success(), "systemd must not take it over");
    assert!(
        container.journal().contains("is in use by nexus-orchest"),
        "{}",
        container.journal()
    );
    container.run(Who::Ada, "nexus sessions list");
    container.run(Who::Ada, "kill $(cat /tmp/pid)");
}
