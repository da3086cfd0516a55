//! Owns the turns of one agent, from the stream that offers them to their last message.
//!
//! ```text
//!   register ─▶ StreamAgent open ──▶ turns run ──▶ stream lost: every turn is stopped
//!      ▲             ▲                                   │
//!      │ forgotten   └────────────── pause ◀─────────────┘
//!      └── (NOT_FOUND)
//! ```
//!
//! A turn never outlives its stream: the orchestrator offers it again, and two answers to one question are worse than
//! a late one.

mod compact;
mod history;
mod kit;
mod line;
mod memory;
mod outbox;
mod prompt;
mod request;
mod step;
mod turn;

use std::{sync::Arc, time::Duration};

use nexus_client::{Backoff, Error, Kind};
use parking_lot::RwLock;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use kit::Kit;

pub use prompt::Places;

use super::board::Board;
use crate::{
    domain::assistant::turn_queue::{Limits, TurnId},
    remote::{Models, Orchestrator},
};

/// Commands that may wait for the engine.
const COMMANDS: usize = 64;
/// A stop does not wait longer for its goodbye.
const UNREGISTER_WITHIN: Duration = Duration::from_secs(1);
/// A stream that lasted this long was a good one: the next attempt is an early one again.
const LASTING: Duration = Duration::from_secs(5);

/// How answers are made; each turn takes what holds when it begins.
#[derive(Clone, Debug)]
pub struct Style {
    pub model: String,
    pub provider: String,
    pub system_prompt: String,
    /// The role's name.
    pub assistant_role: String,
    /// Limits of what runs may cost; only those that are set.
    pub budgets: Vec<BudgetLimit>,
    pub context_tokens: u64,
    pub answer_tokens: u32,
    pub answer_bytes: usize,
    pub temperature: Option<f64>,
    pub history_messages: u32,
    pub turn_timeout: Duration,
    pub idle_timeout: Duration,
    pub llm_grace: Duration,
}

/// What one run, session, agent or day may use.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetLimit {
    /// `run`, `session`, `agent` or `day`.
    pub kind: &'static str,
    /// Zero: no limit.
    pub tokens: u64,
    /// Zero: no limit.
    pub dollars: f64,
}

pub struct Parts {
    pub orchestrator: Orchestrator,
    pub models: Models,
    pub places: Places,
    /// The agent's own name, for usage and budgets.
    pub name: String,
    pub style: Arc<RwLock<Arc<Style>>>,
    pub board: Board,
    pub limits: Limits,
    pub heartbeat_every: Duration,
}

/// Asks the engine from outside.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

struct Command {
    cancel: TurnId,
    found: oneshot::Sender<bool>,
}

impl Handle {
    /// False if there is no such turn (any more).
    pub async fn cancel(&self, turn: TurnId) -> bool {
        let (found, answer) = oneshot::channel();
        let command = Command { cancel: turn, found };
        self.commands.send(command).await.is_ok() && answer.await.unwrap_or(false)
    }
}

pub struct Engine {
    kit: Arc<Kit>,
    board: Board,
    limits: Limits,
    heartbeat_every: Duration,
    commands: mpsc::Receiver<Command>,
}

pub fn build(parts: Parts) -> (Handle, Engine) {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let engine = Engine {
        kit: Arc::new(Kit::new(
            parts.orchestrator,
            parts.models,
            parts.places,
            parts.name,
            parts.style,
        )),
        board: parts.board,
        limits: parts.limits,
        heartbeat_every: parts.heartbeat_every,
        commands: receiver,
    };
    (Handle { commands }, engine)
}

impl Engine {
    /// Until stopped. Open turns end with it, unanswered: they are offered again.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut id = None;
        stop.run_until_cancelled(self.keep(&mut id)).await;
        self.board.disconnected("stopping");
        let orchestrator = &self.kit.orchestrator;
        if let Some(id) = id.filter(|_| orchestrator.is_connected())
            && let Ok(Err(error)) = timeout(UNREGISTER_WITHIN, orchestrator.unregister(&id)).await
        {
            tracing::debug!(%error, "not unregistered");
        }
    }

    async fn keep(&mut self, id: &mut Option<String>) {
        let mut backoff = self.kit.orchestrator.backoff();
        let mut said: Option<Kind> = None;
        loop {
            let begun = Instant::now();
            let fresh = id.is_none();
            let error = self.connect(id).await;
            if begun.elapsed() > LASTING {
                backoff.reset();
                said = None;
            }
            let forgotten = error.kind == Kind::NotFound && id.take().is_some();
            if said.replace(error.kind) != Some(error.kind) {
                tracing::warn!(%error, hint = error.hint, "no stream to the orchestrator");
            }
            self.board.disconnected(&error.message);
            // One that forgets what it has just been told is not asked again at once.
            if fresh || !forgotten {
                self.pause(&mut backoff).await;
            }
        }
    }

    /// One registration, if needed, and one stream to its end; the answer is why it ended.
    async fn connect(&mut self, id: &mut Option<String>) -> Error {
        let known = match id {
            Some(known) => known.clone(),
            None => {
                let registered = tokio::select! {
                    registered = self.kit.orchestrator.register() => registered,
                    never = refuse(&mut self.commands) => match never {},
                };
                match registered {
                    Ok(fresh) => id.insert(fresh).clone(),
                    Err(error) => return error,
                }
            }
        };
        self.board.registered(&known);
        line::serve(
            line::Terms {
                kit: self.kit.clone(),
                board: self.board.clone(),
                limits: self.limits,
                heartbeat_every: self.heartbeat_every,
                agent_id: known,
            },
            &mut self.commands,
        )
        .await
    }

    async fn pause(&mut self, backoff: &mut Backoff) {
        tokio::select! {
            _more = backoff.wait() => {}
            never = refuse(&mut self.commands) => match never {},
        }
    }
}

/// While there is no stream there are no turns. Never ends.
async fn refuse(commands: &mut mpsc::Receiver<Command>) -> std::convert::Infallible {
    while let Some(command) = commands.recv().await {
        // Whoever asked may have stopped waiting.
        let _ = command.found.send(false);
    }
    std::future::pending().await
}
