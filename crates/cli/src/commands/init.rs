//! `nexus init`: creates the tree and a settings file from the commented example. Existing files are kept.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use clap::Args;
use nexus_config::Root;
use serde::Serialize;

use crate::{
    args::Global,
    failure::{Exit, Failure},
    output::{Output, table::table},
};

/// Every setting, commented out, with its default.
pub const EXAMPLE: &str = include_str!("../../../../deploy/config.example.toml");

const EXAMPLES: &str = "\
Running it again is safe: what exists is left as it is.

Examples:
  nexus init                          in NEXUS_ROOT, or ~/nexus
  nexus init --workspace /srv/nexus   somewhere else; then export NEXUS_ROOT=/srv/nexus";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    /// Where: the same as --workspace
    #[arg(value_name = "DIR", conflicts_with = "workspace")]
    pub place: Option<PathBuf>,
    /// The tree's directory, if not NEXUS_ROOT or ~/nexus
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Line {
    path: PathBuf,
    /// False: it was there before.
    created: bool,
}

pub fn run(global: &Global, args: &InitArgs, output: &Output) -> Result<Exit, Failure> {
    let told = args
        .workspace
        .as_deref()
        .or(args.place.as_deref())
        .or(global.root.as_deref());
    let root = Root::resolve(told).map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let mut lines = Vec::new();
    let state = root.state();
    let directories = [
        root.path().to_path_buf(),
        root.home(),
        root.skills(),
        state.clone(),
        state.join("nexus"),
        root.run_dir(),
        root.log_dir(),
        root.db_dir(),
    ];
    for path in directories {
        let created = directory(&path)?;
        lines.push(Line { path, created });
    }
    let path = root.config_file();
    let created = settings(&path)?;
    lines.push(Line { path, created });
    if output.json {
        output.value(&serde_json::json!({ "root": root.path(), "entries": lines }))?;
        return Ok(Exit::Ok);
    }
    let rows = lines.iter().map(|line| {
        let what = if line.created { "created" } else { "present" };
        [what.to_owned(), line.path.display().to_string()]
    });
    output.line(table(output, ["STATE", "PATH"], rows))?;
    if told.is_some() && std::env::var_os("NEXUS_ROOT").is_none_or(|set| Path::new(&set) != root.path()) {
        output.note(&format!(
            "\nlet the commands find it with: export NEXUS_ROOT={}",
            root.path().display()
        ));
    }
    output.note("\nnext: nexus up, then nexus chat; change settings with: nexus config edit");
    Ok(Exit::Ok)
}

fn directory(path: &Path) -> Result<bool, Failure> {
    if path.is_dir() {
        return Ok(false);
    }
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(
            Exit::Failed,
            format!("{} is there and is not a directory", path.display()),
        )
        .hint("move it away, or choose another place with --workspace"));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Failure::file("create", path, &error).hint("choose another place with --workspace"))?;
    Ok(true)
}

fn settings(path: &Path) -> Result<bool, Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(Failure::file("create", path, &error)),
    };
    file.write_all(EXAMPLE.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| Failure::file("write", path, &error))?;
    Ok(true)
}
