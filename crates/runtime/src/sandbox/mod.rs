//! The built-in sandbox: containers without a daemon of their own and without root.
//!
//! Every container is a directory and, while it runs, one process: the helper `nexus-sandbox`, which sets it up, watches
//! over it, keeps its log and writes down how it ended. Nothing is kept in this process that is not in the directory: a
//! daemon that comes back finds what still runs and how the rest ended.
//!
//! The backend `host-unsafe` is the same with nothing in between: `bare.rs` says what is different.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Config, Engine, HostUser, Result};

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
mod input;
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

/// A number that no user has: who the containers of a daemon that is root are on the host where nobody else is named.
pub const NOBODY: u32 = nexus_sandbox::NOBODY.uid;

/// The sandbox, if it works here.
#[cfg(target_os = "linux")]
pub async fn open(config: &Config) -> Result<Arc<dyn Engine>> {
    Ok(Arc::new(Sandbox::open(config).await?))
}

/// Whether a user of the host may use these paths, and those with `true` for writing.
/// [`Error::Denied`](crate::Error::Denied) if not.
#[cfg(target_os = "linux")]
pub async fn access(config: &Config, user: &HostUser, paths: Vec<(PathBuf, bool)>) -> Result<()> {
    let caller = convert::caller(user);
    helper::access(&helper::find(config)?, nexus_sandbox::Access { caller, paths }).await
}

/// Whether a user of the host may use these paths. Without a helper it is what this very process may: engines here run as
/// its user.
#[cfg(not(target_os = "linux"))]
pub async fn access(_config: &Config, user: &HostUser, paths: Vec<(PathBuf, bool)>) -> Result<()> {
    for (path, write) in paths {
        let metadata = std::fs::metadata(&path);
        let readable = metadata.is_ok_and(|found| found.is_dir() || std::fs::File::open(&path).is_ok());
        let writable = !write || std::fs::metadata(&path).is_ok_and(|found| !found.permissions().readonly());
        if !readable || !writable {
            return Err(crate::Error::Denied(format!(
                "user {} may not use {}",
                user.uid,
                path.display()
            )));
        }
    }
    Ok(())
}

/// The sandbox, if it works here.
#[cfg(not(target_os = "linux"))]
pub async fn open(_config: &Config) -> Result<Arc<dyn Engine>> {
    Err(crate::Error::Unusable {
        engine: "sandbox",
        why: "it is made of Linux namespaces; use Docker or Podman here".into(),
    })
}
