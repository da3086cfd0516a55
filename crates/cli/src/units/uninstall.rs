//! `nexus services uninstall`: stops, disables and removes the units; the data of the daemons stays.

use std::path::{Path, PathBuf};

use super::{
    Kind, Scope,
    args::UninstallArgs,
    check,
    files::{Entry, TABLE, TARGET},
    install::{SYSUSERS_FILE, TMPFILES_FILE},
    launchd,
    steps::{self, Step},
};
use crate::{
    failure::{Exit, Failure},
    output::Output,
};

pub async fn uninstall(args: &UninstallArgs, output: &Output) -> Result<Exit, Failure> {
    let scope = args.which.scope();
    let entries = check::entries(&args.which)?;
    check::may(&args.which)?;
    if args.which.kind() == Kind::Launchd {
        return launchd::install::uninstall(&args.which, output).await;
    }
    let folder = scope.folder()?;
    let there: Vec<&Entry> = entries
        .into_iter()
        .filter(|entry| entry.files().iter().any(|file| folder.join(file.name).exists()))
        .collect();
    let leftovers = leftovers(scope, &folder, &there);
    if there.is_empty() && leftovers.is_empty() {
        return nothing(output);
    }
    if !args.which.dry_run {
        scope.systemd().answers().await?;
    }
    let mut steps = plan(scope, &there, leftovers);
    // The folders came with the first unit, as like as not.
    let folders: Vec<&Path> = match scope {
        Scope::User => folder.ancestors().take(3).collect(),
        Scope::System => [SYSUSERS_FILE, TMPFILES_FILE]
            .iter()
            .filter_map(|path| Path::new(path).parent())
            .collect(),
    };
    steps.extend(folders.into_iter().map(|path| Step::Tidy { path: path.into() }));
    steps::take(&steps, args.which.dry_run, output).await?;
    if args.which.dry_run {
        return Ok(Exit::Ok);
    }
    if output.json {
        output.value(&serde_json::json!({ "steps": steps }))?;
        return Ok(Exit::Ok);
    }
    output.note("what the daemons keep is left where it is; to remove it, remove NEXUS_ROOT");
    if scope == Scope::System {
        output.note("the user nexus is left too, since files may be its own; to remove it: userdel nexus");
    }
    Ok(Exit::Ok)
}

pub fn nothing(output: &Output) -> Result<Exit, Failure> {
    if output.json {
        output.value(&serde_json::json!({ "steps": [] }))?;
    } else {
        output.line("nothing was installed")?;
    }
    Ok(Exit::Ok)
}

fn plan(scope: Scope, entries: &[&Entry], leftovers: Vec<PathBuf>) -> Vec<Step> {
    let systemctl = |args: &[&str]| scope.systemd().words(args);
    let mut units: Vec<String> = entries
        .iter()
        .flat_map(|entry| [entry.socket_unit(), entry.service_unit()])
        .collect();
    if leftovers.iter().any(|path| path.ends_with(TARGET.name)) {
        units.push(TARGET.name.to_owned());
    }
    let units: Vec<&str> = units.iter().map(String::as_str).collect();
    let mut steps = Vec::new();
    if !units.is_empty() {
        steps.push(Step::run(
            "systemctl",
            systemctl(&[&["disable", "--now"], &units[..]].concat()),
        ));
        let forget = systemctl(&[&["reset-failed"], &units[..]].concat());
        steps.push(Step::run_if_possible("systemctl", forget));
    }
    steps.extend(leftovers.into_iter().map(|path| Step::Remove { path }));
    steps.push(Step::run("systemctl", systemctl(&["daemon-reload"])));
    steps
}

/// The files that go: the units, what was edited beside them, and with the last service what they share.
fn leftovers(scope: Scope, folder: &Path, entries: &[&Entry]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        for file in entry.files() {
            files.push(folder.join(file.name));
            files.push(folder.join(format!("{}.d", file.name)));
        }
        for unit in [entry.service_unit(), entry.socket_unit()] {
            files.push(folder.join(format!("{unit}.d")));
        }
    }
    let stays = |entry: &&Entry| entries.iter().all(|going| going.service != entry.service);
    let last = TABLE
        .iter()
        .filter(stays)
        .all(|entry| !folder.join(entry.daemon.name).exists());
    if last {
        files.push(folder.join(TARGET.name));
        files.push(folder.join(format!("{}.d", TARGET.name)));
        if scope == Scope::System {
            files.extend([SYSUSERS_FILE.into(), TMPFILES_FILE.into()]);
        }
    }
    files.retain(|path| path.symlink_metadata().is_ok());
    files.sort();
    files.dedup();
    files
}
