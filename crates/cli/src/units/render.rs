//! Adapts a checked-in unit to one installation: its paths, and only settings that this systemd knows.
//!
//! It changes words and whole lines, and knows no more of a unit than where a path may stand.

use std::path::Path;

use super::{
    Installation, Scope,
    escape::{Unwritable, plain, word},
};

/// The paths of a package, as the checked-in units have them.
const BIN: &str = "/usr/bin/";
const SOCKET: &str = "/tmp/baaaht-grpc.sock";
const SYSTEM_ROOT: &str = "/var/lib/nexus";
const USER_ROOT: &str = "%h/nexus";

pub fn unit(text: &str, here: &Installation, version: u32) -> Result<String, Unwritable> {
    let paths = Paths::new(here)?;
    let mut out = String::from("# Written by `nexus services install`, and overwritten by the next one.\n");
    out.push_str("# What is to stay belongs in a file of its own: systemctl edit.\n");
    let (_, body) = text.split_once("[Unit]\n").unwrap_or_default();
    out.push_str("[Unit]\n");
    for line in body.lines() {
        let line = match line.strip_prefix("#since ").and_then(|rest| rest.split_once(": ")) {
            Some((since, line)) if since.parse().is_ok_and(|since: u32| since <= version) => line,
            Some(_) => continue,
            None => line,
        };
        for line in paths.line(line) {
            out.push_str(&line);
            out.push('\n');
        }
    }
    Ok(out)
}

/// For `sysusers.d` and `tmpfiles.d`, which are the system's alone.
pub fn table(text: &str, here: &Installation) -> Result<String, Unwritable> {
    let root = plain(&here.root)?;
    let mut out = String::new();
    for line in text.lines() {
        let words = line.split(' ').map(|found| match found.strip_prefix(SYSTEM_ROOT) {
            Some(rest) if !line.starts_with('#') => word(&format!("{root}{rest}")),
            _ => found.to_owned(),
        });
        out.push_str(&words.collect::<Vec<_>>().join(" "));
        out.push('\n');
    }
    Ok(out)
}

struct Paths {
    bin: String,
    root: String,
    default_root: &'static str,
    socket: String,
    told: bool,
    /// The system's own place for state: systemd makes it, and nothing more need be said.
    usual: bool,
}

impl Paths {
    fn new(here: &Installation) -> Result<Paths, Unwritable> {
        let default_root = match here.scope {
            Scope::User => USER_ROOT,
            Scope::System => SYSTEM_ROOT,
        };
        Ok(Paths {
            bin: plain(&here.bin)?,
            root: plain(&here.root)?,
            default_root,
            socket: plain(&here.socket)?,
            told: here.told,
            usual: here.root == Path::new(SYSTEM_ROOT),
        })
    }

    fn line(&self, line: &str) -> Vec<String> {
        let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else {
            return vec![line.to_owned()];
        };
        let one = |value: String| vec![format!("{key}={value}")];
        match key {
            "ExecStart" | "ExecStartPre" => {
                let words = value
                    .split(' ')
                    .map(|found| self.here(found).map_or(found.to_owned(), |w| word(&w)));
                one(words.collect::<Vec<_>>().join(" "))
            }
            "Environment" => match value.strip_prefix("NEXUS_ROOT=") {
                Some(_) => {
                    let mut lines = one(word(&format!("NEXUS_ROOT={}", self.root)));
                    if self.told {
                        lines.extend(one(word(&format!("GRPC_SOCKET_PATH={}", self.socket))));
                    }
                    lines
                }
                None => vec![line.to_owned()],
            },
            "StateDirectory" if !self.usual => vec![format!("ReadWritePaths={}", word(&self.root))],
            "StateDirectoryMode" if !self.usual => vec![],
            "ListenStream" | "WorkingDirectory" => one(self.here(value).unwrap_or_else(|| value.to_owned())),
            _ => vec![line.to_owned()],
        }
    }

    /// A path of a package as it is here; `None` if it is no such path.
    fn here(&self, found: &str) -> Option<String> {
        if found == SOCKET {
            return Some(self.socket.clone());
        }
        if let Some(rest) = found.strip_prefix(BIN) {
            return Some(format!("{}/{rest}", self.bin));
        }
        let rest = found.strip_prefix(self.default_root)?;
        Some(format!("{}{rest}", self.root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::files::{SYSUSERS, TABLE, TMPFILES};

    fn odd(scope: Scope) -> Installation {
        Installation {
            scope,
            bin: "/opt/my nexus/bin".into(),
            root: "/srv/50% \"n\"".into(),
            socket: "/run/n x/grpc.sock".into(),
            told: false,
        }
    }

    fn plain_one(scope: Scope) -> Installation {
        Installation {
            bin: "/b".into(),
            root: "/r".into(),
            socket: "/s".into(),
            ..odd(scope)
        }
    }

    #[test]
    fn no_path_of_the_package_is_left() {
        for scope in [Scope::User, Scope::System] {
            for file in TABLE.iter().flat_map(|entry| entry.files()) {
                let text = unit(file.text(scope), &plain_one(scope), 999).unwrap();
                for line in text.lines().filter(|line| !line.starts_with('#')) {
                    for path in [BIN, SOCKET, SYSTEM_ROOT, USER_ROOT] {
                        assert!(!line.contains(path), "{} {scope:?}: {line}", file.name);
                    }
                }
            }
        }
    }

    #[test]
    fn odd_paths_are_quoted_as_each_key_wants() {
        let text = |index: usize, file: usize| {
            let entry = &TABLE[index];
            unit(entry.files()[file].text(Scope::User), &odd(Scope::User), 252).unwrap()
        };
        let has = |text: &str, line: &str| assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        has(&text(0, 0), r#"ExecStart="/opt/my nexus/bin/nexus-orchestrator""#);
        has(&text(0, 0), r#"Environment="NEXUS_ROOT=/srv/50%% \"n\"""#);
        has(&text(0, 1), "ListenStream=/run/n x/grpc.sock");
        has(&text(2, 1), r#"ListenStream=/srv/50%% "n"/state/run/agent-%i.sock"#);
        let claim =
            r#"ExecStartPre="/opt/my nexus/bin/nexus" services claim "/srv/50%% \"n\"/state/run/agent-%i.sock""#;
        has(&text(2, 1), claim);
    }

    #[test]
    fn only_what_this_systemd_knows_is_taken_in() {
        let text = TABLE[0].daemon.text(Scope::User);
        let old = unit(text, &plain_one(Scope::User), 252).unwrap();
        let new = unit(text, &plain_one(Scope::User), 254).unwrap();
        assert!(!old.contains("RestartSteps") && !old.contains("#since"), "{old}");
        assert!(
            new.contains("\nRestartSteps=6\n") && new.contains("\nType=notify-reload\n"),
            "{new}"
        );
    }

    #[test]
    fn another_root_of_the_system_is_made_writable_and_kept_in_the_tables() {
        let here = Installation {
            root: "/srv/nexus".into(),
            ..plain_one(Scope::System)
        };
        let text = unit(TABLE[0].daemon.text(Scope::System), &here, 252).unwrap();
        assert!(
            text.contains("\nReadWritePaths=/srv/nexus\n") && !text.contains("StateDirectory"),
            "{text}"
        );
        assert!(
            table(TMPFILES, &here)
                .unwrap()
                .contains("\nd /srv/nexus/state/run 0700 nexus nexus\n")
        );
        assert!(table(SYSUSERS, &here).unwrap().contains("\"Nexus\" /srv/nexus\n"));
    }

    #[test]
    fn a_socket_from_the_command_line_is_told_to_the_daemon() {
        let here = Installation {
            told: true,
            ..plain_one(Scope::User)
        };
        let text = unit(TABLE[1].daemon.text(Scope::User), &here, 252).unwrap();
        assert!(text.contains("\nEnvironment=GRPC_SOCKET_PATH=/s\n"), "{text}");
    }
}
