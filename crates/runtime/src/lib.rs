//! Runs commands in isolation, behind one trait: Docker or Podman through their API, or the built-in sandbox.
//!
//! ```text
//!   choose(config) ──▶ dyn Engine ──┬── docker/   Docker and Podman over HTTP on their sockets
//!                                   └── sandbox/  namespaces set up by the helper `nexus-sandbox`; without any
//!                                                 isolation, as `host-unsafe`, only where the config names it
//! ```
//!
//! An engine does what it is told: who may run what, and what happens after an exit, is decided by its caller. It never
//! weakens what a spec asks for in silence: a limit that it cannot enforce is named in [`Probe::unenforced`], anything
//! else that it cannot do is [`Error::Unsupported`]. Nothing here forks: a process is started by executing one.

#![warn(missing_docs)]

mod choose;
mod config;
mod docker;
mod engine;
mod error;
pub mod images;
mod login;
pub mod sandbox;
mod spec;
mod state;

pub use choose::{Found, choose, try_each};
pub use config::{Choice, Config};
pub use engine::{Chunks, Engine, Events, Work};
pub use error::{Error, Result};
pub use images::{Credentials, Image, ImageLimits, Progress, PullOrder, PullPolicy, Pulled};
pub use login::login;
pub use spec::{Collect, ContainerSpec, HostUser, Limit, Limits, Mount, MountKind, NetworkMode, Port, Protocol};
pub use state::{
    Chunk, Collected, Event, EventKind, ExecOutput, ExecSpec, ExitInfo, Info, Input, LogOptions, Probe, Source, State,
    Stats, Written,
};
