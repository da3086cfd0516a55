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

/// Tasks that a session lists.
const LISTED_TASKS: usize = 100;

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

/// What may happen to a session.
impl Session {
    /// A message is added. Returns its number.
    pub(super) fn add_message(&mut self, now: Time) -> u64 {
        self.head += 1;
        self.record.updated = now;
        self.head
    }

    /// IDLE becomes ACTIVE. Returns whether it was IDLE.
    pub(super) fn wake(&mut self) -> bool {
        let idle = self.state == SessionState::Idle;
        if idle {
            self.record.state = SessionState::Active;
        }
        idle
    }

    pub(super) fn fall_idle(&mut self) {
        self.record.state = SessionState::Idle;
    }

    pub(super) fn close(&mut self, now: Time) {
        self.record.state = SessionState::Closed;
        self.record.closed = Some(now);
        self.record.updated = now;
    }

    pub(super) fn describe(&mut self, metadata: SessionMetadata) {
        self.record.metadata = Arc::new(metadata);
    }

    pub(super) fn configure(&mut self, config: SessionConfig) {
        let longest = config.max_duration_ns;
        self.record.expires = (longest > 0).then(|| self.created.saturating_add(longest));
        self.record.config = config;
    }

    pub(super) fn prefer(&mut self, preferences: UserPreferences) {
        self.record.preferences = preferences;
    }

    /// Replaces the tasks that it lists, where the caller gives any.
    pub(super) fn list_tasks(&mut self, current: String, history: Vec<String>) {
        if !current.is_empty() {
            self.record.current_task = current;
        }
        if !history.is_empty() {
            self.record.task_history = history;
        }
    }

    /// A task was given for this session.
    pub(super) fn add_task(&mut self, id: String) {
        self.record.current_task.clone_from(&id);
        self.record.task_history.push(id);
        if self.record.task_history.len() > LISTED_TASKS {
            self.record.task_history.remove(0);
        }
    }

    pub(super) fn touch(&mut self, now: Time) {
        self.record.updated = now;
    }

    pub(super) fn charge(&mut self, bytes: i64) {
        self.stored = self.stored.saturating_add_signed(bytes);
    }

    pub(super) fn open_turn(&mut self, turn: Turn) {
        self.turns.push_back(turn);
    }

    pub(super) fn turn_mut(&mut self) -> Option<&mut Turn> {
        self.turns.front_mut()
    }

    pub(super) fn turns_mut(&mut self) -> impl Iterator<Item = &mut Turn> {
        self.turns.iter_mut()
    }

    /// Puts the turns in the order that they had in `before`, which may have begun a turn that was asked for again later
    /// than others. Turns that `before` had ended come after the one that runs.
    pub(super) fn order_turns(&mut self, before: &Session) {
        let runs = before.turn().is_some_and(Turn::is_running);
        self.turns.make_contiguous().sort_by_key(|turn| {
            let place = before.turns.iter().position(|known| known.n == turn.n);
            match place {
                Some(0) if runs => 0,
                None => 1,
                Some(place) => place + 2,
            }
        });
    }

    /// Takes off the first turn.
    pub(super) fn end_turn(&mut self) -> Option<Turn> {
        self.turns.pop_front()
    }

    /// Takes off a turn that waits behind others.
    pub(super) fn drop_turn(&mut self, place: usize) -> Option<Turn> {
        self.turns.remove(place)
    }

    pub(super) fn count_stream(&mut self, open: bool) {
        self.streams = if open {
            self.streams + 1
        } else {
            self.streams.saturating_sub(1)
        };
    }

    /// A container of it was created.
    pub fn add_container(&mut self, id: Arc<str>) {
        self.containers.push(id);
    }

    pub(super) fn remove_container(&mut self, id: &str) {
        self.containers.retain(|known| **known != *id);
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
