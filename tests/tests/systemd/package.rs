//! The Debian package under a real systemd: installed, running, and purged without a trace.

use crate::{
    container::{Container, Who},
    made::package,
};

fn traces(container: &Container) -> String {
    container.run(
        Who::Root,
        "find / -xdev -iname '*nexus*' -not -path '/proc/*' -not -path '/usr/local/bin/*' -not -path '/run/*' \
         -not -path '/etc/nexus-test-tree' | sort; getent passwd nexus || true",
    )
}

#[test]
fn it_installs_runs_and_is_purged() {
    let Some(container) = Container::boot("package::it_installs_runs_and_is_purged") else {
        return;
    };
    let before = traces(&container);
    std::fs::copy(package(".deb"), container.path("/root/package.deb")).unwrap();
    container.run(Who::Root, "dpkg --install /root/package.deb");
    assert_eq!(
        container.run(Who::Root, "dpkg --verify nexus"),
        "",
        "every file is as it was packed"
    );

    container.run(Who::Root, "systemctl enable --now nexus.target");
    let units = [
        "nexus-orchestrator",
        "nexus-llm",
        "nexus-agent@assistant",
        "nexus-agent@worker",
        "nexus-gateway",
    ];
    for unit in units {
        container.until("it is ready", |container| {
            container.is_active(Who::Root, &format!("{unit}.service"))
        });
    }
    assert!(
        !container
            .run(Who::Root, "/usr/bin/nexus --root /var/lib/nexus chat hello")
            .is_empty()
    );
    // A user takes the same units for herself, once the host has none of its own.
    container.run(
        Who::Root,
        "systemctl disable --now nexus.target && systemctl stop 'nexus-*'",
    );
    container.run(
        Who::Ada,
        "systemctl --user daemon-reload && systemctl --user enable --now nexus.target",
    );
    for unit in units {
        container.until("it is ready", |container| {
            container.is_active(Who::Ada, &format!("{unit}.service"))
        });
    }
    assert!(!container.run(Who::Ada, "/usr/bin/nexus chat hello").is_empty());
    container.run(
        Who::Ada,
        "systemctl --user disable --now nexus.target && rm -r ~/nexus ~/.config",
    );

    container.run(Who::Root, "systemctl enable --now nexus.target && dpkg --purge nexus");
    assert_eq!(traces(&container), before);
    let units = container.run(Who::Root, "systemctl list-units --all --plain --no-legend 'nexus*'");
    assert_eq!(units, "");
}
