//! Checks what supervises the daemons: systemd, launchd, or our own supervisor.

use std::path::Path;

use nix::unistd::{User, geteuid};

use super::Finding;
use crate::{context::Context, running};

pub(super) async fn look(context: &Context) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match running::supervisor(context).await {
        Some(peer) => Finding::pass("managers.supervisor", format!("runs, pid {}", peer.pid)),
        None => Finding::skip("managers.supervisor", "does not run"),
    });
    findings.push(if cfg!(target_os = "macos") {
        Finding::pass("managers.launchd", "is there: nexus services install uses it")
    } else if Path::new("/run/systemd/system").is_dir() {
        systemd()
    } else {
        Finding::skip(
            "managers.systemd",
            "is not what runs this machine: nexus up supervises by itself",
        )
    });
    findings
}

fn systemd() -> Finding {
    let id = "managers.systemd";
    let user = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
    let Some(user) = user.filter(|_| !geteuid().is_root()) else {
        return Finding::pass(id, "runs this machine: nexus services install uses it");
    };
    if Path::new("/var/lib/systemd/linger").join(&user).exists() {
        return Finding::pass(
            id,
            format!("runs this machine, and {user}'s services go on after a logout"),
        );
    }
    Finding::warn(
        id,
        format!("ends {user}'s services at the last logout"),
        format!("loginctl enable-linger {user}, if they are to go on"),
    )
}
