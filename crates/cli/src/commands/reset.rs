//! `nexus reset`: removes the files that Nexus created. Only lists them unless --confirm is given.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::{ArgGroup, Args};
use nexus_config::Root;
use nexus_walk::{Dir, Kind, Step, Walk};
use serde::Serialize;

use crate::{
    backup::{progress::size, quiet, staging},
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table},
};

const EXAMPLES: &str = "\
Only shows what would go, unless --confirm is given. Refuses while daemons run. Backups are never removed.

  --local   logs, sockets and other files that are created again; no conversation, setting or key
  --state   all of state/: conversations, settings, tokens, keys
  --all     all of state/, home/ and skills/: your own files too

Examples:
  nexus reset --local --confirm
  nexus down && nexus backup create && nexus reset --state --confirm";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(group(ArgGroup::new("what").required(true).args(["local", "state", "all"])))]
pub struct ResetArgs {
    /// Files that are created again when needed
    #[arg(long)]
    pub local: bool,
    /// All of state/
    #[arg(long)]
    pub state: bool,
    /// state/, home/ and skills/
    #[arg(long)]
    pub all: bool,
    /// Do it
    #[arg(long)]
    pub confirm: bool,
    /// The tree's directory, if not NEXUS_ROOT or ~/nexus
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Line {
    path: PathBuf,
    files: u64,
    bytes: u64,
}

pub async fn run(mut context: Context, args: &ResetArgs, output: &Output) -> Result<Exit, Failure> {
    if let Some(told) = &args.workspace {
        context.root = Root::resolve(Some(told)).map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    }
    let root = &context.root;
    let targets = if args.local {
        vec![root.log_dir(), root.run_dir()]
    } else if args.state {
        vec![root.state()]
    } else {
        vec![root.state(), root.home(), root.skills()]
    };
    let mut lines = Vec::new();
    for path in targets.into_iter().filter(|path| path.symlink_metadata().is_ok()) {
        let (files, bytes) = measure(&path).map_err(|error| Failure::file("read", &path, &error))?;
        lines.push(Line { path, files, bytes });
    }
    if args.confirm {
        quiet::demand(&context, "reset").await?;
        for line in &lines {
            staging::remove(&line.path).map_err(|error| Failure::file("remove", &line.path, &error))?;
        }
    }
    if output.json {
        output.value(&serde_json::json!({ "root": root.path(), "removed": args.confirm, "entries": lines }))?;
        return Ok(Exit::Ok);
    }
    if lines.is_empty() {
        output.line("there is nothing to remove")?;
        return Ok(Exit::Ok);
    }
    let what = if args.confirm { "removed" } else { "would go" };
    let rows = lines.iter().map(|line| {
        [
            what.to_owned(),
            line.files.to_string(),
            size(line.bytes),
            line.path.display().to_string(),
        ]
    });
    output.line(table(output, ["", "FILES", "SIZE", "PATH"], rows))?;
    if args.confirm {
        output.note("\nstart over with: nexus init, then nexus up");
    } else {
        output.note("\nnothing was removed; do it with --confirm");
        if !args.local {
            output.note("keep a copy first with: nexus backup create --with-keys");
        }
    }
    Ok(Exit::Ok)
}

/// Files below a path and their bytes. Links are counted, never followed.
fn measure(path: &Path) -> io::Result<(u64, u64)> {
    let (parent, name) = Dir::of(path)?;
    let found = parent.meta(&name)?;
    if found.kind != Kind::Dir {
        return Ok((1, found.bytes));
    }
    let (mut files, mut bytes) = (0, 0_u64);
    let mut walk = Walk::new(&parent.open_dir(&name)?)?;
    while let Some(step) = walk.step() {
        match step {
            Step::Entry(entry) if entry.meta.kind == Kind::Dir => {}
            Step::Entry(entry) => {
                files += 1;
                bytes = bytes.saturating_add(entry.meta.bytes.min(entry.meta.allocated));
            }
            Step::Problem(problem) => return Err(problem.error),
        }
    }
    Ok((files, bytes))
}
