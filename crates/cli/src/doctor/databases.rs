//! Checks every page of every database without writing, also while a daemon writes to it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nexus_store::copy;

use super::Finding;
use crate::{backup::progress::size, context::Context};

/// A big database takes a while; longer than this and it is left at that.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn look(context: &Context, fix: bool) -> Vec<Finding> {
    let mut found = files(&context.root.db_dir());
    found.sort();
    if found.is_empty() {
        return vec![Finding::skip("databases", "there are none yet")];
    }
    let mut findings = Vec::new();
    for path in found {
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or("unnamed")
            .to_owned();
        findings.extend(loss(&name, path.clone(), fix).await);
        findings.push(one(format!("databases.{name}"), path).await);
    }
    findings
}

/// What the store is known to have lost. Looked at before anything opens it: an open forgets what cannot be read.
async fn loss(name: &str, path: PathBuf, fix: bool) -> Option<Finding> {
    let id = format!("databases.{name}.lost");
    let job = tokio::task::spawn_blocking(move || match copy::lost(&path) {
        Ok(Some(lost)) if fix => copy::acknowledge_loss(&path).map(|()| Some(lost)),
        other => other,
    });
    match tokio::time::timeout(PATIENCE, job).await {
        Ok(Ok(Ok(Some(lost)))) if fix => Some(Finding::repaired(
            id,
            format!("DATA LOSS: {lost}"),
            "it is known now, and not reported again",
        )),
        Ok(Ok(Ok(Some(lost)))) => Some(Finding::fail(
            id,
            format!("DATA LOSS: {lost}"),
            "restore a backup (nexus backup list), or go on without what is lost: nexus doctor --fix",
        )),
        // What else is wrong with it is found by the next check.
        _ => None,
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.is_file() && path.extension().is_some_and(|ending| ending == "db"))
        .collect()
}

async fn one(id: String, path: PathBuf) -> Finding {
    let looked = path.clone();
    let job = tokio::task::spawn_blocking(move || copy::inspect(&looked));
    let restore = "nexus down, then nexus backup list and nexus backup restore FILE --force";
    match tokio::time::timeout(PATIENCE, job).await {
        Ok(Ok(Ok(found))) => {
            let log = found
                .newest
                .map(|newest| format!(", log up to {newest}"))
                .unwrap_or_default();
            Finding::pass(
                id,
                format!("whole, {}, schema {}{log}", size(found.bytes), found.schema),
            )
        }
        Ok(Ok(Err(error @ nexus_store::Error::TooNew { .. }))) => {
            Finding::fail(id, error.to_string(), "install the newer version again")
        }
        Ok(Ok(Err(error))) => Finding::fail(id, error.to_string(), restore),
        Ok(Err(_)) => Finding::fail(id, format!("looking at {} broke off", path.display()), restore),
        Err(_) => Finding::warn(
            id,
            format!(
                "{} could not be read within {}",
                path.display(),
                humantime::format_duration(PATIENCE)
            ),
            "try again when the machine has less to do",
        ),
    }
}
