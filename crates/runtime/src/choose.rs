//! Selects the engine: the one that the config names, else the first that works.

use std::sync::Arc;
use std::time::Duration;

use crate::docker::{Address, Docker, Environment};
use crate::{Choice, Config, Engine, Error, Probe, Result, sandbox};

/// Longest that a place may take to say what it is.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// An engine that works, and what it can do.
#[derive(Clone, Debug)]
pub struct Found {
    /// Asked from now on; each call dials by itself.
    pub engine: Arc<dyn Engine>,
    /// What it said of itself when it was found.
    pub probe: Probe,
}

/// The engine to use.
///
/// # Errors
///
/// [`Error::NoBackend`] with why each that was tried does not work, and what to install; [`Error::Unusable`] if the one that
/// the config names does not work.
pub async fn choose(config: &Config) -> Result<Found> {
    match config.backend {
        Choice::Docker => docker(config).await,
        Choice::Podman => podman(config).await,
        Choice::Sandbox | Choice::HostUnsafe => built_in(config).await,
        Choice::Auto => {
            let mut tried = Vec::new();
            for (name, found) in try_each(config, true).await {
                match found {
                    Ok(found) => return Ok(found),
                    Err(error) => tried.push(format!("{name}: {error}")),
                }
            }
            Err(Error::NoBackend {
                tried: tried.join("; "),
                install: INSTALL,
            })
        }
    }
}

const INSTALL: &str = "install Docker or Podman, or allow unprivileged user namespaces for the built-in sandbox";

/// Every backend in the order of choice, with why it does not work where it does not. Stops at the first that works if
/// `first` is set.
pub async fn try_each(config: &Config, first: bool) -> Vec<(&'static str, Result<Found>)> {
    let mut all = Vec::new();
    for name in ["docker", "podman", "sandbox"] {
        let found = match name {
            "docker" => docker(config).await,
            "podman" => podman(config).await,
            _ => built_in(config).await,
        };
        let works = found.is_ok();
        all.push((name, found));
        if first && works {
            break;
        }
    }
    all
}

async fn docker(config: &Config) -> Result<Found> {
    at(config, "docker", Environment::here().docker(&config.host)?).await
}

async fn podman(config: &Config) -> Result<Found> {
    at(config, "podman", Environment::here().podman(&config.host)?).await
}

async fn built_in(config: &Config) -> Result<Found> {
    let engine = sandbox::open(config).await?;
    let probe = engine.probe().await?;
    Ok(Found { engine, probe })
}

/// The first of these places where the wanted engine answers.
async fn at(config: &Config, wanted: &'static str, places: Vec<Address>) -> Result<Found> {
    let mut why = Vec::new();
    for place in places {
        if !place.exists() {
            why.push(format!("there is no {place}"));
            continue;
        }
        let connecting = Docker::connect(place.clone(), config.image_limits, &config.directory);
        let connected = tokio::time::timeout(PROBE_DEADLINE, connecting).await;
        let engine = match connected {
            Ok(Ok(engine)) => engine,
            Ok(Err(error)) => {
                why.push(error.to_string());
                continue;
            }
            Err(_) => {
                why.push(format!("{place} does not answer"));
                continue;
            }
        };
        // One may listen where the other usually does.
        if engine.name() != wanted {
            why.push(format!("{place} is a {}", engine.name()));
            continue;
        }
        let probe = engine.probe().await?;
        return Ok(Found {
            engine: Arc::new(engine),
            probe,
        });
    }
    Err(Error::Unusable {
        engine: wanted,
        why: why.join(", "),
    })
}
