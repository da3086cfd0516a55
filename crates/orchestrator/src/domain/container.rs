//! Containers of sessions: desired state, known state, and what follows from what the engine reports.
//!
//! ```text
//!  begin ──▶ Creating ──▶ Running ──▶ Exited ──▶ (gone)
//!               │           ▲  │                   ▲
//!               ▼           │  ▼                   │
//!            (gone)      Restarting            Removing ◀── its session ended, or it was asked for
//! ```
//!
//! A record is on disk before its engine is asked, and leaves after its engine forgot it: whatever is killed in between,
//! the record or the labels of the container tell what to do.

mod changes;
pub mod policy;

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_proto::common::v1::{Health, ResourceUsage, Status};
use nexus_proto::orchestrator::v1::{Container as Wire, ContainerConfig, ContainerFilter, ContainerState};

use super::event;
use super::sessions::View;
use super::{Error, Time, ids};
pub use policy::{Policy, check_reference, is_registry};

/// The backend that isolates nothing, and what everybody is told who sees a container of it.
pub const BARE: &str = "host-unsafe";
const BARE_NOTE: &str = "not isolated: it runs on the bare host, as orchestrator.container_backend says";

const FIRST_PAUSE: i64 = 1_000_000_000;
const LONGEST_PAUSE: i64 = 30_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Promised to nobody yet: its engine may know of it or not.
    Creating,
    Running,
    Paused,
    /// Ended, and to be started again at this time.
    Restarting {
        at: Time,
    },
    Exited,
    /// To be stopped and forgotten, whatever happens.
    Removing,
    /// Its engine does not know it any more.
    Lost,
}

#[derive(Clone, Debug)]
pub struct Container {
    pub key: u64,
    pub id: Arc<str>,
    pub session: u64,
    pub session_id: Arc<str>,
    /// Whose session it is.
    pub creator: Arc<str>,
    pub name: String,
    pub config: ContainerConfig,
    pub phase: Phase,
    /// Somebody stopped it: no policy starts it again.
    pub stopped: bool,
    /// The backend that has it, and what that calls it.
    pub engine: String,
    pub engine_id: String,
    pub unenforced: Vec<String>,
    pub created: Time,
    pub started: Option<Time>,
    pub exited: Option<Time>,
    pub exit_code: i32,
    pub oom: bool,
    pub restarts: i32,
    pub error: String,
    /// As last seen; not kept.
    pub usage: Option<ResourceUsage>,
    pub healthy: Option<bool>,
    /// The highest mark of memory that was told; not kept.
    pub mark: u32,
}

/// All containers that are known.
#[derive(Debug, Default)]
pub struct Containers {
    by_key: BTreeMap<u64, Container>,
}

impl Containers {
    pub fn get(&self, key: u64) -> Option<&Container> {
        self.by_key.get(&key)
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut Container> {
        self.by_key.get_mut(&key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Container> {
        self.by_key.values()
    }

    pub fn insert(&mut self, container: Container) {
        self.by_key.insert(container.key, container);
    }

    pub fn find(&self, id: &str, view: View<'_>) -> Result<&Container, Error> {
        if id.is_empty() {
            return Err(Error::Required("container_id"));
        }
        let found = ids::number(id).and_then(|key| self.by_key.get(&key));
        let found = found.filter(|one| *one.id == *id && one.phase != Phase::Creating);
        let found = found.filter(|one| match view {
            View::All => true,
            View::Own(principal) => *one.creator == *principal,
        });
        found.ok_or_else(|| Error::ContainerNotFound(id.into()))
    }

    pub fn of_session(&self, session: u64) -> impl Iterator<Item = &Container> {
        self.by_key.values().filter(move |one| one.session == session)
    }
}

impl Container {
    pub fn state(&self) -> ContainerState {
        match self.phase {
            Phase::Creating => ContainerState::Created,
            Phase::Running => ContainerState::Running,
            Phase::Paused => ContainerState::Paused,
            Phase::Restarting { .. } => ContainerState::Restarting,
            Phase::Exited => ContainerState::Exited,
            Phase::Removing => ContainerState::Removing,
            Phase::Lost => ContainerState::Unknown,
        }
    }

    pub fn status(&self) -> Status {
        match self.phase {
            Phase::Creating | Phase::Restarting { .. } => Status::Starting,
            Phase::Running | Phase::Paused => Status::Running,
            Phase::Exited if self.exit_code == 0 || self.stopped => Status::Stopped,
            Phase::Exited | Phase::Lost => Status::Error,
            Phase::Removing => Status::Stopping,
        }
    }

    fn health(&self) -> Health {
        match (self.phase, self.healthy) {
            (Phase::Running, Some(false)) => Health::Unhealthy,
            (Phase::Running, _) => Health::Healthy,
            (Phase::Restarting { .. } | Phase::Paused, _) => Health::Degraded,
            (Phase::Exited, _) if self.exit_code != 0 && !self.stopped => Health::Unhealthy,
            (Phase::Lost, _) => Health::Unhealthy,
            _ => Health::Unknown,
        }
    }

    /// Whether it takes a place of its session's.
    pub fn counts(&self) -> bool {
        !matches!(self.phase, Phase::Exited | Phase::Lost)
    }

    pub fn wire(&self) -> Wire {
        let stamp = event::timestamp;
        Wire {
            id: self.id.to_string(),
            name: self.name.clone(),
            image: self.config.image.clone(),
            state: self.state().into(),
            status: self.status().into(),
            health: self.health().into(),
            created_at: Some(stamp(self.created)),
            started_at: self.started.map(stamp),
            exited_at: self.exited.map(stamp),
            exit_code: self.exit_code,
            config: Some(self.config.clone()),
            resources: Some(self.usage.unwrap_or_default()),
            session_id: self.session_id.to_string(),
            unenforced_limits: self.unenforced.clone(),
            oom_killed: self.oom,
            restart_count: self.restarts,
            backend: self.engine.clone(),
            error: self.error.clone(),
            note: self.note().into(),
        }
    }

    /// What its user should know of it.
    fn note(&self) -> &'static str {
        if self.engine == BARE { BARE_NOTE } else { "" }
    }

    pub fn shows(&self, filter: &ContainerFilter) -> bool {
        let has = |(name, value): (&String, &String)| self.config.labels.get(name) == Some(value);
        (filter.session_id.is_empty() || filter.session_id == *self.session_id)
            && (filter.state == 0 || filter.state == i32::from(self.state()))
            && (filter.status == 0 || filter.status == i32::from(self.status()))
            && filter.labels.iter().all(has)
    }

    /// When its policy starts it again after this exit, if it does.
    fn again(&self, code: i32, now: Time) -> Option<Time> {
        let policy = self.config.restart_policy.as_ref()?;
        let wants = match policy.name.as_str() {
            "always" | "unless-stopped" => true,
            "on-failure" => code != 0,
            _ => false,
        };
        let left = policy.maximum_retry_count == 0 || self.restarts < policy.maximum_retry_count;
        if !wants || !left || self.stopped {
            return None;
        }
        Some(now.saturating_add(pause(self.restarts, policy.timeout_ns)))
    }
}

/// What an engine made of a container.
#[derive(Clone, Debug, Default)]
pub struct Made {
    pub engine: String,
    pub engine_id: String,
    pub unenforced: Vec<String>,
}

/// Before the next start. A container that ends at once must not keep its engine busy, whatever pause it asks for.
fn pause(restarts: i32, asked: i64) -> i64 {
    let doubled = FIRST_PAUSE.saturating_mul(1 << restarts.clamp(0, 20));
    doubled.min(LONGEST_PAUSE).max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attack: a container that ends at once and asks to be started again without a pause, for ever.
    #[test]
    fn a_restart_waits_a_second_at_least_and_longer_each_time() {
        const SECOND: i64 = 1_000_000_000;
        let pauses: Vec<i64> = (0..7).map(|restarts| pause(restarts, 1) / SECOND).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(i32::MAX, 0), LONGEST_PAUSE);
        assert_eq!(pause(0, 60 * SECOND), 60 * SECOND);
    }
}
