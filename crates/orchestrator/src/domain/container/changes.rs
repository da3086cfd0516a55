//! What happens to containers: what callers ask for, and what their engines report.

use nexus_proto::common::v1::ResourceUsage;
use nexus_proto::orchestrator::v1::{ContainerConfig, Event};
use nexus_proto::words;

use super::{BARE, BARE_NOTE, Container, Made, Phase, Policy};
use crate::domain::event::{self, About, ORCHESTRATOR};
use crate::domain::sessions::about;
use crate::domain::{Effect, Error, Fact, State, Step, Time};

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
            .ok_or_else(|| crate::domain::sessions::session_not_found(session))?;
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
                    .is_none_or(crate::domain::session::Session::is_closed)
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
