//! Builds the fuzz targets of `fuzz/` and runs each for a while. A compiler that is stable suffices: the counters in the
//! branches are passes of LLVM, and no sanitizer is linked.

use std::{
    collections::VecDeque,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Mutex,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::cargo;

const FOLDER: &str = "fuzz";
const TARGETS: [&str; 9] = [
    "authority",
    "sse",
    "provider",
    "layers",
    "backup",
    "config",
    "protobuf",
    "front_door",
    "tools",
];
/// As `cargo fuzz --sanitizer none` has them.
const FLAGS: [&str; 9] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Cdebug-assertions",
];
/// Set for the compiler's wrapper, which this program is then.
const WRAPPER: &str = "NEXUS_FUZZ_WRAPPER";
/// Inputs are at most this long, and one may take at most these seconds and megabytes.
const LONGEST: &str = "65536";
const SECONDS_EACH: &str = "10";
const MEGABYTES: &str = "2048";
/// Lines of a target's log that are shown with a finding.
const SHOWN: usize = 40;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this target; may be given several times
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Targets that run at once; all cores if not given
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

pub fn run(args: &Args) -> Result<()> {
    let targets = chosen(&args.target)?;
    let folder = cargo::root().join(FOLDER);
    let bin = build(&folder)?;
    cargo::run_quietly(Command::new(bin.join("seeds")).env("NEXUS_FUZZ_CORPUS", folder.join("corpus")))?;
    let jobs = args
        .jobs
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    println!(
        "{:>8} {:>12} {:>9} {:>8}  target",
        "seconds", "executions", "branches", "inputs"
    );
    let waiting = Mutex::new(VecDeque::from(targets));
    let findings = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(target) = next(&waiting) {
                    match fuzz(&folder, &bin, target, args.seconds) {
                        Ok(row) => println!("{row}"),
                        Err(error) => {
                            println!("{target}: a finding");
                            findings
                                .lock()
                                .expect("nobody panics with it")
                                .push(format!("{error:#}"));
                        }
                    }
                }
            });
        }
    });
    let findings = findings.into_inner().expect("nobody panics with it");
    if !findings.is_empty() {
        bail!("{}", findings.join("\n\n"));
    }
    Ok(())
}

fn next(waiting: &Mutex<VecDeque<&'static str>>) -> Option<&'static str> {
    waiting.lock().expect("nobody panics with it").pop_front()
}

fn chosen(asked: &[String]) -> Result<Vec<&'static str>> {
    if let Some(unknown) = asked.iter().find(|name| !TARGETS.contains(&name.as_str())) {
        bail!("there is no target {unknown}; there are {}", TARGETS.join(", "));
    }
    let wanted = |target: &&str| asked.is_empty() || asked.iter().any(|name| name == target);
    Ok(TARGETS.into_iter().filter(wanted).collect())
}

fn build(folder: &Path) -> Result<PathBuf> {
    let host = host()?;
    let mut command = cargo::cargo();
    command.current_dir(folder);
    // With a target named, build scripts and macros are compiled without it, and are told apart by that.
    command.args(["build", "--release", "--bins", "--target", &host]);
    let wrapper = env::current_exe().context("failed to find this program")?;
    command.env("RUSTC_WRAPPER", wrapper).env(WRAPPER, "1");
    let target_dir = folder.join("target");
    command.env("CARGO_TARGET_DIR", &target_dir);
    cargo::run(&mut command)?;
    Ok(target_dir.join(host).join("release"))
}

/// Whether cargo started this program in the compiler's place.
pub fn is_compiler() -> bool {
    env::var_os(WRAPPER).is_some()
}

/// Compiles one crate. Only ours count their branches: counters in four hundred dependencies would take most of the
/// build, and tell nothing of our readers.
pub fn compile() -> Result<ExitCode> {
    let mut args = env::args_os().skip(1);
    let rustc = args.next().context("cargo names no compiler")?;
    let args: Vec<OsString> = args.collect();
    let follows = |flag: &str| args.iter().position(|arg| arg == flag).and_then(|at| args.get(at + 1));
    let name = follows("--crate-name").map(|name| name.to_string_lossy().into_owned());
    let ours = name.is_some_and(|name| name.starts_with("nexus_") || TARGETS.contains(&name.as_str()));
    let mut command = Command::new(rustc);
    command.args(&args);
    if ours && follows("--target").is_some() {
        command.args(FLAGS);
    }
    let status = command.status().context("failed to run rustc")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

fn host() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("failed to run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// Runs one target; a finding is an error with the end of its log.
fn fuzz(folder: &Path, bin: &Path, target: &str, seconds: u64) -> Result<String> {
    let (corpus, artifacts) = (
        folder.join("corpus").join(target),
        folder.join("artifacts").join(target),
    );
    for made in [&corpus, &artifacts] {
        fs::create_dir_all(made).with_context(|| format!("failed to create {}", made.display()))?;
    }
    let path = artifacts.join("log.txt");
    let log = fs::File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    let other = log.try_clone().context("failed to use the log twice")?;
    let begin = Instant::now();
    let status = Command::new(bin.join(target))
        .current_dir(&artifacts)
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={LONGEST}"))
        .arg(format!("-timeout={SECONDS_EACH}"))
        .arg(format!("-rss_limit_mb={MEGABYTES}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(other)
        .status()
        .with_context(|| format!("failed to run {target}"))?;
    let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
    let counted = counted(&text);
    if !status.success() {
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
        bail!(
            "{target}: {status}; what it was fed lies in {}\n{tail}",
            artifacts.display()
        );
    }
    let Some((executions, branches, inputs)) = counted else {
        bail!("{target} ran, and counted nothing: its log is {}", path.display());
    };
    let took = begin.elapsed().as_secs();
    Ok(format!(
        "{took:>8} {executions:>12} {branches:>9} {inputs:>8}  {target}"
    ))
}

/// Executions, branches and inputs of the last line that counts: `#4096 pulse cov: 120 ft: 300 corp: 12/200b ...`.
fn counted(log: &str) -> Option<(u64, u64, u64)> {
    let line = log
        .lines()
        .rev()
        .find(|line| line.starts_with('#') && line.contains(" cov: "))?;
    let executions = line[1..].split_whitespace().next()?.parse().ok()?;
    let after = |name: &str| line.split(name).nth(1)?.split(['/', ' ']).next()?.parse().ok();
    Some((executions, after(" cov: ")?, after(" corp: ")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_count_is_read() {
        let log = "INFO: seed\n#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0\n\
            #8192\tDONE   cov: 120 ft: 300 corp: 12/200b lim: 4 exec/s: 819 rss: 40Mb\nDone 8192 runs";
        assert_eq!(counted(log), Some((8192, 120, 12)));
        assert_eq!(counted("#2\tINITED exec/s: 0"), None);
    }

    #[test]
    fn targets_are_chosen_by_name() {
        assert_eq!(chosen(&["sse".into()]).expect("known"), ["sse"]);
        assert_eq!(chosen(&[]).expect("all").len(), TARGETS.len());
        assert!(chosen(&["sees".into()]).is_err());
    }

    #[test]
    fn every_target_is_built() {
        let manifest = fs::read_to_string(cargo::root().join(FOLDER).join("Cargo.toml")).expect("it is there");
        for target in TARGETS {
            assert!(
                manifest.contains(&format!("path = \"targets/{target}.rs\"")),
                "{target}"
            );
        }
        let sources = fs::read_dir(cargo::root().join(FOLDER).join("targets")).expect("it is there");
        assert_eq!(sources.count(), TARGETS.len());
    }
}
