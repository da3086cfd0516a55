//! `nexus backup`: the state of a tree in one file, and back.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, Subcommand};
use nexus_backup::Manifest;
use nexus_store::copy;
use serde_json::json;

use crate::{
    backup::{
        self, archive, create,
        progress::{self, size},
        quiet, restore,
    },
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table},
    settings::ask::{self, Program, Sees},
};

const EXAMPLES: &str = "\
A backup holds everything in state/ but logs, sockets, and keys; home/ and skills/ are yours and not in it.
Databases are copied whole and consistent while the daemons go on.

Examples:
  nexus backup create                      into backups/ of the tree
  nexus backup create -o /mnt/nexus.tar.gz --with-keys
  nexus backup verify backups/nexus-20260101T120000Z.tar.gz
  nexus down && nexus backup restore FILE --force && nexus up";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BackupArgs {
    #[command(subcommand)]
    pub command: BackupCommand,
}

#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Write the state into one file; daemons may run
    Create {
        /// A new file [default: backups/nexus-TIME.tar.gz in the tree]
        #[arg(long, short = 'o', value_name = "FILE")]
        output: Option<PathBuf>,
        /// Take provider keys and other secrets along; guard the file as you guard them
        #[arg(long)]
        with_keys: bool,
    },
    /// Read a backup to its end: every hash, every database
    Verify { file: PathBuf },
    /// List backups, newest last
    List {
        /// Where to look [default: backups/ in the tree]
        directory: Option<PathBuf>,
    },
    /// Put a backup in the place of the state; no daemon may run
    Restore {
        file: PathBuf,
        /// Also if there is a state: it is moved aside, never deleted
        #[arg(long)]
        force: bool,
    },
}

/// Lines about what was left out.
const SHOWN: usize = 20;

pub async fn run(context: &Context, args: BackupArgs, output: &Output) -> Result<Exit, Failure> {
    match args.command {
        BackupCommand::Create {
            output: file,
            with_keys,
        } => make(context, file, with_keys, output).await,
        BackupCommand::Verify { file } => verify(file, output).await,
        BackupCommand::List { directory } => list(context, directory, output),
        BackupCommand::Restore { file, force } => put_back(context, file, force, output).await,
    }
}

async fn make(context: &Context, file: Option<PathBuf>, with_keys: bool, output: &Output) -> Result<Exit, Failure> {
    let target = file.unwrap_or_else(|| {
        let name = format!("nexus-{}.tar.gz", backup::stamp(SystemTime::now()));
        backup::directory(context.root.path()).join(name)
    });
    let done = target.clone();
    let manifest = take(context, target, with_keys, output).await?;
    if output.json {
        let bytes = fs::metadata(&done).map(|found| found.len()).unwrap_or_default();
        output.value(&json!({ "file": done, "bytes": bytes, "manifest": manifest }))?;
        return Ok(Exit::Ok);
    }
    output.line(done.display().to_string())?;
    let packed = fs::metadata(&done).map(|found| found.len()).unwrap_or_default();
    output.note(&format!("{}, packed to {}", summary(&manifest), size(packed)));
    for left in manifest.left_out.iter().take(SHOWN) {
        output.note(&format!("left out: {} ({})", left.path, left.reason));
    }
    if let Some(more) = manifest.left_out.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        output.note(&format!(
            "left out: {more} more; all are in manifest.json of the backup, and shown by --json"
        ));
    }
    if with_keys {
        output.warn("the backup contains keys: everyone who can read it can use them");
    }
    output.note(&format!("check it with: nexus backup verify {}", done.display()));
    Ok(Exit::Ok)
}

/// Writes a backup to a new file.
pub async fn take(context: &Context, target: PathBuf, with_keys: bool, output: &Output) -> Result<Manifest, Failure> {
    let state = context.root.state();
    if !state.is_dir() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("there is no state in {}", context.root.path().display()),
        )
        .hint("nothing is lost: there is nothing to back up"));
    }
    let outside = databases_elsewhere(context, output).await?;
    let root = context.root.path().to_path_buf();
    progress::run(output, move |progress| {
        let job = create::Job {
            root,
            elsewhere: outside,
            with_keys,
            target,
        };
        create::create(job, progress)
    })
    .await
}

/// Databases that the settings keep outside of `state/`.
pub async fn elsewhere(context: &Context, output: &Output) -> Result<Vec<PathBuf>, Failure> {
    let found = databases_elsewhere(context, output).await?;
    Ok(found.into_iter().map(|(path, _)| path).collect())
}

/// What the settings keep outside of `state/`.
async fn databases_elsewhere(context: &Context, output: &Output) -> Result<Vec<(PathBuf, String)>, Failure> {
    let Ok((programs, _)) = ask::programs() else {
        output.note("no daemon is installed here: only files in state/ are included");
        return Ok(Vec::new());
    };
    let mut named = named_elsewhere(context, &programs).await?;
    named.retain(|(path, _)| copy::is_database(path).unwrap_or(false));
    Ok(named)
}

/// Where the settings put databases outside of `state/`, whether or not they are there, and their names in a backup.
async fn named_elsewhere(context: &Context, programs: &[Program]) -> Result<Vec<(PathBuf, String)>, Failure> {
    let answers = ask::values(programs, &context.root, None, Sees::Everything, false).await?;
    let state = context.root.state();
    let settings = answers.into_iter().flat_map(|answer| answer.settings);
    let databases = settings.filter(|one| one.key == "database");
    let named = databases.filter_map(|one| {
        let path = PathBuf::from(one.value.as_str()?);
        let name = format!("elsewhere/{}.{}", one.section, one.key);
        (!path.starts_with(&state)).then_some((path, name))
    });
    Ok(named.collect())
}

fn summary(manifest: &Manifest) -> String {
    let databases = manifest.files.iter().filter(|file| file.database.is_some()).count();
    let files = manifest
        .files
        .iter()
        .filter(|file| file.kind == nexus_backup::Kind::File)
        .count();
    let bytes = size(manifest.bytes());
    format!("{files} files, {databases} of them databases, {bytes}")
}

async fn verify(file: PathBuf, output: &Output) -> Result<Exit, Failure> {
    let shown = file.clone();
    let manifest = progress::run(output, move |progress| archive::read(&file, None, progress)).await?;
    if output.json {
        output.value(&json!({ "ok": true, "file": shown, "manifest": manifest }))?;
        return Ok(Exit::Ok);
    }
    output.line(format!(
        "ok: {}, made {} by nexus {}",
        summary(&manifest),
        manifest.created_at,
        manifest.nexus
    ))?;
    if !manifest.with_keys {
        output.note("the backup does not contain keys");
    }
    Ok(Exit::Ok)
}

fn list(context: &Context, directory: Option<PathBuf>, output: &Output) -> Result<Exit, Failure> {
    let directory = directory.unwrap_or_else(|| backup::directory(context.root.path()));
    let mut found = files(&directory)?;
    found.sort_by(|a, b| {
        a.1.as_ref()
            .map(|m| &m.created_at)
            .ok()
            .cmp(&b.1.as_ref().map(|m| &m.created_at).ok())
    });
    if output.json {
        let all: Vec<_> = found
            .iter()
            .map(|(path, manifest)| match manifest {
                Ok(m) => json!({ "file": path, "createdAt": m.created_at, "nexus": m.nexus, "withKeys": m.with_keys,
                    "bytes": m.bytes(), "files": m.files.len() }),
                Err(error) => json!({ "file": path, "error": error.message }),
            })
            .collect();
        output.value(&json!({ "directory": directory, "backups": all }))?;
        return Ok(Exit::Ok);
    }
    if found.is_empty() {
        output.note("no backups; make one with: nexus backup create");
        return Ok(Exit::Ok);
    }
    let rows = found.iter().map(|(path, manifest)| {
        let name = path.display().to_string();
        match manifest {
            Ok(m) => {
                let keys = if m.with_keys { "with keys" } else { "no keys" };
                [
                    m.created_at.clone(),
                    m.nexus.clone(),
                    size(m.bytes()),
                    keys.to_owned(),
                    name,
                ]
            }
            Err(_) => [
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
                "UNREADABLE".to_owned(),
                name,
            ],
        }
    });
    output.line(table(output, ["MADE", "NEXUS", "SIZE", "KEYS", "FILE"], rows))?;
    Ok(Exit::Ok)
}

type Found = (PathBuf, Result<Manifest, Failure>);

fn files(directory: &Path) -> Result<Vec<Found>, Failure> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::file("read", directory, &error)),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let ours = |path: &PathBuf| path.to_string_lossy().ends_with(".tar.gz") && path.is_file();
    Ok(paths
        .filter(ours)
        .map(|path| (path.clone(), archive::manifest(&path)))
        .collect())
}

async fn put_back(context: &Context, file: PathBuf, force: bool, output: &Output) -> Result<Exit, Failure> {
    quiet::demand(context, "restore").await?;
    let (root, from) = (context.root.clone(), file.clone());
    let manifest = archive::manifest(&file)?;
    let named = match ask::programs() {
        Ok((programs, _)) if manifest.files.iter().any(|entry| entry.original.is_some()) => {
            named_elsewhere(context, &programs).await?
        }
        _ => Vec::new(),
    };
    let restored = progress::run(output, move |progress| {
        restore::restore(&root, &from, force, &named, progress)
    });
    let done = restored.await?;
    if output.json {
        output.value(
            &json!({ "file": file, "restored": done.manifest, "aside": done.aside, "keptSecrets": done.kept }),
        )?;
        return Ok(Exit::Ok);
    }
    output.line(format!(
        "restored {}, as of {}",
        summary(&done.manifest),
        done.manifest.created_at
    ))?;
    for path in &done.aside {
        output.note(&format!("what was there before is in {}", path.display()));
    }
    for path in &done.kept {
        output.note(&format!(
            "kept from before, since the backup has none: {}",
            path.display()
        ));
    }
    output.note("start the daemons with: nexus up");
    Ok(Exit::Ok)
}
