//! Runs a program of the init system, with a timeout, and returns its output.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use crate::failure::{Exit, Failure};

#[derive(Debug)]
pub struct CommandOutput {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

/// Whatever it says, also if it says no.
pub async fn ask(program: &str, args: &[&str], patience: Duration) -> Result<CommandOutput, Failure> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    // Its words are read: they must be those of the manual.
    command
        .env("LC_ALL", "C")
        .env("SYSTEMD_COLORS", "0")
        .env("SYSTEMD_PAGER", "");
    let ended = timeout(patience, command.output()).await.map_err(|_| {
        let seconds = patience.as_secs();
        Failure::new(
            Exit::TimedOut,
            format!("{} is not done after {seconds} s", show(program, args)),
        )
    })?;
    let ended = ended.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(Exit::Failed, format!("{program} is not installed")),
        _ => Failure::new(Exit::Failed, format!("failed to run {program}: {error}")),
    })?;
    Ok(CommandOutput {
        ok: ended.status.success(),
        out: String::from_utf8_lossy(&ended.stdout).into_owned(),
        err: String::from_utf8_lossy(&ended.stderr).into_owned(),
    })
}

/// What it says; a no is a failure with its own words.
pub async fn run(program: &str, args: &[&str], patience: Duration) -> Result<String, Failure> {
    let said = ask(program, args, patience).await?;
    if said.ok {
        return Ok(said.out);
    }
    let words = if said.err.trim().is_empty() {
        &said.out
    } else {
        &said.err
    };
    Err(Failure::new(
        Exit::Failed,
        format!("{}: {}", show(program, args), words.trim()),
    ))
}

pub fn show(program: &str, args: &[&str]) -> String {
    let words = std::iter::once(program).chain(args.iter().copied());
    let shown = words.map(|word| {
        if word.contains(char::is_whitespace) {
            format!("{word:?}")
        } else {
            word.to_owned()
        }
    });
    shown.collect::<Vec<_>>().join(" ")
}
