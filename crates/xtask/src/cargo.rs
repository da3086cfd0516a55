//! Runs cargo and the programs it built.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

pub const BINARIES: [&str; 6] = [
    "nexus",
    "nexus-orchestrator",
    "nexus-agent",
    "nexus-llm",
    "nexus-gateway",
    "nexus-sandbox",
];

pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.ancestors().nth(2).expect("xtask lies in crates/xtask");
    root.to_path_buf()
}

pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where cargo puts what it builds, whatever the environment or config says about it.
pub fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let dir = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(dir))
}

pub fn metadata() -> Result<serde_json::Value> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("failed to run cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

/// Runs it in sight; its failure is ours.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    println!("$ {shown}");
    let status = command.status().with_context(|| format!("failed to run {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs it out of sight; its failure is ours, with its words.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let output = command.output().with_context(|| format!("failed to run {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

pub fn show(command: &Command) -> String {
    let name = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(word).collect::<Vec<_>>().join(" ")
}

fn word(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    if text.contains([' ', '"']) {
        format!("{text:?}")
    } else {
        text.into_owned()
    }
}

/// The daemons and the command, and nothing else of the workspace.
pub fn build_binaries(profile: &str) -> Result<PathBuf> {
    build_binaries_in(None, profile)
}

/// The same, with a directory of its own for everything that is compiled.
pub fn build_binaries_in(place: Option<&Path>, profile: &str) -> Result<PathBuf> {
    let cargo = || {
        let mut command = cargo();
        command.envs(place.map(|place| ("CARGO_TARGET_DIR", place)));
        command
    };
    let alone = profile != "dev" && has_static_libc();
    let mut command = cargo();
    command.args(["build", "--profile", profile, "--bins"]);
    let together = BINARIES.iter().filter(|binary| !alone || **binary != HELPER);
    command.args(together.flat_map(|binary| ["--package", package(binary)]));
    run(&mut command)?;
    if alone {
        let build = ["rustc", "--profile", profile, "--package", HELPER, "--bin", HELPER];
        run(cargo().args(build).args(["--", "-C", "target-feature=+crt-static"]))?;
    }
    let folder = if profile == "dev" { "debug" } else { profile };
    let target_dir = match place {
        Some(place) => place.to_path_buf(),
        None => target_dir()?,
    };
    Ok(target_dir.join(folder))
}

/// It is executed for each command in a sandbox, and a tenth of what that takes is finding its libraries. So it has
/// them in itself, where the C library comes in that form too (Debian: libc6-dev; Fedora: glibc-static).
const HELPER: &str = "nexus-sandbox";

fn has_static_libc() -> bool {
    let found = Command::new("cc").arg("-print-file-name=libc.a").output();
    // Only its name comes back where there is none.
    cfg!(all(target_os = "linux", target_env = "gnu")) && found.is_ok_and(|found| found.stdout.starts_with(b"/"))
}

pub fn package(binary: &str) -> &str {
    if binary == "nexus" { "nexus-cli" } else { binary }
}
