//! Installed, everything runs and is ready; uninstalled, nothing is left.

use crate::container::{Container, Who};

const SERVICES: [&str; 5] = [
    "nexus-orchestrator",
    "nexus-llm",
    "nexus-agent@assistant",
    "nexus-agent@worker",
    "nexus-gateway",
];

/// Every file of Ada's but what the daemons keep, and every socket of ours.
fn traces(container: &Container) -> String {
    container.run(
        Who::Root,
        "find /home/ada /run/user/1000/systemd /etc/systemd /etc/sysusers.d /etc/tmpfiles.d /tmp -not -path '/home/ada/nexus*' \
         -not -path '*/systemd-private-*' -not -path '/run/user/1000/systemd/units/*' -not -name temporary-credentials | sort",
    )
}

#[test]
fn a_user_installs_talks_and_uninstalls() {
    let Some(container) = Container::boot("install::a_user_installs_talks_and_uninstalls") else {
        return;
    };
    let before = traces(&container);

    let said = container.run(Who::Ada, "nexus services install --dry-run");
    assert!(
        said.contains("write   /home/ada/.config/systemd/user/nexus-llm.service"),
        "{said}"
    );
    assert!(said.contains("run     systemctl --user daemon-reload"), "{said}");
    assert_eq!(traces(&container), before, "a dry run changes nothing");

    container.run(Who::Ada, "nexus services install");
    for service in SERVICES {
        for unit in [format!("{service}.service"), format!("{service}.socket")] {
            assert_eq!(container.property(Who::Ada, &unit, "ActiveState"), "active", "{unit}");
            assert_eq!(
                container.property(Who::Ada, &unit, "UnitFileState"),
                "enabled",
                "{unit}"
            );
        }
    }
    let said = container.run(Who::Ada, "nexus chat hello");
    assert!(!said.is_empty());
    // Once more: it is there, and stays as it is.
    let pid = container.property(Who::Ada, "nexus-llm.service", "MainPID");
    container.run(Who::Ada, "nexus services install");
    assert_eq!(container.property(Who::Ada, "nexus-llm.service", "MainPID"), pid);

    // The same commands as without systemd, and systemd does it.
    let state = |line: &str| {
        let output = container.try_run(Who::Ada, line);
        let snapshot: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let llm = snapshot["services"]
            .as_array()
            .unwrap()
            .iter()
            .find(|service| service["id"] == "llm")
            .unwrap();
        (llm["manager"].clone(), llm["state"].clone(), output.status.code())
    };
    let (systemd, ready, stopped) = ("systemd", "ready", "stopped");
    assert_eq!(
        state("nexus services status --json"),
        (systemd.into(), ready.into(), Some(0))
    );
    assert_eq!(
        state("nexus services stop llm --json"),
        (systemd.into(), stopped.into(), Some(0))
    );
    assert!(
        !container.is_active(Who::Ada, "nexus-llm.socket"),
        "or the next call would start it"
    );
    assert_eq!(state("nexus services status llm --json").2, Some(3));
    assert_eq!(
        state("nexus services start llm --json"),
        (systemd.into(), ready.into(), Some(0))
    );
    let pid = container.pid(Who::Ada, "nexus-llm.service");
    assert_eq!(
        state("nexus services restart llm --json"),
        (systemd.into(), ready.into(), Some(0))
    );
    assert_ne!(container.pid(Who::Ada, "nexus-llm.service"), pid);
    container.run(Who::Ada, "nexus down");
    assert!(!container.is_active(Who::Ada, "nexus-orchestrator.service"));
    container.run(Who::Ada, "nexus up");
    assert!(!container.run(Who::Ada, "nexus chat again").is_empty());

    container.run(Who::Ada, "nexus services uninstall");
    assert_eq!(traces(&container), before);
    let units = container.run(
        Who::Ada,
        "systemctl --user list-units --all --plain --no-legend 'nexus*'",
    );
    assert_eq!(units, "");
    assert!(
        container.path("/home/ada/nexus/state/db/orchestrator.db").exists(),
        "what the daemons keep stays"
    );
    assert_eq!(
        container.run(Who::Ada, "nexus services uninstall"),
        "nothing was installed"
    );
}
