//! Asking the daemons' programs about their settings.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output as Ended, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use nexus_config::{DaemonSchema, DaemonValues, Root, services};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;

use crate::{
    environment::Environment,
    failure::{Exit, Failure},
};

/// A program that only prints takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
const CONFIG_WRONG: i32 = 78;

/// A daemon that is installed.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its section in the file.
    pub daemon: String,
    pub path: PathBuf,
}

/// What the asked program sees of this environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// All settings in it: the answer is what a daemon started from here would do.
    Everything,
    /// No settings in it: the answer is about the file alone.
    FileOnly,
}

/// The daemons that are installed, and the names of those that are not.
pub fn programs() -> Result<(Vec<Program>, Vec<String>), Failure> {
    let places = places();
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for section in services::daemon_sections() {
        let name = format!("nexus-{section}");
        match places
            .iter()
            .map(|place| place.join(&name))
            .find(|path| is_program(path))
        {
            Some(path) => found.push(Program {
                daemon: section.to_owned(),
                path,
            }),
            None => missing.push(name),
        }
    }
    if found.is_empty() {
        return Err(Failure::new(
            Exit::Failed,
            "no daemon is installed that could be asked about its settings",
        )
        .hint("put the programs beside nexus, in PATH, or where NEXUS_BIN_DIR says"));
    }
    Ok((found, missing))
}

/// `NEXUS_BIN_DIR` alone if it is set, else beside this program, then `PATH`.
pub fn places() -> Vec<PathBuf> {
    if let Some(told) = env::var_os("NEXUS_BIN_DIR").filter(|told| !told.is_empty()) {
        return vec![PathBuf::from(told)];
    }
    let beside = env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.to_path_buf()));
    let path = env::var_os("PATH").unwrap_or_default();
    beside.into_iter().chain(env::split_paths(&path)).collect()
}

pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

pub async fn schemas(programs: &[Program]) -> Result<Vec<DaemonSchema>, Failure> {
    let asked = programs.iter().map(|program| async move {
        let ended = run(&program.path, ["--schema"], Sees::FileOnly).await?;
        if !ended.status.success() {
            return Err(puzzled(program, "--schema", &ended));
        }
        read(program, &ended)
    });
    join_all(asked).await.into_iter().collect()
}

/// What would hold, or with `check` only whether it is right; of `file` if one is named, else of the tree's own.
pub async fn values(
    programs: &[Program],
    root: &Root,
    file: Option<&Path>,
    sees: Sees,
    check: bool,
) -> Result<Vec<DaemonValues>, Failure> {
    let asked = programs.iter().map(|program| async move {
        let what = if check { "--check-config" } else { "--dump-config" };
        let mut args: Vec<&OsStr> = vec![
            what.as_ref(),
            "--json".as_ref(),
            "--root".as_ref(),
            root.path().as_ref(),
        ];
        if let Some(file) = file {
            args.extend(["--config".as_ref(), file.as_os_str()]);
        }
        let ended = run(&program.path, args, sees).await?;
        if !matches!(ended.status.code(), Some(0 | CONFIG_WRONG)) {
            return Err(puzzled(program, what, &ended));
        }
        read(program, &ended)
    });
    join_all(asked).await.into_iter().collect()
}

fn read<T: DeserializeOwned>(program: &Program, ended: &Ended) -> Result<T, Failure> {
    serde_json::from_slice(&ended.stdout).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("{} gave an answer that cannot be read: {error}", program.path.display()),
        )
        .hint("it and nexus are of different versions: install both from one release")
    })
}

fn puzzled(program: &Program, what: &str, ended: &Ended) -> Failure {
    let said = String::from_utf8_lossy(&ended.stderr);
    let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    Failure::new(
        Exit::Failed,
        format!("{} {what} ended with {}: {first}", program.path.display(), ended.status),
    )
    .hint("it and nexus must be of one release")
}

/// Runs a program that only prints, to its end.
pub async fn run(
    program: &Path,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    sees: Sees,
) -> Result<Ended, Failure> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.env_clear();
    if sees == Sees::Everything {
        command.envs(Environment::of_process().settings());
    } else {
        for kept in ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"] {
            if let Some(value) = env::var_os(kept) {
                command.env(kept, value);
            }
        }
    }
    let failed = |error: std::io::Error| Failure::file("run", program, &error);
    let child = command.spawn().map_err(failed)?;
    let pid = i32::try_from(child.id()).map(Pid::from_raw).ok();
    let end = tokio::task::spawn_blocking(move || child.wait_with_output());
    match tokio::time::timeout(PATIENCE, end).await {
        Ok(Ok(ended)) => ended.map_err(failed),
        Ok(Err(_)) => Err(Failure::new(
            Exit::Failed,
            format!("failed to run {}", program.display()),
        )),
        Err(_) => {
            // It is our child and not yet waited for, so the number is still its own.
            let _gone = pid.map(|pid| kill(pid, Signal::SIGKILL));
            Err(Failure::new(
                Exit::TimedOut,
                format!(
                    "{} has said nothing for {}",
                    program.display(),
                    humantime::format_duration(PATIENCE)
                ),
            ))
        }
    }
}
