//! Runs requests: admits and queues them, asks providers in turn, and counts.
//!
//! A request is a stream that does its work only while it is read, so dropping it stops everything at once, the HTTP
//! request included; nothing of it is left in a task of its own. Settings are replaced whole on a reload; what already
//! runs keeps those it began with.

mod attempt;
mod board;
mod books;
mod ledger;
mod models;
mod places;
mod run;
mod view;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub use self::{
    books::{Books, today},
    ledger::Ledger,
    run::{Output, Run, Whole},
    view::{Available, ProviderView, StatusView},
};
use crate::{
    config::Config,
    domain::{
        catalogue,
        error::Error,
        price::Prices,
        request::Request,
        route::{self, Asked, Known, Target},
    },
    keys::{self, Key, Keys, references::References},
    provider::{self, Http, Provider},
};

/// Why the connections to providers may be dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedialReason {
    /// The host slept, or we were frozen.
    Wake,
    /// The way out of this host is another one, or is back.
    Network,
}

impl RedialReason {
    /// How long an answer under way may stay silent before its connection counts as dead.
    fn patience(self) -> Duration {
        match self {
            RedialReason::Wake => Duration::from_secs(1),
            RedialReason::Network => Duration::from_secs(3),
        }
    }
}

/// Cheap to clone; all clones are the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    // Swapped whole by a reload; a request takes its own reference when it begins.
    setup: RwLock<Arc<Setup>>,
    keys: Keys,
    // The same table that the keys are read from, to tell it of new settings.
    references: Option<References>,
    http: Http,
    ledger: Ledger,
    books: Books,
    places: places::Places,
    // Ids of requests that are answered right now: the same id twice would mix two answers up.
    active: Mutex<HashSet<String>>,
    // Breakers and counters, under one lock as they change together.
    board: Mutex<board::Board>,
    models: models::Cache,
    // Attempts under way look at their connections again when it changes; who pauses before a further one goes on.
    redials: watch::Sender<RedialReason>,
    started: SystemTime,
    started_at: std::time::Instant,
}

/// What a reload can change.
struct Setup {
    config: Config,
    providers: Vec<Arc<dyn Provider>>,
    prices: Prices,
}

impl Engine {
    pub fn new(config: Config, keys: Keys, ledger: Ledger, books: Books) -> Self {
        let http = Http::new(config.connect_timeout);
        let places = places::Places::new(config.max_concurrent_requests);
        let setup = Setup {
            providers: provider::all(&config, &http),
            prices: Prices::new(&config.prices),
            config,
        };
        let references = keys.references();
        Self(Arc::new(Inner {
            setup: RwLock::new(Arc::new(setup)),
            keys,
            references,
            http,
            ledger,
            books,
            places,
            active: Mutex::default(),
            board: Mutex::default(),
            models: models::Cache::default(),
            redials: watch::Sender::new(RedialReason::Network),
            started: SystemTime::now(),
            started_at: std::time::Instant::now(),
        }))
    }

    /// Applies settings to requests that begin from now on.
    pub fn reload(&self, config: &Config) {
        let setup = Setup {
            providers: provider::all(config, &self.0.http),
            prices: Prices::new(&config.prices),
            config: config.clone(),
        };
        if let Some(references) = &self.0.references {
            references.want(config.keys());
        }
        *self.0.setup.write() = Arc::new(setup);
        self.0.models.clear();
    }

    /// Connections of before may be dead: none of them is used again, and no provider is left alone for failures that
    /// were not its own.
    pub fn redial(&self, reason: RedialReason) {
        self.0.http.renew();
        self.0.board.lock().forgive();
        self.0.models.clear();
        self.0.redials.send_replace(reason);
    }

    /// Claims the request's id, which is the only thing that can be refused before a request counts as accepted. What
    /// is wrong otherwise is the first and last output of the run.
    pub fn accept(&self, request: Request) -> Result<Run, Error> {
        if request.id.is_empty() {
            return Err(Error::WithoutId);
        }
        if !self.0.active.lock().insert(request.id.clone()) {
            return Err(Error::Exists);
        }
        let claim = IdClaim {
            inner: self.0.clone(),
            id: request.id.clone(),
        };
        Ok(Run::new(self.clone(), claim, request))
    }

    /// What was used, by day, agent, model and session.
    pub fn books(&self) -> &Books {
        &self.0.books
    }

    fn setup(&self) -> Arc<Setup> {
        self.0.setup.read().clone()
    }

    fn route(&self, request: &Request, setup: &Setup) -> Result<Vec<Target>, Error> {
        request.check()?;
        let known = self.known(setup);
        let asked = Asked {
            provider: &request.provider,
            model: &request.model,
            fallbacks: &request.fallbacks,
        };
        let targets = route::route(asked, &known)?;
        if targets.iter().any(|target| target.provider != catalogue::OFFLINE) {
            self.0.ledger.allow(setup.config.daily_token_budget)?;
        }
        Ok(targets)
    }

    /// One that can use no key is not held up by a key file that is wrong.
    fn key(&self, provider: &dyn Provider) -> Result<Option<Key>, keys::Error> {
        let takes_one = provider.needs_key() || provider.is_endpoint();
        if takes_one {
            self.0.keys.get(provider.name())
        } else {
            Ok(None)
        }
    }

    /// A key that is looked up right now counts as one: the request waits for it.
    fn known(&self, setup: &Setup) -> Known {
        let names = || setup.providers.iter().map(|provider| provider.name().to_owned());
        Known {
            providers: names().collect(),
            keyed: names()
                .filter(|name| matches!(self.0.keys.get(name), Ok(Some(_)) | Err(keys::Error::Pending(_))))
                .collect(),
            key_trouble: self.key_trouble(),
            default_provider: setup.config.default_provider.clone(),
            default_model: setup.config.default_model.clone(),
        }
    }
}

impl Setup {
    fn provider(&self, name: &str) -> Option<&Arc<dyn Provider>> {
        self.providers.iter().find(|provider| provider.name() == name)
    }
}

/// Holds a request's id for as long as it is answered.
struct IdClaim {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for IdClaim {
    fn drop(&mut self) {
        self.inner.active.lock().remove(&self.id);
    }
}
