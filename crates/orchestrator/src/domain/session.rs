//! One session and its state transitions.
//!
//! ```text
//!   create ──▶ ACTIVE ◀──message── IDLE        a session is CLOSED by its client, by max_duration_ns, or with its
//!                │ └────idle timeout──▲ │      deletion; nothing leads out of CLOSED
//!                └──────▶ CLOSED ◀──────┘
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use nexus_proto::common::v1::{ResourceUsage, Status};
use nexus_proto::orchestrator::v1::{
    Message, Session as Wire, SessionConfig, SessionContext, SessionMetadata, SessionPolicy, SessionState,
    UserPreferences,
};

use super::turn::Turn;
use super::{Error, Time, event};

/// Most messages of one session that are kept in memory.
const TAIL_MESSAGES: usize = 64;
/// A session's messages in memory may take this many bytes.
const TAIL_BYTES: usize = 64 << 10;
/// Message ids chosen by clients that are remembered without a look at the disk, beside those not on disk yet.
pub const KNOWN_IDS: usize = 1024;

#[derive(Debug)]
pub struct Session {
    pub key: u64,
    pub id: Arc<str>,
    pub state: SessionState,
    pub created: Time,
    pub updated: Time,
    pub expires: Option<Time>,
    pub closed: Option<Time>,
    pub metadata: Arc<SessionMetadata>,
    pub preferences: UserPreferences,
    pub config: SessionConfig,
    pub current_task: String,
    pub task_history: Vec<String>,
    /// Who made it; a caller with the role `user` sees only its own.
    pub creator: Arc<str>,
    /// Its creator is no administrator: what is kept of it counts against that one's share.
    pub limited: bool,
    /// Bytes that count against the share.
    pub stored: u64,
    /// Number of the newest message, committed or not.
    pub head: u64,
    /// Number of the newest message that is on disk.
    pub committed: u64,
    /// The newest messages, oldest first, without a hole up to `head`.
    pub tail: VecDeque<Arc<Message>>,
    pub tail_bytes: usize,
    /// Ids chosen by clients, newest last, with their numbers.
    pub known: VecDeque<(Box<str>, u64)>,
    /// Every id that a client ever chose here is in `known`: one that is not there is new, without a look at the disk.
    pub knows_all: bool,
    /// How many such ids were ever added since this session was loaded.
    pub known_added: u64,
    pub turns: VecDeque<Turn>,
    /// How many turns were ever over since this session was loaded.
    pub turns_over: u64,
    /// The newest answer that came in pieces: a reader that missed some gets them before the whole.
    pub streamed: Option<Arc<str>>,
    /// Open StreamMessages.
    pub streams: usize,
    /// The last transaction that changed it; a reader waits until that is on disk.
    pub version: u64,
    /// Whether it stands against the limit of sessions.
    pub counted: bool,
    /// Whether it stands against its creator's share of sessions.
    pub live: bool,
    /// Ids of its containers, oldest first; those of a closed session are not looked up.
    pub containers: Vec<Arc<str>>,
}

impl Session {
    pub fn new(key: u64, id: String, now: Time) -> Self {
        Session {
            key,
            id: id.into(),
            state: SessionState::Active,
            created: now,
            updated: now,
            expires: None,
            closed: None,
            metadata: Arc::default(),
            preferences: UserPreferences::default(),
            config: SessionConfig {
                policy: Some(SessionPolicy::default()),
                ..SessionConfig::default()
            },
            current_task: String::new(),
            task_history: Vec::new(),
            creator: "".into(),
            limited: false,
            stored: 0,
            head: 0,
            committed: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            known: VecDeque::new(),
            knows_all: true,
            known_added: 0,
            turns: VecDeque::new(),
            turns_over: 0,
            streamed: None,
            streams: 0,
            version: 0,
            counted: false,
            live: false,
            containers: Vec::new(),
        }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, SessionState::Closed | SessionState::Closing)
    }

    pub fn status(&self) -> Status {
        match self.state {
            SessionState::Initializing => Status::Starting,
            SessionState::Active | SessionState::Idle => Status::Running,
            SessionState::Closing => Status::Stopping,
            SessionState::Closed => Status::Stopped,
            SessionState::Unspecified => Status::Unknown,
        }
    }

    pub fn state_name(&self) -> &'static str {
        match self.state {
            SessionState::Initializing => "initializing",
            SessionState::Active => "active",
            SessionState::Idle => "idle",
            SessionState::Closing => "closing",
            SessionState::Closed => "closed",
            SessionState::Unspecified => "unspecified",
        }
    }

    /// How long it may be silent before it is IDLE; 0 for ever.
    pub fn idle_timeout(&self, default: i64) -> i64 {
        if self.config.idle_timeout_ns > 0 {
            self.config.idle_timeout_ns
        } else {
            default
        }
    }

    /// When it has to be looked at again.
    pub fn next_look(&self, idle_default: i64) -> Option<Time> {
        if self.is_closed() {
            return None;
        }
        let idle = self.idle_timeout(idle_default);
        let idle = (self.state == SessionState::Active && idle > 0).then(|| self.updated.saturating_add(idle));
        [idle, self.expires].into_iter().flatten().min()
    }

    /// Keeps a message in memory. Returns by how much the memory grew, negative where it shrank.
    pub fn push(&mut self, message: Arc<Message>) -> isize {
        let before = self.tail_bytes as isize;
        self.tail_bytes += weight(&message);
        self.tail.push_back(message);
        while self.tail.len() > TAIL_MESSAGES || (self.tail_bytes > TAIL_BYTES && self.tail.len() > 1) {
            self.shrink();
        }
        self.tail_bytes as isize - before
    }

    /// Drops the oldest message from memory; returns the bytes that freed.
    pub fn shrink(&mut self) -> usize {
        let freed = self.tail.pop_front().map_or(0, |oldest| weight(&oldest));
        self.tail_bytes -= freed;
        freed
    }

    /// The number of the oldest message in memory, `head + 1` if there is none.
    pub fn tail_start(&self) -> u64 {
        self.tail.front().map_or(self.head + 1, |oldest| oldest.sequence)
    }

    /// A message in memory by its number.
    pub fn in_tail(&self, n: u64) -> Option<&Arc<Message>> {
        let start = self.tail_start();
        if n < start {
            None
        } else {
            self.tail.get((n - start) as usize)
        }
    }

    pub fn known(&self, id: &str) -> Option<u64> {
        self.known
            .iter()
            .rev()
            .find(|(known, _)| **known == *id)
            .map(|(_, n)| *n)
    }

    pub fn remember(&mut self, id: &str, n: u64) {
        self.known_added += 1;
        self.known.push_back((id.into(), n));
        let committed = self.committed;
        while self.known.len() > KNOWN_IDS && self.known.front().is_some_and(|(_, n)| *n <= committed) {
            self.known.pop_front();
            self.knows_all = false;
        }
    }

    /// Refuses one more turn where too many wait.
    pub fn room_for_turn(&self, max: usize) -> Result<(), Error> {
        if self.turns.len() < max {
            return Ok(());
        }
        let (what, setting) = ("waiting messages of the session", "orchestrator.max_queued_turns");
        Err(Error::Limit { what, max, setting })
    }
}

fn weight(message: &Message) -> usize {
    let extra = message
        .metadata
        .as_ref()
        .map_or(0, |m| m.extra.iter().map(|(k, v)| k.len() + v.len() + 64).sum());
    message.content.len() + message.id.len() + extra + 160
}

/// Refuses what no session can be run with.
pub fn check_config(config: &SessionConfig) -> Result<(), Error> {
    let limits = config.resource_limits.unwrap_or_default();
    let numbers = [
        ("max_containers", i64::from(config.max_containers)),
        ("max_duration_ns", config.max_duration_ns),
        ("idle_timeout_ns", config.idle_timeout_ns),
        ("resource_limits.nano_cpus", limits.nano_cpus),
        ("resource_limits.memory_bytes", limits.memory_bytes),
        ("resource_limits.pids_limit", limits.pids_limit),
    ];
    match numbers.iter().find(|(_, value)| *value < 0) {
        Some((name, _)) => Err(Error::Invalid(format!("config.{name} must not be negative"))),
        None => Ok(()),
    }
}

/// A session as clients see it, with these messages. Metadata and context are always there: old clients rely on it.
pub fn wire(session: &Session, messages: Vec<Message>, omitted: u64) -> Wire {
    let stamp = event::timestamp;
    Wire {
        id: session.id.to_string(),
        state: session.state.into(),
        status: session.status().into(),
        created_at: Some(stamp(session.created)),
        updated_at: Some(stamp(session.updated)),
        expires_at: session.expires.map(stamp),
        closed_at: session.closed.map(stamp),
        metadata: Some(SessionMetadata::clone(&session.metadata)),
        context: Some(SessionContext {
            messages,
            current_task_id: session.current_task.clone(),
            task_history: session.task_history.clone(),
            preferences: Some(session.preferences.clone()),
            config: Some(session.config.clone()),
            resource_usage: Some(ResourceUsage::default()),
            messages_omitted: omitted,
        }),
        container_ids: session.containers.iter().map(ToString::to_string).collect(),
    }
}
