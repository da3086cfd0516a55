//! Images: what they are called, how they come here, and how far that is.

use std::fmt;
use std::time::SystemTime;

#[cfg(target_os = "linux")]
mod config;
#[cfg(target_os = "linux")]
pub(crate) mod import;
#[cfg(target_os = "linux")]
mod layers;
#[cfg(target_os = "linux")]
mod name;
#[cfg(target_os = "linux")]
pub(crate) mod pull;
#[cfg(target_os = "linux")]
mod store;
#[cfg(target_os = "linux")]
mod unpack;

#[cfg(target_os = "linux")]
pub(crate) use {config::Resolved, store::Store, unpack::Bounds};

/// The host's own system directories, read-only: always there, and what an empty name means. The sandbox alone has it.
pub const HOST: &str = "nexus/host";

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its digest, or what the engine knows it by.
    pub id: String,
    /// As it is asked for: `name:tag`. Empty: it has no name any more.
    pub references: Vec<String>,
    pub bytes: u64,
    pub created: Option<SystemTime>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// If it is not here.
    #[default]
    Missing,
    /// Asks the registry for a newer one each time.
    Always,
    /// It has to be here.
    Never,
}

/// What a registry wants to know of its caller.
#[derive(Clone)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// A layer, or what is being done.
    pub what: String,
    /// In words: `downloading`, `unpacking`.
    pub status: String,
    pub bytes: u64,
    /// Zero: not known.
    pub total: u64,
}

/// What a pull came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub image: Image,
    /// False: it was here, and nothing was asked of a registry.
    pub fetched: bool,
}
