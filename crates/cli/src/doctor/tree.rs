//! Checks the directories of a tree and its private files: present, ours, and closed to others.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::Path,
};

use nexus_config::Root;
use nexus_daemon::token;
use nix::unistd::geteuid;

use super::Finding;
use crate::backup;

/// Bits by which others get at something.
const OTHERS: u32 = 0o077;

pub(super) fn look(root: &Root, fix: bool) -> Vec<Finding> {
    let state = root.state();
    let directories = [
        ("tree.root", root.path().to_path_buf(), false),
        ("tree.home", root.home(), false),
        ("tree.skills", root.skills(), false),
        ("tree.state", state.clone(), true),
        ("tree.settings", state.join("nexus"), true),
        ("tree.db", root.db_dir(), true),
        ("tree.run", root.run_dir(), true),
        ("tree.logs", root.log_dir(), true),
    ];
    let mut findings: Vec<Finding> = directories
        .iter()
        .map(|(id, path, private)| directory(id, path, *private, fix))
        .collect();
    let files = [
        ("tree.config", root.config_file()),
        ("tree.keys", root.key_file()),
        ("tree.tokens", root.token_file()),
        ("tree.own-token", root.own_token_file()),
    ];
    findings.push(unfinished(root, fix));
    findings.extend(files.iter().filter_map(|(id, path)| private_file(id, path, fix)));
    findings
}

/// What a backup, a restore, a reset or a change of the tokens that was killed has left.
fn unfinished(root: &Root, fix: bool) -> Finding {
    let id = "tree.unfinished";
    let mut left = backup::left(root.path());
    // What cannot be read there is told by the check of the directory.
    left.extend(token::left(&root.token_file()).unwrap_or_default());
    let Some(first) = left.first() else {
        return Finding::pass(id, "no backup, restore, reset or change of the tokens was cut off");
    };
    let message = format!(
        "a backup, restore, reset or change of the tokens was cut off and left {} ({} in all)",
        first.display(),
        left.len()
    );
    if !fix {
        return Finding::warn(id, message, "nexus doctor --fix, or the next nexus up removes it");
    }
    let tokens = token::sweep(&root.token_file()).map_err(std::io::Error::other);
    match backup::sweep(root.path()).and(tokens.map(drop)) {
        Ok(()) => Finding::repaired(id, "nothing is left", message),
        Err(error) => Finding::fail(
            id,
            format!("{message}; it cannot be removed: {error}"),
            "remove it by hand",
        ),
    }
}

fn directory(id: &str, path: &Path, private: bool, fix: bool) -> Finding {
    let shown = path.display();
    let found = match path.metadata() {
        Ok(found) => found,
        Err(_) if path.symlink_metadata().is_ok() => {
            return Finding::fail(
                id,
                format!("{shown} is a link to nowhere"),
                "remove the link, then: nexus init",
            );
        }
        Err(_) if fix => {
            return match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
                Ok(()) => Finding::repaired(id, format!("{shown} is there"), "it was missing, and was made"),
                Err(error) => Finding::fail(
                    id,
                    format!("{shown} cannot be made: {error}"),
                    "choose another NEXUS_ROOT",
                ),
            };
        }
        Err(_) => return Finding::warn(id, format!("{shown} is missing"), "nexus init, or nexus doctor --fix"),
    };
    if !found.is_dir() {
        return Finding::fail(
            id,
            format!("{shown} is not a directory"),
            "move it away, then: nexus init",
        );
    }
    if found.uid() != geteuid().as_raw() {
        let fix = format!("chown -R {} {shown}, or use your own NEXUS_ROOT", geteuid());
        return Finding::fail(id, format!("{shown} belongs to uid {}", found.uid()), fix);
    }
    match private {
        true => closed(id, path, found.mode(), 0o700, fix),
        false => Finding::pass(id, shown.to_string()),
    }
}

/// A file that is there and that nobody else may read.
pub(super) fn private_file(id: &str, path: &Path, fix: bool) -> Option<Finding> {
    let found = path.metadata().ok()?;
    if found.uid() != geteuid().as_raw() {
        let message = format!("{} belongs to uid {}", path.display(), found.uid());
        return Some(Finding::fail(
            id,
            message,
            format!("chown {} {}", geteuid(), path.display()),
        ));
    }
    Some(closed(id, path, found.mode(), 0o600, fix))
}

fn closed(id: &str, path: &Path, mode: u32, wanted: u32, fix: bool) -> Finding {
    let (shown, mode) = (path.display(), mode & 0o7777);
    if mode & OTHERS == 0 {
        return Finding::pass(id, shown.to_string());
    }
    if !fix {
        let message = format!("{shown} has mode {mode:o}: others get at it");
        return Finding::fail(id, message, format!("chmod {wanted:o} {shown}, or nexus doctor --fix"));
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(wanted)) {
        Ok(()) => Finding::repaired(
            id,
            shown.to_string(),
            format!("its mode was {mode:o}, and is {wanted:o} now"),
        ),
        Err(error) => Finding::fail(
            id,
            format!("the mode of {shown} cannot be changed: {error}"),
            "look at its owner",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn open_modes_and_gaps_are_found_and_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path().join("n"));
        root.create().unwrap();
        fs::set_permissions(root.state(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(root.key_file(), "").unwrap();
        fs::set_permissions(root.key_file(), fs::Permissions::from_mode(0o644)).unwrap();
        fs::remove_dir(root.log_dir()).unwrap();
        let status = |findings: &[Finding], id: &str| findings.iter().find(|one| one.id == id).unwrap().status;
        let found = look(&root, false);
        assert_eq!(status(&found, "tree.state"), Status::Fail);
        assert_eq!(status(&found, "tree.keys"), Status::Fail);
        assert_eq!(status(&found, "tree.logs"), Status::Warn);
        assert!(look(&root, true).iter().all(|one| one.status == Status::Pass));
        assert!(
            look(&root, false)
                .iter()
                .all(|one| one.status == Status::Pass && one.repaired.is_none())
        );
        assert_eq!(fs::metadata(root.state()).unwrap().mode() & 0o777, 0o700);
    }

    /// A change of the tokens is killed in the middle of its write.
    #[test]
    fn what_a_killed_change_of_the_tokens_left_is_told_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        root.create().unwrap();
        let file = root.token_file();
        let left = file.with_file_name(format!("{}{}-0-0", nexus_walk::UNFINISHED, i32::MAX));
        fs::write(&file, "").unwrap();
        fs::write(&left, "half").unwrap();
        let told = unfinished(&root, false);
        assert_eq!(told.status, Status::Warn);
        assert!(told.message.contains(nexus_walk::UNFINISHED), "{}", told.message);
        assert!(left.exists());
        assert!(unfinished(&root, true).repaired.is_some());
        assert!(!left.exists() && file.exists());
        assert_eq!(unfinished(&root, false).status, Status::Pass);
    }
}
