//! Limits of each user on shared resources. Administrators have no limit of their own: only the totals bind them.
//!
//! A session that a user made is `limited`: its messages and its documents count against that user for as long as they
//! are kept, and each of its events counts against the events of a minute. An answer is never refused for a share, as the
//! message that it answers was taken; what follows is.

use std::collections::HashMap;
use std::sync::Arc;

use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::{ContainerConfig, SessionConfig, SessionContext, SessionMetadata};
use prost::Message as _;

use super::session::Session;
use super::{Error, Fact, State, Step, Time};

/// Counted for a session beside what is said of it, so that empty ones are not free.
const SESSION_BYTES: u64 = 1024;
const MINUTE: Time = 60_000_000_000;

/// The shares, as the settings give them.
#[derive(Clone, Debug)]
pub struct Shares {
    /// Sessions that are not closed.
    pub sessions: usize,
    pub agents: usize,
    pub open_tasks: usize,
    /// Containers that are kept, those included that have ended.
    pub containers: usize,
    /// Bytes of messages and sessions kept, closed sessions included.
    pub stored_bytes: u64,
    /// Messages sent and sessions made or changed in a minute.
    pub events_per_minute: u64,
    /// Bytes of the metadata, configuration and context of one session, and of the config of one container.
    pub metadata_bytes: u64,
}

impl Default for Shares {
    fn default() -> Self {
        Shares {
            sessions: 1_000,
            agents: 100,
            open_tasks: 1_000,
            containers: 250,
            stored_bytes: 1 << 30,
            events_per_minute: 6_000,
            metadata_bytes: 64 << 10,
        }
    }
}

/// What each user has taken.
#[derive(Debug, Default)]
pub struct Usage {
    of: HashMap<Arc<str>, Used>,
}

#[derive(Debug, Default)]
struct Used {
    stored: u64,
    /// Sessions that are closed and not deleted.
    closed: u64,
    /// When the present minute began, and the events in it.
    since: Time,
    events: u64,
}

impl Usage {
    /// Bytes kept of this user.
    pub fn stored(&self, user: &str) -> u64 {
        self.of.get(user).map_or(0, |used| used.stored)
    }

    /// Closed sessions of this user.
    pub fn closed(&self, user: &str) -> u64 {
        self.of.get(user).map_or(0, |used| used.closed)
    }

    /// Closed sessions of everybody.
    pub fn all_closed(&self) -> u64 {
        self.of.values().map(|used| used.closed).sum()
    }

    /// Takes in what is on disk.
    pub fn load(&mut self, user: &str, stored: u64, closed: u64) {
        let used = self.of.entry(user.into()).or_default();
        (used.stored, used.closed) = (stored, closed);
    }

    fn of(&mut self, user: &Arc<str>) -> &mut Used {
        if !self.of.contains_key(user) {
            self.of.insert(user.clone(), Used::default());
        }
        self.of.get_mut(user).expect("it is there now")
    }
}

fn limit(what: &'static str, max: u64, setting: &'static str) -> Error {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    Error::Limit { what, max, setting }
}

/// Bytes of what a caller says of a session.
pub fn metadata_bytes(
    metadata: Option<&SessionMetadata>,
    config: Option<&SessionConfig>,
    context: Option<&SessionContext>,
) -> u64 {
    let bytes = metadata.map_or(0, prost::Message::encoded_len)
        + config.map_or(0, prost::Message::encoded_len)
        + context.map_or(0, |context| context.encoded_len());
    bytes as u64
}

/// Bytes that a session itself counts for, without its messages.
pub fn session_bytes(session: &Session) -> i64 {
    let said = session.metadata.encoded_len()
        + session.config.encoded_len()
        + session.preferences.encoded_len()
        + session.current_task.len()
        + session.task_history.iter().map(String::len).sum::<usize>();
    said as i64 + SESSION_BYTES as i64
}

impl State {
    /// Refuses one more session of a user that has its share, or one that says too much of itself.
    pub(super) fn share_of_sessions(&mut self, step: &Step<'_>, caller: &Caller, said: u64) -> Result<(), Error> {
        if caller.is_admin() {
            return Ok(());
        }
        let max = self.rules.shares.sessions;
        if self.sessions.live_of(&caller.principal) >= max {
            let (what, setting) = ("sessions of one user", "orchestrator.user_sessions");
            return Err(Error::Limit { what, max, setting });
        }
        self.share_of_metadata(said)?;
        self.share_of_writes(step, &caller.principal, said + SESSION_BYTES)
    }

    fn share_of_metadata(&self, said: u64) -> Result<(), Error> {
        let max = self.rules.shares.metadata_bytes;
        if said > max {
            return Err(limit(
                "bytes of a session's metadata",
                max,
                "orchestrator.user_metadata_bytes",
            ));
        }
        Ok(())
    }

    /// Refuses a change of a session whose user has its share of what is kept, or of the events of this minute.
    pub(super) fn share_of_change(&mut self, step: &Step<'_>, key: u64, said: u64, bytes: u64) -> Result<(), Error> {
        let Some(user) = self.limited_user(key) else {
            return Ok(());
        };
        self.share_of_metadata(said)?;
        self.share_of_writes(step, &user, bytes)
    }

    fn limited_user(&self, key: u64) -> Option<Arc<str>> {
        let session = self.sessions.get(key).filter(|session| session.limited)?;
        Some(session.creator.clone())
    }

    /// Counts one event, if it and its bytes have room.
    fn share_of_writes(&mut self, step: &Step<'_>, user: &Arc<str>, bytes: u64) -> Result<(), Error> {
        let shares = &self.rules.shares;
        let (max_stored, max_events) = (shares.stored_bytes, shares.events_per_minute);
        let used = self.usage.of(user);
        if used.stored.saturating_add(bytes) > max_stored {
            return Err(limit(
                "bytes kept for one user",
                max_stored,
                "orchestrator.user_stored_bytes",
            ));
        }
        if step.now.saturating_sub(used.since) >= MINUTE {
            (used.since, used.events) = (step.now, 0);
        }
        if used.events >= max_events {
            let setting = "orchestrator.user_events_per_minute";
            return Err(limit("events of one user in a minute", max_events, setting));
        }
        used.events += 1;
        Ok(())
    }

    /// Counts what was stored for a session that is limited.
    pub(super) fn charge(&mut self, step: &mut Step<'_>, key: u64, bytes: i64) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.limited) else {
            return;
        };
        if bytes == 0 {
            return;
        }
        session.charge(bytes);
        let user = session.creator.clone();
        let used = self.usage.of(&user);
        used.stored = used.stored.saturating_add_signed(bytes);
        step.fact(Fact::SessionUsage(key));
        step.fact(Fact::UserUsage(user));
    }

    /// Counts a session that was closed.
    pub(super) fn count_closed(&mut self, step: &mut Step<'_>, user: &Arc<str>) {
        self.usage.of(user).closed += 1;
        step.fact(Fact::UserUsage(user.clone()));
    }

    /// Gives back what a deleted session took.
    pub(super) fn release_usage(&mut self, step: &mut Step<'_>, session: &Session) {
        if !session.limited && !session.is_closed() {
            return;
        }
        let used = self.usage.of(&session.creator);
        used.stored = used.stored.saturating_sub(session.stored());
        used.closed = used.closed.saturating_sub(u64::from(session.is_closed()));
        step.fact(Fact::UserUsage(session.creator.clone()));
    }

    /// Refuses one more registration of a caller that has its share.
    pub(super) fn share_of_agents(&self, caller: &Caller) -> Result<(), Error> {
        let max = self.rules.shares.agents;
        if caller.is_admin() || self.agents.visible(caller).count() < max {
            return Ok(());
        }
        let (what, setting) = ("agents of one user", "orchestrator.user_agents");
        Err(Error::Limit { what, max, setting })
    }

    /// Refuses one more container of a session whose user has its share of them, or one of which too much is said: both are
    /// kept in memory, and listed, for as long as the container is not removed.
    pub(super) fn share_of_containers(&self, session: u64, config: &ContainerConfig) -> Result<(), Error> {
        let Some(user) = self.limited_user(session) else {
            return Ok(());
        };
        let most = self.rules.shares.metadata_bytes;
        if config.encoded_len() as u64 > most {
            return Err(limit(
                "bytes of a container's config",
                most,
                "orchestrator.user_metadata_bytes",
            ));
        }
        let max = self.rules.shares.containers;
        if self.containers.iter().filter(|one| one.creator == user).count() < max {
            return Ok(());
        }
        let what = "containers of one user that are not removed";
        let setting = "orchestrator.user_containers";
        Err(Error::Limit { what, max, setting })
    }

    /// Refuses one more task of a caller that has its share.
    pub(super) fn share_of_tasks(&self, caller: &Caller) -> Result<(), Error> {
        let max = self.rules.shares.open_tasks;
        let given = |task: &&super::task::Task| task.giver.as_deref() == Some(&*caller.principal);
        if caller.is_admin() || self.tasks.iter().filter(given).count() < max {
            return Ok(());
        }
        let (what, setting) = ("open tasks of one user", "orchestrator.user_open_tasks");
        Err(Error::Limit { what, max, setting })
    }
}
