//! A socket that the init system created and whose file is gone: only the init system can create it again.

use std::{path::Path, process::Stdio};

/// The service unit of systemd that this process is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Without its suffix.
    name: String,
    /// One of a user's own.
    user: bool,
}

pub(crate) fn unit() -> Option<Unit> {
    Unit::of(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

impl Unit {
    fn of(cgroup: &str) -> Option<Unit> {
        let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
        let name = path.rsplit('/').find_map(|part| part.strip_suffix(".service"))?;
        name.starts_with("nexus-").then(|| Unit {
            name: name.to_owned(),
            user: path.contains("/user@"),
        })
    }

    /// Asks systemd to restart the socket and this service, without waiting for it. Returns what to say until then, and
    /// if it does not help.
    pub fn restart(&self, path: &Path) -> String {
        let units = [format!("{}.socket", self.name), format!("{}.service", self.name)];
        let scope: &[&str] = if self.user { &["--user"] } else { &[] };
        let asked = std::process::Command::new("systemctl")
            .args(scope)
            .args(["--no-block", "--no-ask-password", "restart"])
            .args(&units)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match asked {
            Ok(mut child) => {
                tracing::warn!(
                    unit = self.name,
                    "the socket file is gone, systemd is asked to restart socket and service"
                );
                // It ends at once; without the wait a zombie would stay.
                std::thread::spawn(move || child.wait());
            }
            Err(error) => tracing::warn!(%error, "the socket file is gone, and systemctl cannot be asked"),
        }
        let (path, scope, units) = (path.display(), scope.concat(), units.join(" "));
        let command = ["systemctl", &scope, "restart", &units];
        let command: Vec<&str> = command.into_iter().filter(|word| !word.is_empty()).collect();
        format!(
            "{path} is gone and systemd holds its socket; restart both with: {}",
            command.join(" ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(cgroup: &str) -> Option<(String, bool)> {
        Unit::of(cgroup).map(|unit| (unit.name, unit.user))
    }

    #[test]
    fn the_unit_is_read_from_the_cgroup() {
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/nexus-llm.service\n";
        assert_eq!(unit(user), Some(("nexus-llm".into(), true)));
        let system = "0::/system.slice/system-nexus\\x2dagent.slice/nexus-agent@assistant.service\n";
        assert_eq!(unit(system), Some(("nexus-agent@assistant".into(), false)));
        assert_eq!(unit("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(unit("0::/system.slice/ssh.service\n"), None);
    }
}
