//! The command line of `nexus services install` and `uninstall`.

use std::path::PathBuf;

use clap::Args;

use super::{Kind, Scope};

#[derive(Debug, Args)]
pub struct Which {
    /// The services; all by default
    pub services: Vec<String>,
    /// Install for this user (the default)
    #[arg(long, conflicts_with = "system")]
    pub user: bool,
    /// Install for the whole host, as root; the daemons then run as the user nexus, in /var/lib/nexus
    #[arg(long)]
    pub system: bool,
    /// The init system; this host's own by default
    #[arg(long, value_enum, hide_short_help = true)]
    pub manager: Option<Kind>,
    /// Only print what would be done
    #[arg(long)]
    pub dry_run: bool,
}

impl Which {
    pub fn scope(&self) -> Scope {
        if self.system { Scope::System } else { Scope::User }
    }

    pub fn kind(&self) -> Kind {
        self.manager.unwrap_or(Kind::of_this_host())
    }
}

#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    pub which: Which,
    /// Install and enable, and leave the start to the next login or boot
    #[arg(long)]
    pub no_start: bool,
}

#[derive(Debug, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    pub which: Which,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    pub service: String,
}

#[derive(Debug, Args)]
pub struct ClaimArgs {
    pub path: PathBuf,
}
