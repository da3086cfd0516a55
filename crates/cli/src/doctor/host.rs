//! Checks the host: free disk space, open files, a sticky /tmp, a plausible clock.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nexus_config::{Root, parse_size};
use nix::sys::resource::{Resource, getrlimit};

use super::Finding;
use crate::{
    backup::progress::size,
    context::Context,
    settings::ask::{self, Sees},
};

/// Bytes over what the orchestrator keeps back that it is time to do something.
const DISK_LOW: u64 = 1 << 30;
/// 1000 connections of each daemon and what it has open besides.
const FILES_LEAST: u64 = 256;
const FILES_LOW: u64 = 2048;
/// 2026-01-01: nothing of this program was made before.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// Clocks of file systems over a network may be a little ahead.
const AHEAD: Duration = Duration::from_secs(60);

pub(super) async fn look(context: &Context) -> Vec<Finding> {
    let root = &context.root;
    let mut findings = disks(context).await;
    findings.extend([files(), temporary(), clock(root)]);
    findings
}

/// What the orchestrator's settings say of the disk.
struct Disk {
    database: PathBuf,
    /// Below this it takes nothing new.
    least: u64,
}

impl Disk {
    /// `None` where the program cannot be asked.
    async fn ask(context: &Context) -> Option<Disk> {
        let (mut programs, _) = ask::programs().ok()?;
        programs.retain(|program| program.daemon == "orchestrator");
        let answers = ask::values(&programs, &context.root, None, Sees::Everything, false)
            .await
            .ok()?;
        let settings = &answers.first()?.settings;
        let value = |key: &str| settings.iter().find(|one| one.key == key)?.value.as_str();
        Some(Disk {
            database: value("database")?.into(),
            least: parse_size(value("low_disk")?).ok()?,
        })
    }
}

async fn disks(context: &Context) -> Vec<Finding> {
    let state = context.root.state();
    let Some(disk) = Disk::ask(context).await else {
        return vec![Finding::skip(
            "host.disk",
            "the orchestrator cannot be asked for its settings",
        )];
    };
    let mut findings = vec![room("host.disk", &state, disk.least)];
    if let Some(directory) = disk
        .database
        .parent()
        .filter(|directory| !directory.starts_with(&state))
    {
        findings.push(room("host.disk.database", directory, disk.least));
    }
    findings
}

/// The room on the disk of a directory. What is kept back for root is no room for anybody here.
fn room(id: &str, directory: &Path, least: u64) -> Finding {
    let mut place = directory.to_path_buf();
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
    let message = format!(
        "{} free at {}; below {} (orchestrator.low_disk) nothing new is taken",
        size(free),
        place.display(),
        size(least)
    );
    if free < least {
        Finding::fail(id, message, "make room: messages are refused until there is some")
    } else if free < least.saturating_add(DISK_LOW) {
        Finding::warn(id, message, "make room, or nexus sessions prune --older-than 90d")
    } else {
        Finding::pass(id, message)
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
    fn the_room_is_judged_by_what_the_orchestrator_keeps_back() {
        let dir = tempfile::tempdir().unwrap();
        let told = |least| room("host.disk", &dir.path().join("not/there/yet"), least);
        assert_ne!(told(0).status, Status::Fail);
        let refused = told(1 << 60);
        assert_eq!(refused.status, Status::Fail);
        assert!(refused.message.contains("below 1048576.0 TiB"), "{}", refused.message);
        let stat = nix::sys::statvfs::statvfs(dir.path()).unwrap();
        #[expect(clippy::useless_conversion, reason = "the width differs between platforms")]
        let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
        assert_eq!(told(free.saturating_sub(1 << 29)).status, Status::Warn);
    }

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
