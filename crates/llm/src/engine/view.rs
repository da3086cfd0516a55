//! The status of the engine: which providers can be asked, with which models, and their counters.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;

use super::Engine;
use crate::{
    domain::{
        catalogue::{self, Model},
        error::Error,
        failure::{Failure, Kind},
        statistics::Statistics,
        usage::Tally,
    },
    provider::Provider,
};

/// How long the overview waits for a key that is being looked up.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq)]
pub enum Available {
    Yes,
    /// Nothing was set up for it: a key is missing, or no local server listens.
    No(String),
    /// It was, and now fails.
    Sick(String),
}

#[derive(Debug, Clone)]
pub struct ProviderView {
    pub name: String,
    pub available: Available,
    pub models: Vec<Model>,
    pub statistics: Statistics,
    pub today: Tally,
    pub total: Tally,
}

#[derive(Debug, Clone)]
pub struct StatusView {
    pub started: SystemTime,
    pub uptime: Duration,
    pub whole: Statistics,
}

impl Engine {
    pub fn status(&self) -> StatusView {
        let whole = self.0.board.lock().whole.clone();
        StatusView {
            started: self.0.started,
            uptime: self.0.started_at.elapsed(),
            whole,
        }
    }

    /// What is wrong with the key file, if anything is.
    pub fn key_trouble(&self) -> Option<String> {
        self.0.keys.trouble().map(|error| error.to_string())
    }

    /// Whether providers can be used, models left out. Only local endpoints are asked.
    pub async fn availability(&self) -> Vec<ProviderView> {
        let setup = self.setup();
        join_all(setup.providers.iter().map(|provider| self.view(provider, false))).await
    }

    /// With models; of one provider, or of all where the name is empty.
    pub async fn catalogue(&self, name: &str) -> Result<Vec<ProviderView>, Error> {
        let setup = self.setup();
        if !name.is_empty() && setup.provider(name).is_none() {
            return Err(self.known(&setup).unknown(name));
        }
        let asked = setup
            .providers
            .iter()
            .filter(|provider| name.is_empty() || provider.name() == name);
        Ok(join_all(asked.map(|provider| self.view(provider, true))).await)
    }

    async fn view(&self, provider: &Arc<dyn Provider>, with_models: bool) -> ProviderView {
        let name = provider.name().to_owned();
        // A store that hangs must not hang the overview with it; the key then is told as being looked up.
        let _late = tokio::time::timeout(PATIENCE, self.0.keys.settle(&name)).await;
        let (key, trouble) = match self.key(provider.as_ref()) {
            Ok(key) => (key, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let missing = provider.needs_key() && key.is_none();
        let listed = if missing || !(with_models || provider.is_endpoint()) {
            None
        } else {
            Some(self.0.models.models(provider.as_ref(), key.clone()).await)
        };
        let entry = self.0.board.lock().get(&name);
        let resting = self.0.board.lock().resting(&name, Instant::now());
        let available = match (missing, resting) {
            (true, _) => {
                let asked = format!("has no key: set it with: nexus models key set {name}");
                Available::No(trouble.unwrap_or(asked))
            }
            (false, Some(resting)) => Available::Sick(resting.message),
            (false, None) => reached(provider.is_endpoint(), listed.as_ref()),
        };
        let models = if with_models {
            merged(catalogue::models(&name), listed)
        } else {
            Vec::new()
        };
        let (today, total) = self.0.ledger.tally(&name);
        ProviderView {
            name,
            available,
            models,
            statistics: entry.statistics,
            today,
            total,
        }
    }
}

fn reached(is_endpoint: bool, listed: Option<&Result<Vec<Model>, Failure>>) -> Available {
    match listed {
        Some(Err(failure)) if failure.kind == Kind::Refused => Available::Sick(failure.to_string()),
        // An endpoint without a list of models answers 404; it is there all the same.
        Some(Err(failure)) if is_endpoint && !matches!(failure.kind, Kind::UnknownModel | Kind::NoSuchPath) => {
            Available::No(failure.to_string())
        }
        _ => Available::Yes,
    }
}

/// What we know of a model is kept; what the provider adds comes after.
fn merged(mut known: Vec<Model>, listed: Option<Result<Vec<Model>, Failure>>) -> Vec<Model> {
    for model in listed.and_then(Result::ok).unwrap_or_default() {
        if !known.iter().any(|one| one.id == model.id) {
            known.push(model);
        }
    }
    known
}
