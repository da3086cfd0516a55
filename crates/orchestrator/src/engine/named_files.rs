//! Hashes the files of a session's workspace that a call names.

use std::path::Path;

use nexus_tools::plan::{MAX_FILE_BYTES, MAX_FILES};
use nexus_walk::Dir;
use sha2::{Digest as _, Sha256};

use super::{Engine, Ledger};

impl Engine {
    /// Reads the files beneath the session's workspace, and tells the domain what it found.
    pub(super) fn hash_files(&self, ledger: &Ledger, call: u64) {
        let Some(found) = ledger.state.calls.get(call) else {
            return;
        };
        let names = found.named_files();
        let workspace = format!("{}/{}", ledger.state.rules.workspaces, found.session_id);
        let engine = self.clone();
        tokio::spawn(async move {
            let hashed = tokio::task::spawn_blocking(move || hash_all(Path::new(&workspace), &names)).await;
            let (files, not_covered) = hashed.unwrap_or_default();
            let told = engine.write(|state, step| {
                state.sweep();
                state.files_found(step, call, files, not_covered);
                Ok(())
            });
            if let Err(error) = told.await {
                tracing::warn!(%error, "failed to record the files of a call; they are looked at again");
            }
        });
    }
}

/// Hashes by path, in the order in which they are named, and the paths of files that are too many or too large.
fn hash_all(workspace: &Path, names: &[String]) -> (Vec<(String, String)>, Vec<String>) {
    let (mut files, mut not_covered) = (Vec::new(), Vec::new());
    let Ok(workspace) = Dir::open(workspace) else {
        return (files, not_covered);
    };
    for name in names {
        let Ok(path) = nexus_tools::path::file(name) else {
            continue;
        };
        if files.iter().any(|(known, _)| *known == path) {
            continue;
        }
        let Ok((file, _)) = workspace.open_file(&path) else {
            continue;
        };
        match nexus_walk::read_bounded(&file, MAX_FILE_BYTES) {
            Ok(content) if files.len() < MAX_FILES => files.push((path, hex::encode(Sha256::digest(&content)))),
            _ => not_covered.push(path),
        }
    }
    (files, not_covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attack: a named script is a link to a file of somebody else, or far too large to be read whole.
    #[test]
    fn only_files_of_the_workspace_are_hashed_and_large_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("run.sh"), "x").unwrap();
        std::fs::File::create(dir.path().join("big"))
            .unwrap()
            .set_len(MAX_FILE_BYTES + 1)
            .unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let names = ["run.sh", "./run.sh", "big", "link", "missing", "../x"].map(String::from);
        let (files, not_covered) = hash_all(dir.path(), &names);
        assert_eq!(files, [("run.sh".to_owned(), hex::encode(Sha256::digest(b"x")))]);
        assert_eq!(not_covered, ["big"]);
    }
}
