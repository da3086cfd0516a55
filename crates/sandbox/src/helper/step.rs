//! Failures that name the step that failed.

use std::io;

use crate::report::Failed;

pub type Result<T> = std::result::Result<T, Failed>;

pub fn failed(step: &str, why: impl Into<String>, hint: &str) -> Failed {
    Failed {
        step: step.into(),
        why: why.into(),
        errno: 0,
        hint: hint.into(),
    }
}

/// Names what a system call was made for.
pub trait Step<T> {
    fn step(self, step: &str, hint: &str) -> Result<T>;
    /// As `step`, with what it was made on.
    fn on(self, step: &str, what: impl std::fmt::Display, hint: &str) -> Result<T>;
}

impl<T, E: Into<io::Error>> Step<T> for std::result::Result<T, E> {
    fn step(self, step: &str, hint: &str) -> Result<T> {
        self.map_err(|error| {
            let error: io::Error = error.into();
            Failed {
                errno: error.raw_os_error().unwrap_or(0),
                ..failed(step, error.to_string(), hint)
            }
        })
    }

    fn on(self, step: &str, what: impl std::fmt::Display, hint: &str) -> Result<T> {
        self.step(step, hint).map_err(|failed| Failed {
            why: format!("{what}: {}", failed.why),
            ..failed
        })
    }
}

pub const USERNS_HINT: &str = "user namespaces must be allowed: sysctl user.max_user_namespaces > 0, \
    kernel.unprivileged_userns_clone = 1 (Debian), kernel.apparmor_restrict_unprivileged_userns = 0 or an AppArmor \
    profile for nexus-sandbox (Ubuntu); in a container, its seccomp profile must allow unshare and mount";
