//! The state of a tree in one file, taken while daemons run, and put back while none does.
//!
//! ```text
//!  pick (what belongs in) ──▶ create: stage, hash, pack ──▶ nexus-….tar.gz: manifest.json first, then state/…
//!                                                              │
//!                    archive: every byte against the manifest ◀┘──▶ verify    restore: staged beside, two renames
//! ```
//!
//! A database is copied as of one moment by its own engine, never as a file that somebody writes. What may be restored
//! is only what the manifest names, below `state/`, as plain files. Restoring deletes nothing: what was there is moved
//! aside.

pub mod archive;
pub mod create;
pub mod manifest;
pub mod pick;
pub mod progress;
pub mod quiet;
pub mod restore;

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Where backups lie unless told otherwise: beside `state/`, so that a reset or a restore never touches them.
pub fn directory(root: &Path) -> PathBuf {
    root.join("backups")
}

/// Removes what a backup that was killed had begun. Another one that is under way fails by it.
pub fn sweep(root: &Path) {
    let entries = std::fs::read_dir(directory(root)).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(create::STAGED)) {
        // One that stays is in nobody's way.
        let _gone = std::fs::remove_dir_all(entry.path()).or_else(|_| std::fs::remove_file(entry.path()));
    }
}

/// As it can stand in a file's name: to the second, sorted by time.
pub fn stamp(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace(':', "").replace("-", "")
}
