//! Backup and restore: the state of a tree in one file, taken while daemons run, restored while none does.
//!
//! ```text
//!  pick (what belongs in) ──▶ create: stage, hash, pack ──▶ nexus-….tar.gz: manifest.json first, then state/…
//!                                                              │
//!                    archive: every byte against the manifest ◀┘──▶ verify    restore: staged beside, one exchange
//! ```
//!
//! A database is copied as of one moment by its own engine, never as a file that somebody writes. What may be restored
//! is only what the manifest names, below `state/`, as plain files and directories. Restoring deletes nothing: what was there
//! is moved aside. The format, and what reads it, is `nexus-backup`.
//!
//! The state is walked beneath a directory handle, and what a container can write is read with the rights of its owner.

pub mod archive;
pub mod create;
pub mod pick;
pub mod progress;
pub mod quiet;
pub mod restore;
pub mod staging;

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Where backups lie unless told otherwise: beside `state/`, so that a reset or a restore never touches them.
pub fn directory(root: &Path) -> PathBuf {
    root.join("backups")
}

/// What a backup, a restore or a reset that was killed has left behind. One that is under way is none of these.
pub fn left(root: &Path) -> Vec<PathBuf> {
    let folders = [root.to_path_buf(), directory(root)];
    folders.iter().flat_map(|folder| staging::left(folder)).collect()
}

/// Removes what [`left`] names.
///
/// # Errors
/// The first that stays.
pub fn sweep(root: &Path) -> io::Result<()> {
    staging::sweep(root).and(staging::sweep(&directory(root)))
}

/// As it can stand in a file's name: to the second, sorted by time.
pub fn stamp(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace(':', "").replace("-", "")
}
