//! Where the daemons' programs are, and what their exit codes mean.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::table::Entry;
use crate::failure::{Exit, Failure};

/// The programs of these entries, or which are missing.
pub fn all(entries: &[&Entry]) -> Result<Vec<PathBuf>, Failure> {
    let found: Vec<Option<PathBuf>> = entries.iter().map(|entry| find(entry.binary)).collect();
    let mut missing: Vec<&str> = entries
        .iter()
        .zip(&found)
        .filter(|(_, found)| found.is_none())
        .map(|(entry, _)| entry.binary)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(found.into_iter().flatten().collect());
    }
    Err(
        Failure::new(Exit::Failed, format!("cannot find {}", missing.join(", ")))
            .hint("put them beside nexus, in PATH, or where NEXUS_BIN_DIR says; from a checkout: cargo xtask up"),
    )
}

pub fn find(binary: &str) -> Option<PathBuf> {
    places()
        .into_iter()
        .map(|place| place.join(binary))
        .find(|path| is_program(path))
}

/// `NEXUS_BIN_DIR` alone if it is set, else beside this program, then `PATH`.
fn places() -> Vec<PathBuf> {
    if let Some(told) = env::var_os("NEXUS_BIN_DIR").filter(|told| !told.is_empty()) {
        return vec![PathBuf::from(told)];
    }
    let beside = env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.to_path_buf()));
    let path = env::var_os("PATH").unwrap_or_default();
    beside.into_iter().chain(env::split_paths(&path)).collect()
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// What a daemon's own exit code means.
pub fn meaning(code: i32) -> Option<&'static str> {
    match code {
        0 => Some("it stopped in good order"),
        64 => Some("its command line cannot be understood"),
        65 => Some("its data is damaged, or a newer version wrote it"),
        70 => Some("something that should have worked did not"),
        71 => Some("the system refused what it needs to start"),
        75 => Some("its socket is in use"),
        78 => Some("the config is wrong"),
        127 => Some("it cannot be run"),
        _ => None,
    }
}

/// What to do about it.
pub fn remedy(code: i32, service: &str) -> Option<String> {
    match code {
        65 => Some("restore state/db from a backup, or go back to the newer version".to_owned()),
        75 => Some("stop the one that has it, or set another socket_path".to_owned()),
        78 => Some(format!(
            "correct state/nexus/config.toml, then: nexus services start {service}"
        )),
        127 => Some("check that the program is there and can be run".to_owned()),
        _ => None,
    }
}
