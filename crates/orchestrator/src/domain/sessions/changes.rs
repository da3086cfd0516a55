//! What happens to sessions: creating, changing, closing and deleting them, and their timers.

use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::{SessionConfig, SessionContext, SessionMetadata, SessionState};
use nexus_proto::words;

use super::{about, session_not_found};
use crate::domain::event::{self, About, ORCHESTRATOR};
use crate::domain::session::{Session, check_config};
use crate::domain::shares::{metadata_bytes, session_bytes};
use crate::domain::timers::Timer;
use crate::domain::{Effect, Error, Fact, State, Step};

impl State {
    pub fn create_session(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        metadata: SessionMetadata,
        config: Option<SessionConfig>,
    ) -> Result<u64, Error> {
        let config = config.unwrap_or_default();
        check_config(&config)?;
        self.room_for_session()?;
        let said = metadata_bytes(Some(&metadata), Some(&config), None);
        self.share_of_sessions(step, caller, said)?;
        let (key, id) = step.ids.keyed(step.now);
        let session = Session::create(key, id, caller, (metadata, config), step.now);
        let about = introduced(&session);
        let data = [
            ("session_id", &*session.id),
            ("name", &*session.metadata.name),
            ("owner_id", &*session.metadata.owner_id),
        ];
        let created = event::build(step, words::event::SESSION_CREATED, ORCHESTRATOR, about, &data);
        self.look_again(&session);
        self.sessions.insert(session);
        step.fact(Fact::Session(key));
        step.fact(Fact::Event {
            session: key,
            event: created,
        });
        let bytes = session_bytes(self.sessions.get(key).expect("it was just made"));
        self.charge(step, key, bytes);
        Ok(key)
    }

    pub fn room_for_session(&self) -> Result<(), Error> {
        let max = self.rules.max_sessions;
        if self.sessions.counted() >= max {
            return Err(Error::Limit {
                what: "maximum sessions",
                max,
                setting: "orchestrator.max_sessions",
            });
        }
        Ok(())
    }

    /// Replaces what is given. Messages are never changed this way.
    pub fn update_session(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        metadata: Option<SessionMetadata>,
        context: Option<SessionContext>,
    ) -> Result<(), Error> {
        let session = self.sessions.get_mut(key).ok_or_else(|| session_not_found(key))?;
        if session.is_closed() {
            return Err(Error::SessionClosed { doing: "update" });
        }
        if let Some(config) = context.as_ref().and_then(|context| context.config.as_ref()) {
            check_config(config)?;
        }
        let before = session_bytes(session);
        let said = metadata_bytes(metadata.as_ref(), None, context.as_ref().map(without_messages).as_ref());
        self.share_of_change(step, key, said, said)?;
        let session = self.sessions.get_mut(key).expect("it was here a line ago");
        let introduces = metadata.is_some();
        if let Some(metadata) = metadata {
            session.describe(metadata);
        }
        if let Some(context) = context {
            if let Some(config) = context.config {
                session.configure(config);
            }
            if let Some(preferences) = context.preferences {
                session.prefer(preferences);
            }
            session.list_tasks(context.current_task_id, context.task_history);
        }
        session.touch(step.now);
        let about = if introduces {
            introduced(session)
        } else {
            about(session)
        };
        let grown = session_bytes(session) - before;
        self.charge(step, key, grown);
        self.session_changed(step, key, about);
        Ok(())
    }

    /// Closing what is closed changes nothing and is no error.
    pub fn close_session(&mut self, step: &mut Step<'_>, key: u64, reason: &str) -> Result<(), Error> {
        step.grows = false;
        let session = self.sessions.get(key).ok_or_else(|| session_not_found(key))?;
        if session.is_closed() {
            return Ok(());
        }
        self.end_turns(step, key, "FAILED_PRECONDITION: session was closed");
        self.end_containers(step, key, self.rules.remove_containers);
        self.end_calls(step, key);
        let session = self.sessions.get_mut(key).expect("it was here a line ago");
        session.close(step.now);
        let about = about(session);
        let id = session.id.clone();
        let data = [("session_id", &*id), ("reason", reason), ("state", "closed")];
        let closed = event::build(step, words::event::SESSION_CLOSED, ORCHESTRATOR, about, &data);
        step.fact(Fact::Session(key));
        step.fact(Fact::Event {
            session: key,
            event: closed,
        });
        step.effect(Effect::Close { session: key, id });
        let creator = session.creator.clone();
        self.count_closed(step, &creator);
        self.sessions.recount(key);
        Ok(())
    }

    /// For good, messages and events too.
    pub fn delete_session(&mut self, step: &mut Step<'_>, key: u64) -> Result<(), Error> {
        if self.sessions.get(key).is_none() {
            return Err(session_not_found(key));
        }
        step.grows = false;
        self.end_turns(step, key, "NOT_FOUND: session was deleted");
        self.end_containers(step, key, true);
        self.end_calls(step, key);
        step.facts
            .retain(|fact| !matches!(fact, Fact::Event { session, .. } if *session == key));
        let session = self.sessions.remove(key).expect("it was here a line ago");
        self.release_usage(step, &session);
        let data = [("session_id", &*session.id)];
        let about = About {
            session_id: session.id.as_ref().into(),
            ..About::default()
        };
        let deleted = event::build(step, event::SESSION_DELETED, ORCHESTRATOR, about, &data);
        step.fact(Fact::SessionGone {
            session: key,
            creator: session.creator.clone(),
            owner: session.metadata.owner_id.clone(),
        });
        step.fact(Fact::Event {
            session: 0,
            event: deleted,
        });
        step.effect(Effect::Close {
            session: key,
            id: session.id.clone(),
        });
        step.effect(Effect::SessionGone { id: session.id.clone() });
        Ok(())
    }

    /// A stream opened (`true`) or ended on a session.
    pub fn count_stream(&mut self, key: u64, open: bool) -> Result<(), Error> {
        let Some(session) = self.sessions.get_mut(key) else {
            return Ok(());
        };
        if open && session.streams() == 0 && !session.counts() {
            self.room_for_session()?;
        }
        let session = self.sessions.get_mut(key).expect("it was here a line ago");
        session.count_stream(open);
        self.sessions.recount(key);
        Ok(())
    }

    /// Looks at a session whose timer came due.
    pub fn session_due(&mut self, step: &mut Step<'_>, key: u64) {
        let idle_default = self.rules.idle_timeout;
        let Some(session) = self.sessions.get_mut(key).filter(|session| !session.is_closed()) else {
            return;
        };
        if session.expires.is_some_and(|at| at <= step.now) {
            let closed = self.close_session(step, key, "max_duration_ns is over");
            debug_assert!(closed.is_ok(), "closing an open session cannot be refused");
            return;
        }
        let idle = session.idle_timeout(idle_default);
        let silent = idle > 0 && session.updated.saturating_add(idle) <= step.now;
        if session.state == SessionState::Active && silent && session.turns().is_empty() {
            step.grows = false;
            session.fall_idle();
            self.session_updated(step, key);
        } else if let Some(at) = session.next_look(idle_default) {
            // A turn is open past the idle timeout: look again when it may be over.
            let at = if at <= step.now {
                step.now.saturating_add(idle.max(1_000_000_000))
            } else {
                at
            };
            self.timers.set(at, Timer::Session(key));
        }
    }

    /// Saves a session whose state moved, says so, and arms its timer.
    pub fn session_updated(&mut self, step: &mut Step<'_>, key: u64) {
        let about = about(self.sessions.get(key).expect("the caller looked it up"));
        self.session_changed(step, key, about);
    }

    fn session_changed(&mut self, step: &mut Step<'_>, key: u64, about: About) {
        let session = self.sessions.get(key).expect("the caller looked it up");
        let data = [
            ("session_id", &*session.id),
            ("name", &*session.metadata.name),
            ("state", session.state_name()),
        ];
        let updated = event::build(step, words::event::SESSION_UPDATED, ORCHESTRATOR, about, &data);
        step.fact(Fact::Session(key));
        step.fact(Fact::Event {
            session: key,
            event: updated,
        });
        if let Some(at) = session.next_look(self.rules.idle_timeout) {
            self.timers.set(at, Timer::Session(key));
        }
        self.sessions.recount(key);
    }

    /// Arms the timer of a session that was just made or loaded.
    pub fn look_again(&mut self, session: &Session) {
        if let Some(at) = session.next_look(self.rules.idle_timeout) {
            self.timers.set(at, Timer::Session(session.key));
        }
    }
}

/// The same with the session's labels, for the events that say what they are.
fn introduced(session: &Session) -> About {
    About {
        labels: session.metadata.labels.clone(),
        ..about(session)
    }
}

/// What of a context is kept: messages are never changed this way.
fn without_messages(context: &SessionContext) -> SessionContext {
    SessionContext {
        current_task_id: context.current_task_id.clone(),
        task_history: context.task_history.clone(),
        preferences: context.preferences.clone(),
        config: context.config.clone(),
        ..SessionContext::default()
    }
}
