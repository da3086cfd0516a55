//! Everything that is checked, in the order in which it is cheapest to fail: formatting, lints, the crate graph, the
//! rooms inside the crates, then the tests. The daemons are built first, because the system tests run the real ones.

mod times;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::Command,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use times::{Programs, Times};

use crate::{cargo, graph, rooms};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Unit tests only: no real daemons, no foreign clients
    #[arg(long)]
    quick: bool,
    /// Only tests whose name contains this; formatting and lints are skipped
    filter: Option<String>,
}

/// Tests that find a tool missing add a line `name: what is missing` to the file that this variable names.
const SKIPPED: &str = "NEXUS_TESTS_SKIPPED";

/// Lines of the tests that wait to be printed.
const LINES: usize = 1024;
/// After so long without a line it is looked whether cargo still runs.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

pub fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    if args.filter.is_none() {
        cargo::run(cargo::cargo().args(["fmt", "--all", "--check"]))?;
        cargo::run(cargo::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]))?;
        graph::run(false)?;
        rooms::run(false)?;
    }
    let target = cargo::target_dir()?;
    fs::create_dir_all(&target).with_context(|| format!("failed to create {}", target.display()))?;
    let skipped_file = target.join("skipped-tests.txt");
    fs::write(&skipped_file, "").with_context(|| format!("failed to write {}", skipped_file.display()))?;

    let mut arguments = vec!["test", "--workspace"];
    let mut command = cargo::cargo();
    if args.quick {
        arguments.extend(["--lib", "--bins"]);
    } else {
        let bin = cargo::build_binaries("dev")?;
        command.env("NEXUS_BIN_DIR", bin);
    }
    let mut times = Times::new(Programs::build(&arguments)?);
    command
        .args(&arguments)
        .arg("--no-fail-fast")
        .env(SKIPPED, &skipped_file);
    if let Some(filter) = &args.filter {
        command.args(["--", filter]);
    }
    let (count, fine) = counted(&mut command, &mut times)?;
    let skipped = fs::read_to_string(&skipped_file).unwrap_or_default();
    let skipped: Vec<&str> = skipped.lines().filter(|line| !line.trim().is_empty()).collect();
    println!("\n{}", times.table());
    summary(&count, &skipped, begin);
    if !fine || count.failed > 0 {
        bail!("tests failed; they are named above");
    }
    if count.passed == 0 {
        bail!("no test ran");
    }
    if !skipped.is_empty() && std::env::var("CI").is_ok_and(|ci| ci == "true") {
        bail!("with CI=true nothing may be skipped");
    }
    Ok(())
}

/// Runs the tests in sight and adds up what each test program says at its end.
fn counted(command: &mut Command, times: &mut Times) -> Result<(Count, bool)> {
    println!("$ {}", cargo::show(command));
    // One pipe for both: cargo names a program on one stream, and the program reports on the other.
    let (output, pipe) = std::io::pipe().context("failed to make a pipe")?;
    let other = pipe.try_clone().context("failed to make a pipe")?;
    let mut child = command
        .stdout(pipe)
        .stderr(other)
        .spawn()
        .context("failed to run cargo test")?;
    // The command holds ends of the pipe, which ends when nobody can write to it.
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let (lines, received) = mpsc::sync_channel(LINES);
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            if lines.send((line, Instant::now())).is_err() {
                return;
            }
        }
    });
    let mut count = Count::default();
    let mut out = std::io::stdout().lock();
    loop {
        let (line, at) = match received.recv_timeout(QUIET) {
            Ok(received) => received,
            Err(RecvTimeoutError::Disconnected) => break,
            // What a test left running may hold the pipe open for ever; the tests are over all the same.
            Err(RecvTimeoutError::Timeout) => match child.try_wait().context("failed to wait for cargo test")? {
                Some(_) => break,
                None => continue,
            },
        };
        let line = line.context("failed to read what cargo test prints")?;
        out.write_all(&line)?;
        out.write_all(b"\n")?;
        out.flush()?;
        let line = String::from_utf8_lossy(&line);
        times.line(&line, at);
        add(&mut count, &line);
    }
    times.end(Instant::now());
    let status = child.wait().context("failed to wait for cargo test")?;
    Ok((count, status.success()))
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`
fn add(count: &mut Count, line: &str) {
    let Some(result) = line.strip_prefix("test result: ") else {
        return;
    };
    let facts = result.split_once(". ").map_or("", |(_, facts)| facts);
    for fact in facts.split("; ") {
        let Some((number, what)) = fact.split_once(' ') else {
            continue;
        };
        let number = number.parse().unwrap_or(0);
        match what {
            "passed" => count.passed += number,
            "failed" => count.failed += number,
            "ignored" => count.ignored += number,
            _ => {}
        }
    }
}

fn summary(count: &Count, skipped: &[&str], begin: Instant) {
    for name in skipped {
        println!("skipped: {name}");
    }
    if count.ignored > 0 {
        println!("{} tests are marked as ignored", count.ignored);
    }
    println!("in {} s:", begin.elapsed().as_secs());
    println!(
        "{} passed, {} failed, {} skipped",
        count.passed,
        count.failed,
        skipped.len()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_all_programs_are_added_up() {
        let mut count = Count::default();
        add(
            &mut count,
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        add(
            &mut count,
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        add(&mut count, "test tests::x ... ok");
        assert_eq!(
            count,
            Count {
                passed: 5,
                failed: 4,
                ignored: 1
            }
        );
    }
}
