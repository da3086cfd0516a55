//! Which engine is wanted, and where engines keep their files.

use std::path::PathBuf;

use crate::ImageLimits;

/// How engines are found, and where they keep what is theirs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Which engine is wanted.
    pub backend: Choice,
    /// `unix:///path` or `tcp://host:port` of a Docker or Podman; empty: the usual places are tried.
    pub host: String,
    /// Where the sandbox keeps containers and images, and the system call filter lies that Podman reads.
    pub directory: PathBuf,
    /// Where another process keeps the images of the sandbox; they are then only looked at. `None`: below `directory`.
    pub images: Option<PathBuf>,
    /// The helper `nexus-sandbox`; `None`: beside the running program, or else in PATH.
    pub helper: Option<PathBuf>,
    /// What images may come to.
    pub image_limits: ImageLimits,
}

/// An engine by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first that works: docker, podman, sandbox.
    #[default]
    Auto,
    /// Docker 20.10 or newer.
    Docker,
    /// Podman 4 or newer.
    Podman,
    /// The built-in one, on Linux.
    Sandbox,
    /// No isolation at all: never chosen, only named.
    HostUnsafe,
}
