//! The container engines: detected when they are first needed, and called with a deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use nexus_runtime::{Choice, Config, Error, Found, HostUser, Result, choose, sandbox};
use parking_lot::Mutex;

use crate::domain::container::BARE;
use crate::domain::container::policy::HOST_IMAGE;

/// Engines that answered once. What is away later is asked again with the next call: they dial for each.
#[derive(Debug)]
pub struct Runtime {
    config: Config,
    /// The backend that the config names, once it was found.
    main: Mutex<Option<&'static str>>,
    found: Mutex<BTreeMap<&'static str, Found>>,
    /// One search at a time.
    search: tokio::sync::Mutex<()>,
}

impl Runtime {
    pub fn new(config: Config) -> Self {
        Runtime {
            config,
            main: Mutex::default(),
            found: Mutex::default(),
            search: tokio::sync::Mutex::default(),
        }
    }

    /// Whether the config lets this engine run commands: one that isolates nothing has to be named.
    pub fn allows(&self, name: &str) -> Result<()> {
        if name != BARE || self.config.backend == Choice::HostUnsafe {
            return Ok(());
        }
        Err(Error::Unusable {
            engine: BARE,
            why: "it isolates nothing, and orchestrator.container_backend does not name it any more".into(),
        })
    }

    /// Whether a user of this host may use these paths, and those with `true` for writing.
    pub async fn access(&self, user: &HostUser, paths: Vec<(PathBuf, bool)>) -> Result<()> {
        sandbox::access(&self.config, user, paths).await
    }

    /// The engine for an image: the host's own is always the built-in sandbox, unless the config wants no isolation.
    pub async fn pick(&self, image: &str) -> Result<Found> {
        if image == HOST_IMAGE && self.config.backend != Choice::HostUnsafe {
            self.named("sandbox").await
        } else {
            self.main().await
        }
    }

    /// The engine that the config wants, or the first that works.
    pub async fn main(&self) -> Result<Found> {
        let known = || {
            let main = *self.main.lock();
            main.and_then(|name| self.found.lock().get(name).cloned())
        };
        if let Some(found) = known() {
            return Ok(found);
        }
        let _search = self.search.lock().await;
        if let Some(found) = known() {
            return Ok(found);
        }
        let found = choose(&self.config).await?;
        *self.main.lock() = Some(found.engine.name());
        Ok(self.keep(found))
    }

    /// The engine that a container was made with.
    pub async fn named(&self, name: &str) -> Result<Found> {
        if let Some(found) = self.found.lock().get(name) {
            return Ok(found.clone());
        }
        let backend = match name {
            "docker" => Choice::Docker,
            "podman" => Choice::Podman,
            // To see to what is left of it; what may be run with it says `allows`.
            BARE => Choice::HostUnsafe,
            _ => Choice::Sandbox,
        };
        let _search = self.search.lock().await;
        let config = Config {
            backend,
            ..self.config.clone()
        };
        Ok(self.keep(choose(&config).await?))
    }

    fn keep(&self, found: Found) -> Found {
        tracing::info!(
            engine = found.probe.engine,
            version = found.probe.version,
            place = found.probe.place,
            "found a container engine"
        );
        if !found.probe.isolates {
            tracing::warn!(
                engine = found.probe.engine,
                "commands run on the bare host, without any isolation: orchestrator.container_backend says so"
            );
        }
        self.found.lock().insert(found.engine.name(), found.clone());
        found
    }

    /// All that were found so far.
    pub fn known(&self) -> Vec<Found> {
        self.found.lock().values().cloned().collect()
    }
}

/// Waits no longer than this.
pub async fn within<T>(
    engine: &Found,
    doing: &'static str,
    after: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(after, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::Timeout {
            engine: engine.engine.name(),
            doing,
            after,
        }),
    }
}
