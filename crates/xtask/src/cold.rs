//! What it costs to build from nothing what `cargo xtask up` builds: the row `cold` of the bench.
//!
//! Seconds on the clock depend on who else compiles; the seconds of CPU and the packages do not, so those are what two
//! versions are compared by. Fetching the packages is not counted.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::cargo;

pub fn run() -> Result<()> {
    cargo::run(cargo::cargo().args(["fetch", "--locked"]))?;
    let place = tempfile::Builder::new()
        .prefix("cold-")
        .tempdir_in(cargo::target_dir()?)
        .context("failed to make a directory for the build")?;
    let (begin, before) = (Instant::now(), used_by_children()?);
    cargo::run(
        cargo::cargo()
            .args(["build", "--package", "nexus-xtask"])
            .env("CARGO_TARGET_DIR", place.path()),
    )?;
    cargo::build_binaries_in(Some(place.path()), "release")?;
    let (wall, cpu) = (begin.elapsed(), used_by_children()?.saturating_sub(before));
    let cores = std::thread::available_parallelism()?.get();
    println!("{:>10} {:>10} {:>9}  row", "seconds", "CPU s", "packages");
    println!(
        "{:>10} {:>10} {:>9}  cold, {cores} cores",
        wall.as_secs(),
        cpu.as_secs(),
        packages()?
    );
    Ok(())
}

/// Time on a core of every process that this one has waited for, and of those that they have.
fn used_by_children() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").context("this row needs the /proc of Linux")?;
    let ticks = children_ticks(&stat).context("/proc/self/stat has another form")?;
    // The kernel counts in hundredths here whatever its own clock does.
    Ok(Duration::from_millis(ticks * 10))
}

/// `cutime` and `cstime`, the 16th and 17th field; the second is a name in parentheses that may hold anything.
fn children_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(13);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// How many packages the binaries are made of, those that only build them included.
fn packages() -> Result<usize> {
    let mut command = cargo::cargo();
    command.args([
        "tree",
        "--locked",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--no-dedupe",
    ]);
    command.args(
        cargo::BINARIES
            .iter()
            .flat_map(|binary| ["--package", cargo::package(binary)]),
    );
    let output = command.output().context("failed to run cargo tree")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut names: Vec<&str> = text
        .lines()
        .map(|line| line.split(" (").next().unwrap_or(line))
        .collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    names.dedup();
    Ok(names.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_children_is_read_whatever_the_program_is_called() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 100 200 31 42 20 0 1 0 5";
        assert_eq!(children_ticks(stat), Some(73));
        assert_eq!(children_ticks("7 (a"), None);
    }
}
