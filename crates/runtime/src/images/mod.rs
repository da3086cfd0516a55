//! Images: their names, how they are fetched, and the progress of a fetch.

use std::fmt;
#[cfg(target_os = "linux")]
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::SystemTime;

use tokio::sync::mpsc;

#[cfg(target_os = "linux")]
mod config;
#[cfg(target_os = "linux")]
mod document;
#[cfg(target_os = "linux")]
pub(crate) mod import;
#[cfg(target_os = "linux")]
mod layers;
mod limits;
mod name;
#[cfg(target_os = "linux")]
pub(crate) mod pull;
#[cfg(target_os = "linux")]
mod registry;
#[cfg(target_os = "linux")]
mod store;
#[cfg(target_os = "linux")]
mod sweep;
#[cfg(target_os = "linux")]
mod unpack;

pub use limits::ImageLimits;
pub use name::{check_rule, covers, full, registry as registry_of};
#[cfg(target_os = "linux")]
pub use unpack::{Bounds as LayerBounds, Error as LayerError, unpack_layer};
#[cfg(target_os = "linux")]
pub(crate) use {config::Resolved, store::Store};

/// The host's own system directories, read-only: always there, and what an empty name means. The sandbox alone has it.
pub const HOST: &str = "nexus/host";

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its digest, or what the engine knows it by.
    pub id: String,
    /// As it is asked for: `name:tag`. Empty: it has no name any more.
    pub references: Vec<String>,
    /// Of all its files, unpacked.
    pub bytes: u64,
    /// When it was made, or came here.
    pub created: Option<SystemTime>,
}

/// When a registry is asked for an image.
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

/// What is to be here, and what it may cost.
#[derive(Clone, Debug)]
pub struct PullOrder<'a> {
    /// The name of the image.
    pub reference: &'a str,
    /// When its registry is asked.
    pub policy: PullPolicy,
    /// Who we are at its registry; `None`: nobody.
    pub credentials: Option<&'a Credentials>,
    /// Told as far as the receiver keeps up.
    pub progress: Option<mpsc::Sender<Progress>>,
    /// Bytes that the image may have, beside [`ImageLimits`]; `None`: as many as those say.
    pub max_bytes: Option<u64>,
}

/// What a registry wants to know of its caller.
#[derive(Clone)]
pub struct Credentials {
    /// Sent to the registry of the image, and to the server for tokens that it names.
    pub username: String,
    /// The same; never shown.
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
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes in the end; zero: not known.
    pub total: u64,
}

/// What a pull came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The image that is here now.
    pub image: Image,
    /// False: it was here, and nothing was asked of a registry.
    pub fetched: bool,
}

/// Whoever waits for an image. When this is dropped, work that blocks for it ends early.
#[cfg(target_os = "linux")]
pub(crate) struct Waiting(Arc<AtomicBool>);

#[cfg(target_os = "linux")]
impl Waiting {
    /// With the flag that is raised in the end.
    pub fn new() -> (Waiting, Arc<AtomicBool>) {
        let stop = Arc::new(AtomicBool::new(false));
        (Waiting(Arc::clone(&stop)), stop)
    }
}

#[cfg(target_os = "linux")]
impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
