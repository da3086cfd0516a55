//! Who runs with a setting that was changed, and telling those that can apply it at once.

use nexus_config::Described;
use nix::sys::signal::Signal;
use serde::Serialize;

use super::catalogue::Catalogue;
use crate::{context::Context, failure::Failure, running};

/// A running daemon that reads what was changed.
#[derive(Debug, Serialize)]
pub struct Notified {
    pub service: String,
    pub pid: i32,
    pub applies: Applies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Applies {
    /// It was told to read its settings again.
    Live,
    Restart,
    /// Changed settings are not for it: it could not be told.
    Unreached,
}

/// Sends SIGHUP to the daemons of this tree that read one of these settings and apply it live.
pub async fn tell(context: &Context, catalogue: &Catalogue, changed: &[&Described]) -> Result<Vec<Notified>, Failure> {
    let mut told = Vec::new();
    for running::Running { service, peer } in running::running(context).await? {
        let concerned = |setting: &&&Described| {
            let name = Some(setting.name());
            let lends = catalogue.settings.iter().any(|other| other.borrows == name);
            setting.section == "common" || lends || is_of(&service, &setting.section)
        };
        let changed: Vec<&&Described> = changed.iter().filter(concerned).collect();
        if changed.is_empty() {
            continue;
        }
        let live = changed.iter().any(|setting| setting.live);
        let (pid, is_daemon) = (peer.pid, peer.is_daemon());
        let reached = match peer.hold() {
            Ok(Some(held)) if live && is_daemon => held.signal(Signal::SIGHUP).unwrap_or(false),
            Ok(_) | Err(_) => false,
        };
        let applies = match (changed.iter().all(|setting| setting.live), reached) {
            (true, true) => Applies::Live,
            (true, false) => Applies::Unreached,
            (false, _) => Applies::Restart,
        };
        told.push(Notified { service, pid, applies });
    }
    Ok(told)
}

/// `agent-assistant` is one of `[agent]`.
fn is_of(service: &str, section: &str) -> bool {
    service
        .strip_prefix(section)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn instances_belong_to_their_section() {
        assert!(is_of("agent-assistant", "agent") && is_of("llm", "llm"));
        assert!(!is_of("agents", "agent") && !is_of("llm", "agent"));
    }
}
