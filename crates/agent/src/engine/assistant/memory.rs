//! The runs that this process knows, between two of their steps: a cache. What is not here is read from the orchestrator.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::assistant::{compaction::Summary, conversation::Conversation};

/// Sessions that are remembered.
const SESSIONS: usize = 1_000;
/// All conversations together, in tokens: some 200 MB.
const TOKENS: u64 = 64_000_000;

/// One run for each session, since a session answers one message at a time.
#[derive(Default)]
pub(super) struct Memory {
    sessions: Mutex<HashMap<String, Remembered>>,
}

struct Remembered {
    /// The run between two steps; `None` while a step runs, and after its end.
    run: Option<(String, Conversation)>,
    tokens: u64,
    /// Of the messages of the session, for its next runs.
    summary: Option<Summary>,
    used: Instant,
}

impl Memory {
    /// Takes the run out, if this is the one that is remembered and it goes on with this step.
    pub(super) fn take(&self, session_id: &str, run_id: &str, previous_step: i32) -> Option<Conversation> {
        let mut sessions = self.sessions.lock();
        let remembered = sessions.get_mut(session_id)?;
        remembered.tokens = 0;
        let (of, conversation) = remembered.run.take()?;
        let goes_on = of == run_id && conversation.last_step().saturating_add(1) >= previous_step;
        goes_on.then_some(conversation)
    }

    pub(super) fn keep(&self, session_id: &str, run_id: &str, conversation: Conversation) {
        let mut sessions = self.sessions.lock();
        let remembered = entry(&mut sessions, session_id);
        remembered.tokens = conversation.estimate(0);
        remembered.run = Some((run_id.to_owned(), conversation));
        evict(&mut sessions);
    }

    /// A summary outlives its run: it covers messages that later runs need not read again.
    pub(super) fn keep_summary(&self, session_id: &str, summary: &Summary) {
        let mut sessions = self.sessions.lock();
        entry(&mut sessions, session_id).summary = Some(Summary {
            through_step: 0,
            ..summary.clone()
        });
        evict(&mut sessions);
    }

    pub(super) fn summary(&self, session_id: &str) -> Option<Summary> {
        self.sessions.lock().get(session_id)?.summary.clone()
    }
}

fn entry<'a>(sessions: &'a mut HashMap<String, Remembered>, session_id: &str) -> &'a mut Remembered {
    let now = Instant::now();
    let remembered = sessions.entry(session_id.to_owned()).or_insert(Remembered {
        run: None,
        tokens: 0,
        summary: None,
        used: now,
    });
    remembered.used = now;
    remembered
}

/// Forgets what was used least recently.
fn evict(sessions: &mut HashMap<String, Remembered>) {
    let mut total: u64 = sessions.values().map(|one| one.tokens).sum();
    while sessions.len() > SESSIONS || total > TOKENS {
        let Some(oldest) = sessions
            .iter()
            .min_by_key(|(_, one)| one.used)
            .map(|(id, _)| id.clone())
        else {
            return;
        };
        if let Some(gone) = sessions.remove(&oldest) {
            total -= gone.tokens;
        }
    }
}
