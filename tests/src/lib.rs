//! What the system tests stand on: the real binaries in a place of their own, killed, stopped and started again.
//!
//! A [`Site`] is one `NEXUS_ROOT` with its daemons; [`Talk`] is one conversation on a stream; [`raw`] says what no
//! generated stub would say. Nothing here knows how a daemon works inside: it sees sockets, processes and exit codes.
//!
//! Architecture invariant: nothing is waited for by sleeping. A wait is on health, on a frame, or on a process, and
//! each has an end after which the test fails and the daemons' logs are printed.

pub mod ask;
mod binaries;
mod daemon;
pub mod engines;
pub mod hostile;
mod process;
mod random;
pub mod raw;
pub mod registry;
mod site;
mod skip;
mod skipped;
mod talk;

use std::time::Duration;

pub use nexus_model_server as model_server;

pub use binaries::binary;
pub use daemon::Daemon;
pub use process::Process;
pub use random::Random;
pub use site::{Dial, Site};
pub use skip::{NOBODY, as_nobody, as_user, skipped};
pub use talk::{Frame, Talk, in_reply_to};

/// The longest that anything may take which a test waits for. Much longer than anything takes: what reaches it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);
