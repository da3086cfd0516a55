//! The built-in sandbox: containers without a daemon of their own and without root.
//!
//! Every container is a directory and, while it runs, one process: the helper `nexus-sandbox`, which sets it up, watches
//! over it, keeps its log and writes down how it ended. Nothing is kept in this process that is not in the directory: a
//! daemon that comes back finds what still runs and how the rest ended.
//!
//! The backend `host-unsafe` is the same with nothing in between: `bare.rs` says what is different.

use std::sync::Arc;

use crate::{Config, Engine, Result};

#[cfg(target_os = "linux")]
mod bare;
#[cfg(target_os = "linux")]
mod containers;
#[cfg(target_os = "linux")]
mod convert;
#[cfg(target_os = "linux")]
mod engine;
#[cfg(target_os = "linux")]
mod helper;
#[cfg(target_os = "linux")]
mod logs;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod record;
#[cfg(target_os = "linux")]
mod stats;

#[cfg(target_os = "linux")]
pub use engine::Sandbox;

/// The sandbox, if it works here.
#[cfg(target_os = "linux")]
pub async fn open(config: &Config) -> Result<Arc<dyn Engine>> {
    Ok(Arc::new(Sandbox::open(config).await?))
}

/// The sandbox, if it works here.
#[cfg(not(target_os = "linux"))]
pub async fn open(_config: &Config) -> Result<Arc<dyn Engine>> {
    Err(crate::Error::Unusable {
        engine: "sandbox",
        why: "it is made of Linux namespaces; use Docker or Podman here".into(),
    })
}
