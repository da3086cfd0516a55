//! Two versions side by side, and systemd restarts the services from the one that is switched to.

use crate::container::{Container, Who};

const HOME: &str = "/home/ada/.local/lib/nexus";
const NEXUS: &str = "/home/ada/.local/lib/nexus/current/bin/nexus";

/// A version whose programs are those under test: the folder that they lie in, seen at another place.
fn version(container: &Container, build: &str) {
    let folder = format!("{HOME}/versions/0.1.0+{build}");
    container.run(Who::Ada, &format!("mkdir -p '{folder}/bin'"));
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let about = format!(r#"{{"schema":1,"version":"0.1.0+{build}","target":"linux-{arch}"}}"#);
    container.write(&format!("{folder}/release.json"), &about);
    container.write(
        &format!("{folder}/SHA256SUMS"),
        &format!("{}  release.json\n", "0".repeat(64)),
    );
    container.run(Who::Root, &format!("mount --bind /usr/local/bin '{folder}/bin'"));
}

#[test]
fn systemd_restarts_everything_from_the_version_that_is_switched_to() {
    let Some(container) = Container::boot("upgrade::systemd_restarts_everything_from_the_version_that_is_switched_to")
    else {
        return;
    };
    version(&container, "a");
    version(&container, "b");
    container.run(
        Who::Ada,
        &format!("cd {HOME} && ln -s versions/0.1.0+a current && ln -s versions/0.1.0+b previous"),
    );
    container.run(Who::Ada, &format!("{NEXUS} services install"));
    let unit = container.run(Who::Ada, "systemctl --user cat nexus-llm.service");
    assert!(
        unit.contains(&format!("ExecStart={HOME}/current/bin/nexus-llm")),
        "{unit}"
    );

    for build in ["b", "a"] {
        let said = container.run(Who::Ada, &format!("{NEXUS} upgrade --rollback --json"));
        assert!(said.contains("\"upgraded\""), "{said}");
        for unit in [
            "nexus-orchestrator",
            "nexus-llm",
            "nexus-agent@assistant",
            "nexus-agent@worker",
            "nexus-gateway",
        ] {
            let pid = container.property(Who::Ada, &format!("{unit}.service"), "MainPID");
            let program = container.run(Who::Root, &format!("readlink /proc/{pid}/exe"));
            assert!(
                program.starts_with(&format!("{HOME}/versions/0.1.0+{build}/bin/")),
                "{unit}: {program}"
            );
        }
        container.run(Who::Ada, &format!("{NEXUS} services status"));
        container.run(Who::Ada, &format!("{NEXUS} chat hello"));
    }
}
