//! An event of a gateway session, as the log stores it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::session::Session;

/// Where our events come from.
pub const SOURCE: &str = "gateway.grpc";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    SessionCreated,
    SessionUpdated,
    SessionClosed,
    MessageSent,
    MessageReceived,
    StreamStarted,
    StreamComplete,
    StreamError,
    /// Events that this reader does not get, because they were trimmed.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Priority {
    Low,
    Normal,
    High,
    Critical,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub kind: Kind,
    pub source: String,
    pub priority: Priority,
    pub session: String,
    /// The session's, kept here because the session may be gone when this is read.
    pub owner: String,
    pub user_id: String,
    pub labels: BTreeMap<String, String>,
    pub message_id: String,
    pub correlation_id: String,
    pub data: BTreeMap<String, String>,
}

/// An event and its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub sequence: u64,
    pub time: i64,
    pub event: Event,
}

impl Event {
    pub fn of(session: &Session, kind: Kind) -> Self {
        Event {
            kind,
            source: SOURCE.into(),
            priority: match kind {
                Kind::StreamError | Kind::Lost => Priority::High,
                _ => Priority::Normal,
            },
            session: session.id.clone(),
            owner: session.owner.clone(),
            user_id: session.requested.metadata.user_id.clone(),
            labels: session.requested.metadata.labels.clone(),
            message_id: String::new(),
            correlation_id: String::new(),
            data: BTreeMap::new(),
        }
    }

    /// The one event that belongs to no session: told to a reader whose place in the log is gone.
    pub fn lost(first: u64, last: u64) -> Self {
        Event {
            kind: Kind::Lost,
            source: SOURCE.into(),
            priority: Priority::High,
            session: String::new(),
            owner: String::new(),
            user_id: String::new(),
            labels: BTreeMap::new(),
            message_id: String::new(),
            correlation_id: String::new(),
            data: BTreeMap::from([
                ("error".into(), "older events are no longer kept".into()),
                ("first".into(), first.to_string()),
                ("last".into(), last.to_string()),
            ]),
        }
    }

    pub fn about(mut self, message_id: &str, correlation_id: &str) -> Self {
        self.message_id = message_id.into();
        self.correlation_id = correlation_id.into();
        self
    }

    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.data.insert(key.into(), value.into());
        self
    }
}
