//! Units of the host's init system: systemd units and launchd agents.
//!
//! ```text
//!   files (what is checked in) ──▶ render (this installation's paths, this systemd's version) ──▶ install: steps ──▶ done,
//!                                                                                             or shown by --dry-run
//!   systemd, launchd: state, start, stop, restart, enable, disable of one service
//! ```
//!
//! Nothing outside this folder needs to know which of the two it speaks to; [`Kind`] says which one a host has.
//! It never touches what is under `NEXUS_ROOT`, and never a unit that is not ours.

pub mod args;
mod check;
pub mod claim;
mod escape;
mod files;
mod install;
pub mod launchd;
pub mod manager;
mod program;
mod render;
mod steps;
pub mod systemd;
mod uninstall;

use std::path::PathBuf;

pub use install::install;
pub use uninstall::uninstall;

use crate::failure::{Exit, Failure};

/// The names of the units that run programs.
pub fn programs() -> impl Iterator<Item = String> {
    files::TABLE.iter().map(files::Entry::service_unit)
}

/// Which init system keeps the daemons running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Systemd,
    Launchd,
}

impl Kind {
    /// What this kind of host has.
    pub const fn of_this_host() -> Kind {
        if cfg!(target_os = "macos") {
            Kind::Launchd
        } else {
            Kind::Systemd
        }
    }
}

/// Whose manager it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    User,
    System,
}

/// What the units of one installation must know of it.
#[derive(Clone, Debug)]
pub struct Installation {
    pub scope: Scope,
    /// The folder of the programs.
    pub bin: PathBuf,
    pub root: PathBuf,
    /// The orchestrator's socket.
    pub socket: PathBuf,
    /// The socket was given on the command line, so the daemons must be told of it too.
    pub told: bool,
}

impl Scope {
    pub fn systemd(self) -> systemd::Systemd {
        systemd::Systemd::new(self)
    }

    /// Where units of one's own go.
    pub fn folder(self) -> Result<PathBuf, Failure> {
        if self == Scope::System {
            return Ok(PathBuf::from("/etc/systemd/system"));
        }
        let told = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty());
        let home = std::env::var_os("HOME").filter(|path| !path.is_empty());
        let config = told
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(home?).join(".config")))
            .ok_or_else(|| Failure::new(Exit::Failed, "neither HOME nor XDG_CONFIG_HOME is set"))?;
        Ok(config.join("systemd/user"))
    }
}
