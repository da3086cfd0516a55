//! Measures the daemons beside yardsticks of their own, in pairs taken in turn, so that what else the machine does
//! falls on both. Every figure of a run comes from one run on one machine.
//!
//! It starts the real programs in trees and on sockets of their own and ends them by pid. It changes nothing else.

mod daemons;
mod echo;
mod events;
mod figures;
mod load;
mod plot;
mod ready;
mod report;
mod rows;
mod sqlite;
mod wire;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use figures::Figure;
use report::Setting;
use rows::Run;

const ROWS: [&str; 14] = [
    "unary",
    "durable",
    "grown",
    "deltas",
    "fanout",
    "door",
    "start",
    "stored",
    "services",
    "containers",
    "tools",
    "soak",
    "idle",
    "sizes",
];

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, and print a table
    Run(RunArgs),
    /// The yardstick server, until it is killed
    Echo {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        answer_bytes: usize,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Where nexus and the daemons are
    #[arg(long)]
    bin: PathBuf,
    /// Where the results go
    #[arg(long)]
    out: PathBuf,
    /// What the programs were built with; only told
    #[arg(long, default_value = "unknown")]
    profile: String,
    /// Stores and sockets lie here, on the disk that is to be measured
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// Less of everything: to see that it works
    #[arg(long)]
    quick: bool,
    /// How long the row `soak` takes
    #[arg(long, default_value = "1m", value_parser = humantime::parse_duration)]
    soak: Duration,
    /// Only these rows
    #[arg(long, value_name = "ROW", value_parser = ROWS)]
    only: Vec<String>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => measure(&args),
        Command::Echo { socket, answer_bytes } => echo::serve(&socket, answer_bytes),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nexus-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &RunArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dir = tempfile::Builder::new().prefix("nb").tempdir_in(&args.dir)?;
    let run = Run {
        bin: fs::canonicalize(&args.bin).with_context(|| format!("no programs in {}", args.bin.display()))?,
        dir: dir.path().to_path_buf(),
        // Many short ones rather than few long ones: what else the machine does comes and goes, and the disk with it.
        pairs: if args.quick { 3 } else { 21 },
        time: Duration::from_millis(if args.quick { 250 } else { 400 }),
        soak: if args.quick { Duration::from_secs(12) } else { args.soak },
        quick: args.quick,
    };
    let before = load_average();
    let figures = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // A run that is broken off still ends what it started: everything of ours goes with the future.
        tokio::select! {
            figures = rows(&run, &args.only) => figures,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("told to stop"),
        }
    })?;
    let setting = Setting {
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        profile: args.profile.clone(),
        quick: args.quick,
        cores: std::thread::available_parallelism()?.get(),
        kernel: said("/proc/sys/kernel/osrelease"),
        load_average: [before, load_average()],
    };
    println!("\n{}", report::table(&figures));
    println!(
        "{} cores, Linux {}, load average {} before and {} after",
        setting.cores, setting.kernel, setting.load_average[0], setting.load_average[1]
    );
    report::keep(&args.out, &setting, &figures)
}

async fn rows(run: &Run, only: &[String]) -> Result<Vec<Figure>> {
    let wanted = |row: &str| only.is_empty() || only.iter().any(|only| only == row);
    let mut used = None;
    if wanted("start") || wanted("idle") {
        eprintln!("filling a store ...");
        used = Some(rows::start::used(run).await?);
    }
    let mut all = Vec::new();
    for row in ROWS.into_iter().filter(|row| wanted(row)) {
        eprintln!("{row} ...");
        let figures = match (row, &used) {
            ("unary", _) => rows::unary::run(run).await,
            ("stored", _) => rows::stored::run(run).await,
            ("durable", _) => rows::durable::run(run).await,
            ("grown", _) => rows::durable::grown(run).await,
            ("deltas", _) => rows::deltas::run(run).await,
            ("fanout", _) => rows::fanout::run(run).await,
            ("door", _) => rows::door::run(run).await,
            ("start", Some(used)) => rows::start::run(run, used).await,
            ("services", _) => rows::services::run(run),
            ("containers", _) => rows::containers::run(run).await,
            ("tools", _) => rows::tools::run(run).await,
            ("soak", _) => rows::soak::run(run).await,
            ("idle", Some(used)) => rows::idle::run(run, used).await,
            ("sizes", _) => rows::sizes::run(run),
            _ => bail!("no such row"),
        };
        let figures = figures.with_context(|| format!("row {row}"))?;
        eprint!("{}", report::table(&figures));
        all.extend(figures);
    }
    Ok(all)
}

fn load_average() -> String {
    let said = said("/proc/loadavg");
    said.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// What a file of the kernel says; empty where there is none.
fn said(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
