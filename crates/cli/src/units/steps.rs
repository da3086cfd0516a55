//! The steps of an installation: shown first, then executed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::program;
use crate::{
    failure::{Exit, Failure},
    output::Output,
};

/// Starting waits for readiness; systemd gives up after 90 s by itself.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    Write {
        path: PathBuf,
        #[serde(skip)]
        text: String,
    },
    Remove {
        path: PathBuf,
    },
    /// A folder, if nothing is left in it.
    Tidy {
        path: PathBuf,
    },
    Run {
        program: String,
        args: Vec<String>,
        /// A no is no failure: there may be nothing to do.
        #[serde(skip)]
        lenient: bool,
    },
}

impl Step {
    pub fn run(program: &str, args: Vec<String>) -> Step {
        Step::Run {
            program: program.to_owned(),
            args,
            lenient: false,
        }
    }

    pub fn run_if_possible(program: &str, args: Vec<String>) -> Step {
        Step::Run {
            program: program.to_owned(),
            args,
            lenient: true,
        }
    }

    fn show(&self) -> String {
        match self {
            Step::Write { path, .. } => format!("write   {}", path.display()),
            Step::Remove { path } => format!("remove  {}", path.display()),
            Step::Tidy { path } => format!("remove  {} if it is empty", path.display()),
            Step::Run { program, args, .. } => {
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                format!("run     {}", program::show(program, &args))
            }
        }
    }

    async fn take(&self) -> Result<(), Failure> {
        match self {
            Step::Write { path, text } => write(path, text).map_err(|error| Failure::file("write", path, &error)),
            Step::Remove { path } => remove(path).map_err(|error| Failure::file("remove", path, &error)),
            Step::Tidy { path } => tidy(path).map_err(|error| Failure::file("remove", path, &error)),
            Step::Run { program, args, lenient } => {
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                if *lenient {
                    return program::ask(program, &args, PATIENCE).await.map(drop);
                }
                program::run(program, &args, PATIENCE).await.map(drop)
            }
        }
    }
}

/// Takes the steps, or only shows them.
pub async fn take(steps: &[Step], dry_run: bool, output: &Output) -> Result<(), Failure> {
    for step in steps {
        if !output.json {
            output.line(step.show())?;
        }
        if !dry_run {
            step.take().await?;
        }
    }
    if dry_run && output.json {
        output.value(&serde_json::json!({ "dryRun": true, "steps": steps }))?;
    } else if dry_run {
        output.note("nothing was done: --dry-run");
    }
    Ok(())
}

/// The new file stands beside the old one until it is whole. Units are read by all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    nexus_walk::write_file(path, text.as_bytes(), 0o644)
}

/// A folder goes with what is in it.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => crate::backup::staging::remove(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn tidy(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        other => other,
    }
}

pub fn unwritable(error: &super::escape::Unwritable) -> Failure {
    Failure::new(Exit::Failed, error.to_string()).hint("choose another path")
}
