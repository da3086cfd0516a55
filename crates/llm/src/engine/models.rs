//! The models that providers list, asked rarely and with a short timeout. It also shows whether an endpoint is there.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{domain::catalogue::Model, domain::failure::Failure, keys::Key, provider::Provider};

const PATIENCE: Duration = Duration::from_secs(2);
/// How long the models of a reachable endpoint are cached; an unreachable one is asked again sooner.
const FRESH: Duration = Duration::from_secs(60);
const FRESH_FAILURE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Cache {
    // The last answer of each provider and when it came.
    seen: Mutex<BTreeMap<String, Seen>>,
}

#[derive(Clone)]
struct Seen {
    at: Instant,
    models: Result<Vec<Model>, Failure>,
}

impl Cache {
    pub async fn models(&self, provider: &dyn Provider, key: Option<Key>) -> Result<Vec<Model>, Failure> {
        let name = provider.name().to_owned();
        if let Some(seen) = self.seen.lock().get(&name).filter(|seen| seen.is_fresh()) {
            return seen.models.clone();
        }
        let models = provider.models(key, PATIENCE).await;
        self.seen.lock().insert(
            name,
            Seen {
                at: Instant::now(),
                models: models.clone(),
            },
        );
        models
    }

    pub fn clear(&self) {
        self.seen.lock().clear();
    }
}

impl Seen {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < if self.models.is_ok() { FRESH } else { FRESH_FAILURE }
    }
}
