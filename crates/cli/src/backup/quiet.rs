//! Checks that nothing runs in a tree that would write to files about to be moved.

use std::{fs, path::Path};

use nix::fcntl::{Flock, FlockArg};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    running,
};

/// # Errors
/// Something runs; each is named, with what stops it.
pub async fn demand(context: &Context, what: &str) -> Result<(), Failure> {
    let named = |service: &str, pid: i32| format!("{service} (pid {pid})");
    let found = running::running(context).await?;
    let mut busy: Vec<String> = found.iter().map(|one| named(&one.service, one.peer.pid)).collect();
    busy.extend(
        running::supervisor(context)
            .await
            .map(|peer| named("supervisor", peer.pid)),
    );
    if busy.is_empty() {
        // A daemon may listen anywhere.
        busy = open_in(&context.root.state());
    }
    if busy.is_empty() && is_locked(&context.root.db_dir()) {
        busy.push("a process that has locked the databases".to_owned());
    }
    if busy.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!("cannot {what} while daemons run: {}", busy.join(", ")),
    )
    .hint("stop them first with: nexus down"))
}

/// Our own programs that have a file open below a directory, where the system lets us see it.
fn open_in(directory: &Path) -> Vec<String> {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf());
    let own = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found = Vec::new();
    for pid in pids.filter(|pid| *pid != own) {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let name = name.trim_end();
        if name != "nexus" && !name.starts_with("nexus-") {
            continue;
        }
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let mut open = open.flatten().filter_map(|entry| entry.path().read_link().ok());
        if open.any(|path| path.starts_with(&directory)) {
            found.push(format!("{name} (pid {pid})"));
        }
    }
    found
}

/// A store holds a lock beside its file for as long as it may write.
fn is_locked(databases: &Path) -> bool {
    let Ok(entries) = fs::read_dir(databases) else {
        return false;
    };
    let locks = entries.flatten().map(|entry| entry.path());
    locks
        .filter(|path| path.extension().is_some_and(|ending| ending == "lock"))
        .filter_map(|path| fs::File::open(path).ok())
        .any(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
}
