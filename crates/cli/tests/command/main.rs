//! The command as its user sees it: real processes, real sockets, daemons that do as the test says.

#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod agents;
mod fake;
mod fake_agents;
#[cfg(target_os = "linux")]
mod hostile;
mod keep;
mod pages;
#[cfg(target_os = "linux")]
mod supervise;
mod talk;
mod updown;
