//! Checks the socket files: path length, leftovers, ownership, and directories where others could replace them.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use nix::unistd::geteuid;

use super::Finding;
use crate::{
    context::Context,
    services::{
        peer::{self, Found},
        survey,
        table::{self, TABLE, sockets},
    },
};

/// What the kernel has room for, with the byte that ends it.
const LONGEST: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

pub(super) async fn look(context: &Context, fix: bool) -> Vec<Finding> {
    if context.orchestrator_socket().is_none() {
        return vec![Finding::skip("sockets", "the orchestrator is on another machine")];
    }
    let known = match sockets(context) {
        Ok(known) => known,
        Err(failure) => {
            return vec![Finding::fail(
                "sockets",
                failure.message,
                failure.hint.unwrap_or_default(),
            )];
        }
    };
    let mut findings = Vec::new();
    for (entry, socket) in TABLE.iter().zip(known) {
        let id = format!("sockets.{}", entry.name);
        let running = survey::running_without_socket(&context.root, entry.name);
        match running.filter(|_| socket.path.symlink_metadata().is_err()) {
            Some(_) => {
                let (message, fix) = table::socket_gone(&socket.path.display().to_string(), entry.name);
                findings.push(Finding::fail(id, format!("{}: {message}", entry.name), fix));
            }
            None => findings.push(one(id, &socket.path, fix).await),
        }
    }
    findings
}

async fn one(id: String, path: &Path, fix: bool) -> Finding {
    let shown = path.display();
    if path.as_os_str().len() > LONGEST {
        let message = format!("{shown} is longer than the {LONGEST} bytes a socket's path may have");
        return Finding::fail(id, message, "use a shorter NEXUS_ROOT, or set socket_path");
    }
    if let Some(open) = open_parent(path) {
        return Finding::fail(id, open, "chmod +t that directory, or set another socket_path");
    }
    match peer::look(path).await {
        Ok(Found::Absent) => Finding::pass(id, format!("{shown} is free")),
        Ok(Found::Running(peer)) if peer.is_ours() => Finding::pass(id, format!("{shown}, held by pid {}", peer.pid)),
        Ok(Found::Running(peer)) => {
            let message = format!("{shown} is held by uid {} (pid {})", peer.uid, peer.pid);
            Finding::fail(
                id,
                message,
                "set another socket_path, or GRPC_SOCKET_PATH for the orchestrator's",
            )
        }
        Ok(Found::Denied) => Finding::fail(
            id,
            format!("{shown} belongs to another user"),
            "set another socket_path",
        ),
        Ok(Found::Other) => Finding::fail(id, format!("{shown} is not a socket"), "move it away"),
        Ok(Found::Stale) => stale(id, path, fix),
        Err(error) => Finding::fail(
            id,
            format!("{shown} cannot be looked at: {error}"),
            "check the directory that contains it",
        ),
    }
}

/// Nobody listens on it: its daemon was killed. A start clears it away too.
fn stale(id: String, path: &Path, fix: bool) -> Finding {
    let shown = path.display();
    let ours = path
        .symlink_metadata()
        .is_ok_and(|found| found.file_type().is_socket() && found.uid() == geteuid().as_raw());
    if !ours {
        return Finding::fail(
            id,
            format!("{shown} is left over from another user"),
            "ask its owner to remove it",
        );
    }
    if !fix {
        return Finding::warn(
            id,
            format!("{shown} is left over: no process listens on it"),
            "nexus up, or nexus doctor --fix",
        );
    }
    match fs::remove_file(path) {
        Ok(()) => Finding::repaired(id, format!("{shown} is free"), "it was left over, and was removed"),
        Err(error) => Finding::fail(id, format!("{shown} cannot be removed: {error}"), "remove it yourself"),
    }
}

/// A directory where anyone may remove anyone's files.
fn open_parent(path: &Path) -> Option<String> {
    let parent = path.parent()?;
    let mode = parent.metadata().ok()?.mode();
    let open = mode & 0o002 != 0 && mode & 0o1000 == 0;
    open.then(|| {
        format!(
            "{} is open to all and not sticky: anyone can put a socket of theirs there",
            parent.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt, net::UnixListener};

    use super::*;
    use crate::doctor::Status;

    #[tokio::test(flavor = "current_thread")]
    async fn only_a_socket_that_nobody_listens_on_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(one("x".into(), &path, true).await.status, Status::Pass);
        assert!(path.exists(), "somebody listened");
        drop(listener);
        assert_eq!(one("x".into(), &path, false).await.status, Status::Warn);
        let done = one("x".into(), &path, true).await;
        assert!(done.repaired.is_some() && !path.exists());
        fs::write(&path, "precious").unwrap();
        assert_eq!(one("x".into(), &path, true).await.status, Status::Fail);
        assert!(path.exists(), "it is no socket");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_long_path_and_an_open_directory_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(LONGEST));
        assert!(one("x".into(), &long, false).await.message.contains("longer than"));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            one("x".into(), &dir.path().join("x"), false)
                .await
                .message
                .contains("not sticky")
        );
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(one("x".into(), &dir.path().join("x"), false).await.status, Status::Pass);
    }
}
