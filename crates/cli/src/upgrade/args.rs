//! The command line of `nexus upgrade`, and its help.

use std::{path::PathBuf, time::Duration};

use clap::Args;

const MORE: &str = "\
Nothing is downloaded: give it a release that you have, as `cargo xtask dist` makes one. Its SHA256SUMS must lie beside
the tarball, or its sum be given. It works for what a tarball's install.sh has installed; a Debian package is upgraded
by dpkg.

What it does, in this order:
  unpack    into PREFIX/lib/nexus/versions/VERSION, every file checked against its sum
  check     the new programs run, they take the settings and the stores as they are, there is room
  backup    of the state, in backups/ of the tree
  switch    one link, PREFIX/lib/nexus/current
  restart   the supervisor becomes the new one, then the services restart in order; clients wait and reconnect
  finish    all that was ready before is ready again, says the new version, and stays so; old versions are removed
If a service does not come back within --wait, or does not last for --stay, everything goes back to the version before by itself, the last lines of
its log are shown, and the exit code is 11 (12 if the version before does not come back either).

Until `switch` nothing has changed: whatever goes wrong is undone. An upgrade that is killed is undone or finished by
the next `nexus upgrade`, with or without a release; `nexus doctor` tells of it.

The way back: a new version only adds to what a store has, and the version before goes on with it. One that takes
something away is refused as long as the version before still needs it. --rollback keeps everything that was written.

Examples:
  nexus upgrade nexus-0.2.0-linux-amd64.tar.gz --dry-run
  nexus upgrade nexus-0.2.0-linux-amd64.tar.gz
  nexus upgrade --list
  nexus upgrade --rollback
  nexus upgrade                            finish, or undo, what was cut off";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub struct UpgradeArgs {
    /// The release: nexus-VERSION-TARGET.tar.gz with its SHA256SUMS beside it, or the folder it unpacks to
    #[arg(conflicts_with_all = ["list", "rollback"])]
    pub source: Option<PathBuf>,
    /// The tarball's checksum, instead of a SHA256SUMS beside it
    #[arg(long, value_name = "HEX", requires = "source")]
    pub sha256: Option<String>,
    /// Roll back to the previous version
    #[arg(long, conflicts_with = "list")]
    pub rollback: bool,
    /// Show which versions are installed
    #[arg(long)]
    pub list: bool,
    /// Check everything and change nothing
    #[arg(long, conflicts_with = "list")]
    pub dry_run: bool,
    /// How many versions to keep installed, including the current one
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..))]
    pub keep: u8,
    /// How long the services may take to become ready again
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// How long the services must stay ready before the upgrade counts as done
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    pub stay: Duration,
    /// Do not make a backup first
    #[arg(long)]
    pub no_backup: bool,
    /// The installation directory, if this program does not belong to it
    #[arg(long, value_name = "DIR")]
    pub prefix: Option<PathBuf>,
    /// Report how this version reads the stores; called by another version
    #[arg(long, hide = true)]
    pub stores: bool,
}
