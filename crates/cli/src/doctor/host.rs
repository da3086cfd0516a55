//! Checks the host: free disk space, open files, a sticky /tmp, a plausible clock.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use nexus_config::Root;
use nix::sys::resource::{Resource, getrlimit};

use super::Finding;
use crate::backup::progress::size;

/// Below this the orchestrator takes nothing new (its default).
const DISK_LEAST: u64 = 64 << 20;
const DISK_LOW: u64 = 1 << 30;
/// 1000 connections of each daemon and what it has open besides.
const FILES_LEAST: u64 = 256;
const FILES_LOW: u64 = 2048;
/// 2026-01-01: nothing of this program was made before.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// Clocks of file systems over a network may be a little ahead.
const AHEAD: Duration = Duration::from_secs(60);

pub(super) fn look(root: &Root) -> Vec<Finding> {
    vec![disk(root), files(), temporary(), clock(root)]
}

fn disk(root: &Root) -> Finding {
    let id = "host.disk";
    let mut place = root.state();
    while !place.is_dir() {
        if !place.pop() {
            return Finding::skip(id, "there is no place to look at");
        }
    }
    let stat = match nix::sys::statvfs::statvfs(&place) {
        Ok(stat) => stat,
        Err(errno) => return Finding::warn(id, format!("cannot be asked for: {errno}"), "look with: df"),
    };
    #[expect(clippy::useless_conversion, reason = "the width differs between platforms")]
    let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
    let message = format!("{} free at {}", size(free), place.display());
    match free {
        free if free < DISK_LEAST => Finding::fail(id, message, "make room: messages are refused until there is some"),
        free if free < DISK_LOW => Finding::warn(id, message, "make room, or nexus sessions prune --older-than 90d"),
        _ => Finding::pass(id, message),
    }
}

fn files() -> Finding {
    let id = "host.files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            let message = format!("{soft} open files for each process (at most {hard})");
            let fix = format!("ulimit -n {}, or LimitNOFILE= in a unit", hard.min(65_536));
            match soft {
                soft if soft < FILES_LEAST => Finding::fail(id, message, fix),
                soft if soft < FILES_LOW => Finding::warn(id, message, fix),
                _ => Finding::pass(id, message),
            }
        }
        Err(errno) => Finding::skip(id, format!("cannot be asked for: {errno}")),
    }
}

fn temporary() -> Finding {
    let id = "host.tmp";
    match Path::new("/tmp").metadata() {
        Ok(found) if found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0 => Finding::fail(
            id,
            "/tmp is open to all and not sticky: anyone can replace the socket in it",
            "chmod +t /tmp",
        ),
        Ok(_) => Finding::pass(id, "/tmp is sticky, or not open to all"),
        Err(error) => Finding::warn(
            id,
            format!("/tmp: {error}"),
            "make it, or set [orchestrator] socket_path",
        ),
    }
}

fn clock(root: &Root) -> Finding {
    let (id, now) = ("host.clock", SystemTime::now());
    let fix = "set the clock, such as with: timedatectl set-ntp true";
    let stamp = humantime::format_rfc3339_seconds(now);
    if now < SystemTime::UNIX_EPOCH + EPOCH {
        return Finding::fail(id, format!("it says {stamp}, which is in the past"), fix);
    }
    let entries = fs::read_dir(root.db_dir()).into_iter().flatten().flatten();
    let newest = entries.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max();
    match newest
        .and_then(|newest| newest.duration_since(now).ok())
        .filter(|ahead| *ahead > AHEAD)
    {
        Some(ahead) => {
            let ahead = humantime::format_duration(Duration::from_secs(ahead.as_secs()));
            Finding::warn(
                id,
                format!("the databases were written {ahead} after what it says now, {stamp}"),
                fix,
            )
        }
        None => Finding::pass(id, stamp.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_clock_behind_the_databases_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        root.create().unwrap();
        let file = fs::File::create(root.db_dir().join("x.db")).unwrap();
        assert_eq!(clock(&root).status, Status::Pass);
        file.set_modified(SystemTime::now() + Duration::from_secs(7200))
            .unwrap();
        let told = clock(&root);
        assert_eq!(told.status, Status::Warn);
        assert!(
            told.message.contains("1h 59m") || told.message.contains("2h"),
            "{}",
            told.message
        );
    }
}
