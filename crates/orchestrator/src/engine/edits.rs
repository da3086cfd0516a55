//! Looks at the file of an edit whose worker was lost: its hash says whether the edit was done.

use std::path::Path;

use nexus_walk::Dir;
use sha2::{Digest as _, Sha256};

use super::{Engine, Ledger};

/// Largest file that an edit may have written, and some.
const LARGEST: u64 = 16 << 20;

impl Engine {
    /// Reads the file beneath the session's workspace, and tells the domain what it found.
    pub(super) fn look_at_edit(&self, ledger: &Ledger, call: u64) {
        let Some(found) = ledger.state.calls.get(call) else {
            return;
        };
        let Some(path) = found.edited_path().map(str::to_owned) else {
            return;
        };
        let workspace = format!("{}/{}", ledger.state.rules.workspaces, found.session_id);
        let engine = self.clone();
        tokio::spawn(async move {
            let hash = tokio::task::spawn_blocking(move || hash(Path::new(&workspace), &path)).await;
            let hash = hash.ok().flatten();
            let told = engine.write(|state, step| {
                state.sweep();
                state.edit_found(step, call, hash.as_deref());
                Ok(())
            });
            if let Err(error) = told.await {
                tracing::warn!(%error, "failed to record how an edit ended; it is looked at again");
            }
        });
    }
}

/// SHA-256 of a file, hex; empty if there is none, `None` if it cannot be read.
fn hash(workspace: &Path, path: &str) -> Option<String> {
    let workspace = Dir::open(workspace).ok()?;
    let file = match workspace.open_file(path) {
        Ok((file, _)) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(String::new()),
        Err(_) => return None,
    };
    let content = nexus_walk::read_bounded(&file, LARGEST).ok()?;
    Some(hex::encode(Sha256::digest(&content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attack: a link in the workspace leads to a file of somebody else, whose hash would be told.
    #[test]
    fn only_files_of_the_workspace_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let of_x = hex::encode(Sha256::digest(b"x"));
        assert_eq!(hash(dir.path(), "a"), Some(of_x));
        assert_eq!(hash(dir.path(), "missing"), Some(String::new()));
        assert_eq!(hash(dir.path(), "link"), None);
        assert_eq!(hash(dir.path(), "../a"), None);
    }
}
