//! What people run from a checkout. Each command is a file and says what it does before it does it.

mod bench;
mod cargo;
mod cold;
mod dist;
mod fuzz;
mod graph;
mod rooms;
mod test;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, run and check Nexus from this checkout.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build everything, start the daemons, and have a first conversation
    Up,
    /// Stop the daemons
    Down,
    /// Check formatting, lints, the crate graph and the rooms inside the crates, then run every test
    Test(test::Args),
    /// Compare the crates' dependencies with the snapshot
    Graph {
        /// Write the snapshot again
        #[arg(long)]
        bless: bool,
    },
    /// Compare the arrows between modules inside each crate with the checked-in list
    Rooms {
        /// Write the list again; arrows that point the wrong way may go, and none may come
        #[arg(long)]
        bless: bool,
    },
    /// Feed hostile bytes to everything that reads bytes from outside
    Fuzz(fuzz::Args),
    /// Measure what ships, beside yardsticks of its own
    Bench(bench::Args),
    /// Build what ships: a tarball, a Debian package and an OCI image, with checksums
    Dist(dist::Args),
}

fn main() -> ExitCode {
    if fuzz::is_compiler() {
        return finish(fuzz::compile());
    }
    let done = match Cli::parse().command {
        Command::Up => up::up(),
        Command::Down => up::down(),
        Command::Test(args) => test::run(&args),
        Command::Graph { bless } => graph::run(bless),
        Command::Rooms { bless } => rooms::run(bless),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Dist(args) => dist::run(&args),
    };
    finish(done.map(|()| ExitCode::SUCCESS))
}

fn finish(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
