//! What all turns share: connections to the neighbours, the answer style, and a cache of context windows.

use std::{sync::Arc, time::Duration};

use nexus_client::{Backoff, Error, Kind};
use nexus_proto::llm::v1::Tool;
use parking_lot::{Mutex, RwLock};
use tokio::time::{Instant, sleep_until, timeout};

use super::{BudgetLimit, Style, memory::Memory, prompt::Places};
use crate::{
    domain::assistant::work::{Ask, Refusal, Scope, StepPlace, Work},
    remote::{AnswerStream, ContextWindows, Models, Orchestrator, new_id, refusal as of_neighbour},
};

/// A new model, or another default, is noticed after this long.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// The model daemon asks its providers what they have; an answer does not wait for that any longer.
const LIST_WITHIN: Duration = Duration::from_secs(2);
/// For a model that nobody knows the window of: small enough for nearly all.
pub(super) const UNKNOWN_WINDOW: u64 = 8192;
/// The same for a model that is given tools: those that are made for them have more.
pub(super) const UNKNOWN_WINDOW_WITH_TOOLS: u64 = 32_768;
/// Letters of a random mark around what is not to be trusted.
const MARK: usize = 12;
/// Sets of tools that are remembered.
const TOOL_SETS: usize = 8;

/// Why a turn has no answer, from a neighbour's failure.
pub(super) fn refusal(whose: &str, error: &Error) -> Refusal {
    of_neighbour(whose, error)
}

/// Random letters that nobody can foresee.
pub(super) fn new_mark() -> String {
    let mut mark = new_id();
    mark.truncate(MARK);
    mark
}

pub(super) struct Kit {
    pub(super) orchestrator: Orchestrator,
    pub(super) models: Models,
    /// Runs between two steps.
    pub(super) memory: Memory,
    pub(super) places: Places,
    name: String,
    style: Arc<RwLock<Arc<Style>>>,
    cache: Mutex<WindowCache>,
    /// Sets of tools by their digest, the newest last.
    tools: Mutex<Vec<(String, Arc<Vec<Tool>>)>>,
}

/// What is known about windows. It may be old while it is looked up again.
#[derive(Default)]
struct WindowCache {
    windows: Arc<ContextWindows>,
    looked_up: Option<Instant>,
    /// The model that answered when none was named.
    default_model: Option<String>,
}

impl Kit {
    pub(super) fn new(
        orchestrator: Orchestrator,
        models: Models,
        places: Places,
        name: String,
        style: Arc<RwLock<Arc<Style>>>,
    ) -> Self {
        Kit {
            orchestrator,
            models,
            memory: Memory::default(),
            places,
            name,
            style,
            cache: Mutex::default(),
            tools: Mutex::default(),
        }
    }

    pub(super) fn style(&self) -> Arc<Style> {
        self.style.read().clone()
    }

    /// The tokens that a model takes, question and answer together. Where nobody knows: `unknown`.
    pub(super) async fn window(self: &Arc<Self>, model: &str, style: &Style, unknown: u64) -> Result<u64, Refusal> {
        let windows = self.windows().await?;
        let default = self.cache.lock().default_model.clone();
        let known = windows.of(model).or_else(|| match (model, default) {
            ("", Some(default)) => windows.of(&default),
            _ => None,
        });
        let wanted = style.context_tokens;
        Ok(match known {
            Some(window) if wanted == 0 => window,
            Some(window) => window.min(wanted),
            None if wanted == 0 => {
                tracing::info!(
                    model,
                    window = unknown,
                    "the model's window is unknown; context_tokens sets it"
                );
                unknown
            }
            None => wanted,
        })
    }

    /// Which model it was that answered a request that named none.
    pub(super) fn learn_default(&self, model: &str) {
        if !model.is_empty() {
            self.cache.lock().default_model = Some(model.to_owned());
        }
    }

    /// The first look is waited for; later ones happen beside the turns.
    async fn windows(self: &Arc<Self>) -> Result<Arc<ContextWindows>, Refusal> {
        let (known, looked_up) = {
            let mut cache = self.cache.lock();
            let before = cache.looked_up;
            if before.is_some_and(|when| when.elapsed() > KNOWN_FOR) {
                cache.looked_up = Some(Instant::now());
                let kit = self.clone();
                tokio::spawn(async move { kit.look_up().await });
            }
            (cache.windows.clone(), before)
        };
        if looked_up.is_some() {
            return Ok(known);
        }
        let mut patience = self.patience();
        let reason = loop {
            let kit = self.clone();
            // It goes on when it is no longer waited for.
            let looking = tokio::spawn(async move { kit.look_up().await });
            match timeout(LIST_WITHIN, looking).await {
                Ok(Ok(Ok(windows))) => return Ok(windows),
                Ok(Ok(Err(error))) if patience.again(&error).await => {}
                Ok(Ok(Err(error))) if error.kind == Kind::NotRunning => {
                    return Err(refusal("the model daemon", &error));
                }
                Ok(Ok(Err(error))) => break error.to_string(),
                Ok(Err(error)) => break error.to_string(),
                Err(_) => break format!("the list of models takes longer than {LIST_WITHIN:?}"),
            }
        };
        tracing::warn!(reason, "the models' windows are unknown");
        self.cache.lock().looked_up = Some(Instant::now());
        Ok(known)
    }

    async fn look_up(&self) -> Result<Arc<ContextWindows>, Error> {
        let windows = Arc::new(self.models.windows().await?);
        let mut cache = self.cache.lock();
        cache.looked_up = Some(Instant::now());
        cache.windows = windows.clone();
        Ok(windows)
    }

    /// The tools with this digest. An empty digest is that of no tools.
    pub(super) async fn tools(&self, place: &StepPlace, session_id: &str) -> Result<Arc<Vec<Tool>>, Error> {
        let digest = &place.tools_digest;
        if digest.is_empty() {
            return Ok(Arc::default());
        }
        if let Some((_, known)) = self.tools.lock().iter().find(|(known, _)| known == digest) {
            return Ok(known.clone());
        }
        // They may have changed since the offer: they are what counts.
        let (digest, tools) = self.orchestrator.tools(&place.run_id, session_id).await?;
        let mut sets = self.tools.lock();
        sets.retain(|(known, _)| *known != digest);
        if sets.len() >= TOOL_SETS {
            sets.remove(0);
        }
        sets.push((digest, tools.clone()));
        Ok(tools)
    }

    /// A request for this work, without what it says.
    pub(super) fn ask_for(&self, style: &Style, work: &Work) -> Ask {
        let scope = |limit: &BudgetLimit| {
            let id = match (limit.kind, work.place()) {
                ("run", Some(place)) => place.run_id.clone(),
                // Without runs each message is one.
                ("run", None) => work.turn().0.clone(),
                ("session", _) => work.session_id().to_owned(),
                ("agent", _) => self.name.clone(),
                _ => String::new(),
            };
            Scope {
                kind: limit.kind,
                id,
                max_tokens: limit.tokens,
                max_dollars: limit.dollars,
            }
        };
        Ask {
            agent_name: self.name.clone(),
            session_id: work.session_id().to_owned(),
            correlation_id: work.turn().0.clone(),
            followed_by: work.followed_by().to_owned(),
            model: work.model().unwrap_or(&style.model).clone(),
            provider: style.provider.clone(),
            max_tokens: style.answer_tokens.into(),
            temperature: style.temperature,
            messages: Vec::new(),
            tools: Arc::default(),
            scopes: style.budgets.iter().map(scope).collect(),
        }
    }

    pub(super) async fn ask(&self, ask: &Ask) -> Result<AnswerStream, Error> {
        let mut patience = self.patience();
        loop {
            match self.models.ask(ask.clone()).await {
                Err(error) if patience.again(&error).await => {}
                result => return result,
            }
        }
    }

    fn patience(&self) -> RestartRetry {
        RestartRetry {
            until: Instant::now() + self.style().llm_grace,
            backoff: self.models.backoff(),
        }
    }
}

/// A model daemon that is not there may be just restarting. Nothing has reached it then, so nothing is asked twice.
struct RestartRetry {
    until: Instant,
    backoff: Backoff,
}

impl RestartRetry {
    /// Waits a little, if it is worth it.
    async fn again(&mut self, error: &Error) -> bool {
        if error.kind != Kind::NotRunning || Instant::now() >= self.until {
            return false;
        }
        let pause = self.backoff.next_pause().unwrap_or_default();
        sleep_until((Instant::now() + pause).min(self.until)).await;
        true
    }
}
