//! Sets up isolation for one command and executes it: the helper `nexus-sandbox`, and the words it is spoken to in.
//!
//! ```text
//!   daemon ── spec (JSON) ──▶ monitor ── clone ──▶ init: pid 1 inside ── fork ──▶ the command
//!          ◀── reports ─────  keeps cgroup, logs,   builds the root, locks itself
//!                             exit file             in, reaps, forwards signals
//! ```
//!
//! The helper is a process of its own because only a process with one thread may enter namespaces and fork safely: a
//! daemon executes it and never forks. It has no threads, no network and no configuration but its spec.
//!
//! It never runs a command with less than what its spec asks for. A step that fails ends everything, by name, with what
//! to do about it. The one thing that may be missing is a limit that this user cannot set here, and that is told.

mod calls;
pub mod collect;
#[cfg(target_os = "linux")]
mod helper;
pub mod log;
mod profile;
pub mod report;
pub mod spec;
#[cfg(target_os = "linux")]
mod sys;

pub use profile::profile;
pub use report::{Ended, Failed, Probe, Report, Started};
pub use spec::{
    Access, Caller, Cgroup, Collect, Isolation, Join, Landlock, Limits, Mount, NOBODY, Network, Request, Rootfs, Run,
    Source, Terminal, User,
};

/// The helper's whole life: what its `main` calls.
pub fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    return helper::main();
    #[cfg(not(target_os = "linux"))]
    {
        eprintln!("nexus-sandbox: works on Linux only; use Docker or Podman here");
        std::process::ExitCode::from(report::FAILED)
    }
}
