//! Units of the whole host: who may call, what the hardening leaves whole, and that nothing stays behind.

use crate::container::{Container, Who};

const SESSIONS: &str = "nexus sessions list --json";

fn traces(container: &Container) -> String {
    container.run(
        Who::Root,
        "find /etc/systemd /etc/sysusers.d /etc/tmpfiles.d /tmp -not -path '*/systemd-private-*' | sort",
    )
}

#[test]
fn the_whole_host_has_one() {
    let Some(container) = Container::boot("system::the_whole_host_has_one") else {
        return;
    };
    let before = traces(&container);
    let output = container.try_run(Who::Ada, "nexus services install --system");
    assert!(!output.status.success(), "an ordinary user may not");
    container.write("/etc/credstore/nexus.anthropic", "sk-canary-51c9");
    container.run(Who::Root, "chmod 600 /etc/credstore/nexus.anthropic");
    container.run(Who::Root, "nexus services install --system");

    // Root is its administrator, on the default socket; the daemons find each other.
    assert!(!container.run(Who::Root, "nexus chat hello").is_empty());
    // Members of the group are users, and see what is theirs.
    container.run(Who::Root, "usermod --append --groups nexus ada");
    assert_eq!(count(&container.run(Who::Root, SESSIONS)), 1);
    assert_eq!(count(&container.run(Who::Ada, SESSIONS)), 0);
    let output = container.try_run(Who::Bob, SESSIONS);
    assert!(!output.status.success(), "nobody else gets in");

    // A key reaches the one daemon that it is for, and nobody else.
    let pid = container.pid(Who::Root, "nexus-llm.service");
    let folder = "/run/credentials/nexus-llm.service";
    let path = format!("/proc/{pid}/root{folder}/nexus.anthropic");
    assert_eq!(container.run(Who::Root, &format!("cat {path}")), "sk-canary-51c9");
    let owner = container.run(Who::Root, &format!("stat -c '%a' {path}"));
    assert!(["400", "440"].contains(&owner.as_str()), "{owner}");
    let environment = container.run(Who::Root, &format!("tr '\\0' '\\n' < /proc/{pid}/environ"));
    assert!(
        environment.contains(folder) && !environment.contains("sk-canary"),
        "{environment}"
    );
    let output = container.try_run(Who::Ada, &format!("cat {path}"));
    assert!(!output.status.success());

    container.run(Who::Root, "nexus services uninstall --system");
    let after = traces(&container);
    let left: Vec<&str> = after
        .lines()
        .filter(|line| !before.lines().any(|was| was == *line))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(
        container.path("/var/lib/nexus/state/db/orchestrator.db").exists(),
        "what the daemons keep stays"
    );
}

fn count(json: &str) -> usize {
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    value["sessions"].as_array().unwrap().len()
}

/// What a sandbox is made of; each is tried on its own.
const PIECES: [(&str, &str); 6] = [
    ("a user namespace", "unshare --user --map-root-user true"),
    (
        "mounts",
        "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none /mnt && mount --rbind /etc /mnt'",
    ),
    (
        "processes",
        "unshare --user --map-root-user --pid --fork --mount --mount-proc sh -c '[ $$ = 1 ]'",
    ),
    ("a network", "unshare --user --map-root-user --net true"),
    ("a host name", "unshare --user --map-root-user --uts hostname box"),
    (
        "code made at run time",
        "perl -e 'syscall(9, 0, 4096, 7, 34, -1, 0) != -1 or exit 1'",
    ),
];

/// The same commands with and without what the units forbid.
#[test]
fn the_hardening_leaves_the_sandbox_whole() {
    let Some(container) = Container::boot("system::the_hardening_leaves_the_sandbox_whole") else {
        return;
    };
    let script = PIECES.map(|(what, line)| format!("{line} >/dev/null 2>&1 && echo '{what}'"));
    container.write(
        "/usr/local/lib/probe",
        &format!("#!/bin/sh\n{}\ntrue\n", script.join("\n")),
    );
    container.run(Who::Root, "chmod 755 /usr/local/lib/probe");
    container.run(Who::Root, "nexus services install --system --no-start");
    container.run(Who::Ada, "nexus services install --no-start");
    let probe = |out: &str| {
        format!(
            "[Unit]\nWants=\nAfter=\n[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecReload=\nExecStopPost=\n\
             ExecStart=\nExecStart=/usr/local/lib/probe\nStandardOutput=file:{out}\n"
        )
    };
    for unit in ["nexus-agent@probe.service", "nexus-orchestrator.service"] {
        let name = unit.trim_end_matches(".service");
        container.amend_system(unit, &probe(&format!("/var/log/{name}")));
        container.amend(unit, &probe(&format!("/home/ada/{name}")));
        container.run(Who::Root, &format!("systemctl start {unit}"));
        container.run(Who::Ada, &format!("systemctl --user start {unit}"));
        let free = container.run(
            Who::Root,
            "setpriv --reuid nexus --regid nexus --clear-groups /usr/local/lib/probe",
        );
        assert!(free.contains("mounts") && free.contains("code made"), "{free}");
        assert_eq!(
            container.run(Who::Root, &format!("cat /var/log/{name}")),
            free,
            "{unit} of the system"
        );
        let free = container.run(Who::Ada, "/usr/local/lib/probe");
        assert_eq!(
            container.run(Who::Ada, &format!("cat /home/ada/{name}")),
            free,
            "{unit} of a user"
        );
    }
    // The probe can fail: the daemons that run no commands are forbidden all of it.
    let unit = "nexus-llm.service";
    container.amend_system(unit, &probe("/var/log/llm"));
    container.run(Who::Root, &format!("systemctl start {unit}"));
    assert_eq!(container.run(Who::Root, "cat /var/log/llm"), "");
}
