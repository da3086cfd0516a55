//! Which calls of a session may run beside each other. Locks are granted in the order in which the calls were asked for.

use nexus_proto::orchestrator::v1::CallState;

use super::{AT_ONCE, Call, Calls};

/// What a call holds while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Reads; of a named file it sees what calls before it wrote there.
    Read(Option<String>),
    /// Writes these files.
    Write(Vec<String>),
    /// Runs a command, which may read and write anything in the workspace.
    Exec,
    /// Runs alone.
    Alone,
}

impl Lock {
    fn conflicts(&self, other: &Lock) -> bool {
        use Lock::{Alone, Exec, Read, Write};
        match (self, other) {
            (Alone, _) | (_, Alone) | (Exec, Write(_)) | (Write(_), Exec) => true,
            (Read(_), Read(_) | Exec) | (Exec, Read(_) | Exec) => false,
            (Read(read), Write(written)) | (Write(written), Read(read)) => {
                read.as_ref().is_some_and(|read| written.contains(read))
            }
            (Write(one), Write(other)) => one.iter().any(|path| other.contains(path)),
        }
    }
}

impl Calls {
    /// Whether an allowed call may start now. A call that waits for an approval holds nothing and stops nobody; one that
    /// runs holds its lock whenever it was asked for; one that is allowed is waited for by those asked for after it.
    pub(super) fn may_start(&self, call: &Call) -> bool {
        let mut out = 0;
        for other in self.open_of(call.session).filter(|other| other.key != call.key) {
            out += usize::from(other.is_out());
            let holds = other.is_out() || (other.state() == CallState::Allowed && other.key < call.key);
            if holds && other.lock.conflicts(&call.lock) {
                return false;
            }
        }
        out < AT_ONCE
    }
}

/// A path without `.`, `..` and doubled slashes, from the workspace's root: two names of one file are one lock.
pub fn plain_path(path: &str) -> String {
    let path = path.strip_prefix("/workspace").unwrap_or(path);
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_conflict_as_the_order_of_effects_needs() {
        let write = |path: &str| Lock::Write(vec![plain_path(path)]);
        let read = |path: &str| Lock::Read(Some(plain_path(path)));
        assert!(write("a").conflicts(&write("./x/../a")), "one file, two names");
        assert!(!write("a").conflicts(&write("b")));
        assert!(write("a").conflicts(&Lock::Exec) && Lock::Exec.conflicts(&write("a")));
        assert!(!Lock::Exec.conflicts(&Lock::Exec));
        assert!(!read("a").conflicts(&Lock::Exec) && !Lock::Read(None).conflicts(&write("a")));
        assert!(read("/workspace/a").conflicts(&write("a")) && !read("b").conflicts(&write("a")));
        assert!(Lock::Alone.conflicts(&Lock::Read(None)) && Lock::Exec.conflicts(&Lock::Alone));
    }

    #[test]
    fn a_path_never_leaves_the_workspace() {
        assert_eq!(plain_path("../../etc//passwd"), "etc/passwd");
        assert_eq!(plain_path("/workspace/src/./main.rs"), "src/main.rs");
    }
}
