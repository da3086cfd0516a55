//! One session and its state transitions.
//!
//! ```text
//!   create ──▶ ACTIVE ◀──message── IDLE        a session is CLOSED by its client, by max_duration_ns, or with its
//!                │ └────idle timeout──▲ │      deletion; nothing leads out of CLOSED
//!                └──────▶ CLOSED ◀──────┘
//! ```
//!
//! Everybody reads a session; only the methods here change it. Which of its messages are in memory and which are on disk
//! is the engine's business.

mod change;
mod wire;

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use nexus_daemon::Caller;
use nexus_proto::common::v1::Status;
use nexus_proto::orchestrator::v1::{SessionConfig, SessionMetadata, SessionState, UserPreferences};

use super::turn::Turn;
use super::{Error, Time};

pub use wire::wire;

/// What is stored of a session beside its messages and turns.
#[derive(Debug)]
pub struct Record {
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
    /// The principal of the caller who created it; a caller with the role `user` sees only its own sessions.
    pub creator: Arc<str>,
    /// The creator is no administrator: what is stored of the session counts against the creator's share.
    pub limited: bool,
}

#[derive(Debug)]
pub struct Session {
    record: Record,
    /// Number of the newest message.
    head: u64,
    /// Bytes that count against the creator's share.
    stored: u64,
    /// Turns that are not over, in the order of their messages. Only the first may run.
    turns: VecDeque<Turn>,
    /// Open StreamMessages: an IDLE session with one of them counts against the limit of sessions.
    streams: usize,
    /// Ids of its containers, oldest first; those of a closed session are not looked up.
    containers: Vec<Arc<str>>,
}

/// For reading: `session.state`, `session.creator`.
impl Deref for Session {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

impl Session {
    pub(super) fn create(
        key: u64,
        id: String,
        caller: &Caller,
        (metadata, config): (SessionMetadata, SessionConfig),
        now: Time,
    ) -> Self {
        let mut session = Session::load(Record {
            key,
            id: id.into(),
            state: SessionState::Active,
            created: now,
            updated: now,
            expires: None,
            closed: None,
            metadata: Arc::new(metadata),
            preferences: UserPreferences::default(),
            config: SessionConfig::default(),
            current_task: String::new(),
            task_history: Vec::new(),
            creator: caller.principal.clone(),
            limited: !caller.is_admin(),
        });
        session.configure(config);
        session
    }

    /// A session as it is stored, without its messages, turns and containers.
    pub fn load(record: Record) -> Self {
        Session {
            record,
            head: 0,
            stored: 0,
            turns: VecDeque::new(),
            streams: 0,
            containers: Vec::new(),
        }
    }

    /// For the store: the number of the newest stored message and its time.
    pub fn load_head(&mut self, head: u64, time: Time) {
        self.head = head;
        self.record.updated = self.updated.max(time);
    }

    /// For the store: the bytes that count against the creator's share.
    pub fn load_stored(&mut self, bytes: u64) {
        self.stored = bytes;
    }

    /// For the store: a turn that is not over.
    pub fn load_turn(&mut self, turn: Turn) {
        self.turns.push_back(turn);
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, SessionState::Closed | SessionState::Closing)
    }

    /// Whether it counts against the limit of sessions.
    pub fn counts(&self) -> bool {
        match self.state {
            SessionState::Active | SessionState::Initializing => true,
            SessionState::Idle => self.streams > 0,
            _ => false,
        }
    }

    pub fn head(&self) -> u64 {
        self.head
    }

    pub fn stored(&self) -> u64 {
        self.stored
    }

    pub fn streams(&self) -> usize {
        self.streams
    }

    pub fn containers(&self) -> &[Arc<str>] {
        &self.containers
    }

    pub fn turns(&self) -> &VecDeque<Turn> {
        &self.turns
    }

    /// The turn that runs, or is the next to run.
    pub fn turn(&self) -> Option<&Turn> {
        self.turns.front()
    }

    /// The turn of a message, while it is open.
    pub fn turn_of(&self, n: u64) -> Option<&Turn> {
        self.turns.iter().find(|turn| turn.n == n)
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

    /// The time without a message after which it is IDLE; 0 for never.
    pub fn idle_timeout(&self, default: i64) -> i64 {
        if self.config.idle_timeout_ns > 0 {
            self.config.idle_timeout_ns
        } else {
            default
        }
    }

    /// When its timer is due next.
    pub fn next_look(&self, idle_default: i64) -> Option<Time> {
        if self.is_closed() {
            return None;
        }
        let idle = self.idle_timeout(idle_default);
        let idle = (self.state == SessionState::Active && idle > 0).then(|| self.updated.saturating_add(idle));
        [idle, self.expires].into_iter().flatten().min()
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
