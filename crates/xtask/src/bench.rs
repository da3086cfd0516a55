//! Builds what ships and measures it. The measuring is a program of its own, `crates/bench`: this only builds, and says
//! where things are.

use std::{ffi::OsString, process::Command};

use anyhow::Result;

use crate::{cargo, cold};

/// The row that is measured here, and only when it is asked for: it compiles everything from nothing.
const COLD: &str = "cold";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to build with; what ships is `dist`, and takes minutes
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Less of everything: to see that it works
    #[arg(long)]
    quick: bool,
    /// How long the row soak takes, e.g. 1h
    #[arg(long, value_name = "TIME", default_value = "1m")]
    soak: String,
    /// Only these rows: unary, durable, grown, deltas, fanout, door, start, stored, services, containers, tools, soak, idle,
    /// sizes; and cold, a build from nothing, which runs only if it is named
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let rows: Vec<&String> = args.only.iter().filter(|row| *row != COLD).collect();
    if rows.len() < args.only.len() {
        cold::run()?;
        if rows.is_empty() {
            return Ok(());
        }
    }
    // Apart, so that the daemons are built with their own features and not with those of the measuring.
    let bin = cargo::build_binaries(&args.profile)?;
    cargo::run(cargo::cargo().args(["build", "--profile", &args.profile, "--package", "nexus-bench"]))?;
    let mut command = Command::new(bin.join("nexus-bench"));
    let paths: [(&str, OsString); 3] = [
        ("--bin", bin.into()),
        ("--out", cargo::target_dir()?.join("bench").into()),
        ("--profile", args.profile.clone().into()),
    ];
    command.args(["run", "--soak", &args.soak]);
    for (flag, value) in paths {
        command.arg(flag).arg(value);
    }
    if args.quick {
        command.arg("--quick");
    }
    for row in rows {
        command.args(["--only", row]);
    }
    cargo::run(&mut command)
}
