//! One gateway session and its states.
//!
//! ```text
//! INITIALIZING ──opened──▶ ACTIVE ◀──a message── IDLE
//!       │                    │ └──idle timeout────▶│
//!       └────────────────────┴─────────────────────┴── close, timeout ──▶ CLOSED (and forgotten)
//! ```
//!
//! INITIALIZING is written before the orchestrator is asked for its session, so that a crash in between leaves a
//! trace to clean up by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Error;

/// All texts of a session's metadata together.
const MAX_METADATA: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Initializing,
    Active,
    Idle,
    Closing,
    Closed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub name: String,
    pub description: String,
    pub labels: BTreeMap<String, String>,
    pub user_id: String,
    pub tags: Vec<String>,
    pub client_type: String,
    pub client_version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub timeout_ns: i64,
    pub idle_timeout_ns: i64,
    pub enable_streaming: bool,
    pub max_message_size: i32,
    pub stream: Option<StreamConfig>,
    pub security: Option<Security>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamConfig {
    pub chunk_size: i64,
    pub chunk_delay_ns: i64,
    pub enable_delta: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    pub require_auth: bool,
    pub allowed_origins: Vec<String>,
    pub enable_encryption: bool,
}

/// What a client asks for when it makes a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    pub metadata: Metadata,
    /// Absent stays absent in answers.
    pub config: Option<Config>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: String,
    /// The principal that made it, and the only one beside an admin who may use it.
    pub owner: String,
    /// Empty while INITIALIZING.
    pub orchestrator_session: String,
    pub state: State,
    pub created_at: i64,
    pub updated_at: i64,
    /// When a message was last sent; what the idle timeout counts from.
    pub used_at: i64,
    pub expires_at: Option<i64>,
    pub closed_at: Option<i64>,
    /// What the client asked for; stored under the name that the first version gave it.
    #[serde(rename = "wish")]
    pub requested: NewSession,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The orchestrator's session stands.
    Open,
    /// A message is about to be sent.
    Use,
    /// Time has passed.
    Tick,
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Unchanged,
    Opened,
    Used,
    Woke,
    Idled,
    Expired,
    Closed,
}

impl NewSession {
    pub fn check(&self) -> Result<(), Error> {
        if let Some(config) = &self.config {
            config.check()?;
        }
        let metadata = &self.metadata;
        let plain = [
            &metadata.name,
            &metadata.description,
            &metadata.user_id,
            &metadata.client_type,
            &metadata.client_version,
        ];
        let labels = metadata.labels.iter().map(|(key, value)| key.len() + value.len());
        let tags = metadata.tags.iter().map(String::len);
        let size = plain.into_iter().map(String::len).chain(labels).chain(tags).sum();
        if size > MAX_METADATA {
            return Err(Error::TooLong {
                what: "metadata",
                size,
                limit: MAX_METADATA,
            });
        }
        Ok(())
    }

    pub fn timeout_ns(&self) -> i64 {
        self.config.as_ref().map_or(0, |config| config.timeout_ns)
    }

    pub fn idle_timeout_ns(&self) -> i64 {
        self.config.as_ref().map_or(0, |config| config.idle_timeout_ns)
    }

    pub fn stream(&self) -> Option<StreamConfig> {
        self.config.as_ref().and_then(|config| config.stream)
    }

    pub fn requires_auth(&self) -> bool {
        let security = self.config.as_ref().and_then(|config| config.security.as_ref());
        security.is_some_and(|security| security.require_auth)
    }
}

impl Config {
    fn check(&self) -> Result<(), Error> {
        let stream = self.stream.unwrap_or_default();
        let values = [
            ("timeout_ns", self.timeout_ns),
            ("idle_timeout_ns", self.idle_timeout_ns),
            ("max_message_size", i64::from(self.max_message_size)),
            ("chunk_size", stream.chunk_size),
            ("chunk_delay_ns", stream.chunk_delay_ns),
        ];
        match values.into_iter().find(|(_, value)| *value < 0) {
            Some((field, _)) => Err(Error::Negative(field)),
            None => Ok(()),
        }
    }
}

impl Session {
    pub fn new(id: String, owner: String, requested: NewSession, now: i64) -> Self {
        let timeout = requested.timeout_ns();
        Session {
            id,
            owner,
            orchestrator_session: String::new(),
            state: State::Initializing,
            created_at: now,
            updated_at: now,
            used_at: now,
            expires_at: (timeout > 0).then(|| now.saturating_add(timeout)),
            closed_at: None,
            requested,
        }
    }

    pub fn step(&mut self, command: Command, now: i64) -> Result<Outcome, Error> {
        if self.state == State::Closed {
            return match command {
                Command::Close | Command::Tick => Ok(Outcome::Unchanged),
                Command::Use | Command::Open => Err(Error::Closed),
            };
        }
        let expired = self.expires_at.is_some_and(|at| at <= now);
        match command {
            Command::Close => {
                self.close(now);
                Ok(Outcome::Closed)
            }
            Command::Tick if expired => {
                self.close(now);
                Ok(Outcome::Expired)
            }
            Command::Tick if self.idle_at().is_some_and(|at| at <= now) => {
                self.state = State::Idle;
                self.updated_at = now;
                Ok(Outcome::Idled)
            }
            Command::Tick => Ok(Outcome::Unchanged),
            Command::Use if expired => Err(Error::Closed),
            Command::Use => {
                let woke = self.state == State::Idle;
                self.state = State::Active;
                self.updated_at = now;
                self.used_at = now;
                Ok(if woke { Outcome::Woke } else { Outcome::Used })
            }
            Command::Open => {
                self.state = State::Active;
                self.updated_at = now;
                self.used_at = now;
                Ok(Outcome::Opened)
            }
        }
    }

    /// When the next tick will change something.
    pub fn due_at(&self) -> Option<i64> {
        let ends = if self.state == State::Closed {
            None
        } else {
            self.expires_at
        };
        [ends, self.idle_at()].into_iter().flatten().min()
    }

    /// A message's content may have this many bytes.
    pub fn check_size(&self, size: usize, most: usize) -> Result<(), Error> {
        let own = self
            .requested
            .config
            .as_ref()
            .map_or(0, |config| config.max_message_size);
        let limit = match usize::try_from(own) {
            Ok(own) if own > 0 => own.min(most),
            _ => most,
        };
        if size > limit {
            Err(Error::TooLarge { size, limit })
        } else {
            Ok(())
        }
    }

    fn idle_at(&self) -> Option<i64> {
        let after = self.requested.idle_timeout_ns();
        (self.state == State::Active && after > 0).then(|| self.used_at.saturating_add(after))
    }

    fn close(&mut self, now: i64) {
        self.state = State::Closed;
        self.updated_at = now;
        self.closed_at = Some(now);
    }
}

#[cfg(test)]
mod tests;
