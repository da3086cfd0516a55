//! The services of one tree as commands see them: names, status and changes.
//!
//! Nothing here keeps a daemon running: the supervisor does ([`crate::supervise`]), or an init system. A daemon is found
//! through its socket, and its process by what the kernel tells of it. A socket that somebody else holds is never
//! touched, only named.

pub mod change;
pub mod down;
pub mod foreground;
pub mod logs;
pub mod peer;
pub mod reach;
pub mod status;
pub mod survey;
pub mod up;

use std::{fs, path::Path};

use crate::context::Context;
pub use crate::supervise::{ask, channel as control, model, process, programs, table};
use table::TABLE;

/// The names of this tree's daemons in their order: those that are kept running, and any other that has a socket in
/// `state/run`.
pub fn names(context: &Context) -> Vec<String> {
    let mut names: Vec<String> = TABLE.iter().map(|entry| entry.name.to_owned()).collect();
    names.extend(others(&context.root.run_dir()));
    names
}

fn others(run_dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run_dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned))
        .filter(|name| name != "supervisor" && TABLE.iter().all(|entry| entry.name != name))
        .collect();
    names.sort();
    names
}
