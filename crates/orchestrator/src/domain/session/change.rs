//! What may happen to a session.

use std::sync::Arc;

use nexus_proto::orchestrator::v1::{SessionConfig, SessionMetadata, SessionState, UserPreferences};

use super::Session;
use crate::domain::Time;
use crate::domain::turn::Turn;

/// Tasks that a session lists.
const LISTED_TASKS: usize = 100;

impl Session {
    /// A message is added. Returns its number.
    pub(in crate::domain) fn add_message(&mut self, now: Time) -> u64 {
        self.head += 1;
        self.record.updated = now;
        self.head
    }

    /// IDLE becomes ACTIVE. Returns whether it was IDLE.
    pub(in crate::domain) fn wake(&mut self) -> bool {
        let idle = self.state == SessionState::Idle;
        if idle {
            self.record.state = SessionState::Active;
        }
        idle
    }

    pub(in crate::domain) fn fall_idle(&mut self) {
        self.record.state = SessionState::Idle;
    }

    pub(in crate::domain) fn close(&mut self, now: Time) {
        self.record.state = SessionState::Closed;
        self.record.closed = Some(now);
        self.record.updated = now;
    }

    pub(in crate::domain) fn describe(&mut self, metadata: SessionMetadata) {
        self.record.metadata = Arc::new(metadata);
    }

    pub(in crate::domain) fn configure(&mut self, config: SessionConfig) {
        let longest = config.max_duration_ns;
        self.record.expires = (longest > 0).then(|| self.created.saturating_add(longest));
        self.record.config = config;
    }

    pub(in crate::domain) fn prefer(&mut self, preferences: UserPreferences) {
        self.record.preferences = preferences;
    }

    /// Replaces the tasks that it lists, where the caller gives any.
    pub(in crate::domain) fn list_tasks(&mut self, current: String, history: Vec<String>) {
        if !current.is_empty() {
            self.record.current_task = current;
        }
        if !history.is_empty() {
            self.record.task_history = history;
        }
    }

    /// A task was given for this session.
    pub(in crate::domain) fn add_task(&mut self, id: String) {
        self.record.current_task.clone_from(&id);
        self.record.task_history.push(id);
        if self.record.task_history.len() > LISTED_TASKS {
            self.record.task_history.remove(0);
        }
    }

    pub(in crate::domain) fn touch(&mut self, now: Time) {
        self.record.updated = now;
    }

    pub(in crate::domain) fn charge(&mut self, bytes: i64) {
        self.stored = self.stored.saturating_add_signed(bytes);
    }

    pub(in crate::domain) fn open_turn(&mut self, turn: Turn) {
        self.turns.push_back(turn);
    }

    pub(in crate::domain) fn turn_mut(&mut self) -> Option<&mut Turn> {
        self.turns.front_mut()
    }

    pub(in crate::domain) fn turns_mut(&mut self) -> impl Iterator<Item = &mut Turn> {
        self.turns.iter_mut()
    }

    /// Puts the turns in the order that they had in `before`, which may have begun a turn that was asked for again later
    /// than others. Turns that `before` had ended come after the one that runs.
    pub(in crate::domain) fn order_turns(&mut self, before: &Session) {
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
    pub(in crate::domain) fn end_turn(&mut self) -> Option<Turn> {
        self.turns.pop_front()
    }

    /// Takes off a turn that waits behind others.
    pub(in crate::domain) fn drop_turn(&mut self, place: usize) -> Option<Turn> {
        self.turns.remove(place)
    }

    pub(in crate::domain) fn count_stream(&mut self, open: bool) {
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

    pub(in crate::domain) fn remove_container(&mut self, id: &str) {
        self.containers.retain(|known| **known != *id);
    }
}
