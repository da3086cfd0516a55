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

pub mod policy;

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_proto::common::v1::{Health, ResourceUsage, Status};
use nexus_proto::orchestrator::v1::{Container as Wire, ContainerConfig, ContainerFilter, ContainerState, Event};
use nexus_proto::words;

use super::event::{self, About, ORCHESTRATOR};
use super::sessions::{View, about};
use super::{Effect, Error, Fact, State, Step, Time, ids};
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

impl State {
    /// Notes what is to be made, before anybody makes it.
    pub fn begin_container(
        &mut self,
        step: &mut Step<'_>,
        session: u64,
        config: ContainerConfig,
        policy: &Policy,
    ) -> Result<u64, Error> {
        let found = self
            .sessions
            .get(session)
            .ok_or_else(|| super::sessions::session_not_found(session))?;
        if found.is_closed() {
            return Err(Error::SessionClosed {
                doing: "make a container in",
            });
        }
        let limit = |what, max, setting| Err(Error::Limit { what, max, setting });
        let own = self.containers.of_session(session).filter(|one| one.counts()).count();
        let max = policy.max_of_session(&found.config);
        if own >= max {
            return limit("containers of the session", max, "max_containers of the session");
        }
        if self.containers.iter().count() >= policy.max_containers {
            return limit("containers", policy.max_containers, "orchestrator.max_containers");
        }
        self.share_of_containers(session, &config)?;
        let (session_id, creator) = (found.id.clone(), found.creator.clone());
        let (key, id) = step.ids.keyed(step.now);
        let container = Container {
            key,
            name: format!("nexus-{id}"),
            id: id.into(),
            session,
            session_id,
            creator,
            config,
            phase: Phase::Creating,
            stopped: false,
            engine: String::new(),
            engine_id: String::new(),
            unenforced: Vec::new(),
            created: step.now,
            started: None,
            exited: None,
            exit_code: 0,
            oom: false,
            restarts: 0,
            error: String::new(),
            usage: None,
            healthy: None,
            mark: 0,
        };
        self.containers.insert(container);
        step.fact(Fact::Container(key));
        Ok(key)
    }

    /// It runs: made and started for the first time. False if its session ended meanwhile: it has to go.
    pub fn container_runs(&mut self, step: &mut Step<'_>, key: u64, made: Made) -> Result<bool, Error> {
        let closed = self.containers.get(key).is_none_or(|one| {
            one.phase == Phase::Removing
                || self
                    .sessions
                    .get(one.session)
                    .is_none_or(super::session::Session::is_closed)
        });
        if closed {
            return Ok(false);
        }
        let Some(one) = self.containers.get_mut(key) else {
            return Ok(false);
        };
        one.phase = Phase::Running;
        one.started = Some(step.now);
        (one.engine, one.engine_id, one.unenforced) = (made.engine, made.engine_id, made.unenforced);
        let bare = one.engine == BARE;
        self.tell_container(step, key, words::event::CONTAINER_CREATED, &[]);
        if bare {
            self.tell_container(step, key, words::event::CONTAINER_UNISOLATED, &[("reason", BARE_NOTE)]);
        }
        self.tell_container(step, key, words::event::CONTAINER_STARTED, &[]);
        if let Some(one) = self.containers.get(key)
            && let Some(session) = self.sessions.get_mut(one.session)
        {
            session.add_container(one.id.clone());
        }
        step.fact(Fact::Container(key));
        Ok(true)
    }

    /// It is started again.
    pub fn container_again(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(one) = self.containers.get_mut(key) else {
            return;
        };
        one.phase = Phase::Running;
        one.restarts += 1;
        one.started = Some(step.now);
        one.error.clear();
        let restarts = one.restarts.to_string();
        self.tell_container(
            step,
            key,
            words::event::CONTAINER_STARTED,
            &[("restart_count", &restarts)],
        );
        step.fact(Fact::Container(key));
    }

    /// Its engine says that it ended.
    pub fn container_ended(&mut self, step: &mut Step<'_>, key: u64, code: i32, oom: bool, at: Option<Time>) {
        let Some(one) = self.containers.get_mut(key) else {
            return;
        };
        if !matches!(one.phase, Phase::Running | Phase::Paused) {
            return;
        }
        step.grows = false;
        one.exited = Some(at.unwrap_or(step.now));
        (one.exit_code, one.oom, one.usage, one.mark) = (code, oom, None, 0);
        if oom {
            one.error = "memory limit exceeded".into();
        }
        one.phase = match one.again(code, step.now) {
            Some(at) => Phase::Restarting { at },
            None if one.config.remove_on_stop => Phase::Removing,
            None => Phase::Exited,
        };
        let (code, name) = (code.to_string(), if oom { "true" } else { "false" });
        let (stopped, limit) = (
            one.stopped,
            one.config.resources.unwrap_or_default().memory_bytes.to_string(),
        );
        self.tell_container(
            step,
            key,
            words::event::CONTAINER_STOPPED,
            &[("exit_code", &code), ("oom_killed", name)],
        );
        if oom {
            self.tell_container(
                step,
                key,
                words::event::CONTAINER_ERROR,
                &[("reason", "oom"), ("memory_limit", &limit)],
            );
        } else if code != "0" && !stopped {
            self.tell_container(
                step,
                key,
                words::event::CONTAINER_ERROR,
                &[("reason", "exit"), ("exit_code", &code)],
            );
        }
        step.fact(Fact::Container(key));
        step.effect(Effect::Containers);
    }

    /// Its engine does not know it, though it should.
    pub fn container_lost(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(one) = self.containers.get_mut(key) else {
            return;
        };
        step.grows = false;
        one.phase = Phase::Lost;
        one.exited = Some(step.now);
        one.error = format!("{} does not know it any more", one.engine);
        self.tell_container(step, key, words::event::CONTAINER_ERROR, &[("reason", "lost")]);
        step.fact(Fact::Container(key));
    }

    /// Its engine could not do what was wanted.
    pub fn container_failed(&mut self, step: &mut Step<'_>, key: u64, why: &str) {
        let Some(one) = self.containers.get_mut(key) else {
            return;
        };
        step.grows = false;
        one.phase = Phase::Exited;
        one.error = why.into();
        self.tell_container(step, key, words::event::CONTAINER_ERROR, &[("reason", why)]);
        step.fact(Fact::Container(key));
    }

    /// Somebody wants it stopped: no policy starts it again.
    pub fn stop_container(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(one) = self.containers.get_mut(key) else {
            return;
        };
        step.grows = false;
        one.stopped = true;
        if let Phase::Restarting { .. } = one.phase {
            one.phase = Phase::Exited;
        }
        step.fact(Fact::Container(key));
    }

    /// Somebody wants it gone.
    pub fn remove_container(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(one) = self.containers.get_mut(key) else {
            return;
        };
        step.grows = false;
        one.stopped = true;
        one.phase = Phase::Removing;
        step.fact(Fact::Container(key));
        step.effect(Effect::Containers);
    }

    /// Its engine has forgotten it; `why` if it never came to be.
    pub fn container_gone(&mut self, step: &mut Step<'_>, key: u64, why: Option<&str>) {
        step.grows = false;
        match why {
            Some(why) => self.tell_container(step, key, words::event::CONTAINER_ERROR, &[("reason", why)]),
            None => self.tell_container(step, key, words::event::CONTAINER_REMOVED, &[]),
        }
        let Some(one) = self.containers.by_key.remove(&key) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(one.session) {
            session.remove_container(&one.id);
        }
        step.fact(Fact::ContainerGone(key));
    }

    /// The session of these ends: they stop, and go where the policy says so.
    pub fn end_containers(&mut self, step: &mut Step<'_>, session: u64, remove: bool) {
        let keys: Vec<u64> = self.containers.of_session(session).map(|one| one.key).collect();
        for key in keys {
            match self.containers.get(key).map(|one| one.phase) {
                // Whoever makes it finds the session ended.
                Some(Phase::Creating) | None => {}
                Some(_) if remove => self.remove_container(step, key),
                Some(_) => {
                    self.stop_container(step, key);
                    step.effect(Effect::Containers);
                }
            }
        }
    }

    /// What it uses. Each mark of its memory is told once, when it is passed.
    pub fn container_uses(&mut self, step: &mut Step<'_>, key: u64, usage: ResourceUsage, marks: &[u32]) {
        let Some(one) = self.containers.get_mut(key) else {
            return;
        };
        let passed = marks
            .iter()
            .copied()
            .filter(|mark| usage.memory_percent >= f64::from(*mark))
            .max();
        let before = one.mark;
        one.usage = Some(usage);
        one.mark = passed.unwrap_or(0);
        if one.mark <= before {
            return;
        }
        let (mark, used, limit) = (
            one.mark.to_string(),
            usage.memory_usage.to_string(),
            usage.memory_limit.to_string(),
        );
        let data = [
            ("resource", "memory"),
            ("percent", &*mark),
            ("usage", &*used),
            ("limit", &*limit),
        ];
        self.tell_container(step, key, words::event::RESOURCE_THRESHOLD, &data);
    }

    /// A request that the policy forbids is an event too.
    pub fn policy_violated(&mut self, step: &mut Step<'_>, session: u64, what: &str) {
        let Some(found) = self.sessions.get(session) else {
            return;
        };
        step.grows = false;
        let about = About {
            high: true,
            ..about(found)
        };
        let data = [("session_id", &*found.id), ("reason", what), ("subject", "container")];
        let event = event::build(step, words::event::POLICY_VIOLATION, ORCHESTRATOR, about, &data);
        step.fact(Fact::Event { session, event });
    }

    fn tell_container(&self, step: &mut Step<'_>, key: u64, name: &str, more: &[(&str, &str)]) {
        let Some(one) = self.containers.get(key) else { return };
        let session = self.sessions.get(one.session);
        let high = matches!(
            name,
            words::event::CONTAINER_ERROR | words::event::CONTAINER_UNISOLATED | words::event::RESOURCE_THRESHOLD
        );
        let about = match session {
            Some(session) => About { high, ..about(session) },
            None => About {
                session_id: one.session_id.as_ref().into(),
                high,
                ..About::default()
            },
        };
        let mut data = vec![
            ("container_id", &*one.id),
            ("session_id", &*one.session_id),
            ("image", &*one.config.image),
        ];
        data.extend_from_slice(more);
        let mut event: Event = event::build(step, name, ORCHESTRATOR, about, &data);
        if let Some(metadata) = &mut event.metadata {
            metadata.container_id = one.id.to_string();
        }
        // One of a session that is gone is nobody's.
        let session = session.map_or(0, |session| session.key);
        step.fact(Fact::Event { session, event });
    }
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
