//! The caller's rights on the host's files, as the kernel itself judges them: this process takes the caller's user and
//! groups for the length of a look-up, and gives up root's power over files with it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::process::{DumpableBehavior, Gid, Uid, getgroups, set_dumpable_behavior};
use rustix::thread as t;

use crate::spec::{Access, Caller};
use crate::sys;

use super::step::{Result, Step, failed};

/// What a caller could not do, where it is told apart from other mistakes.
pub const DENIED: &str = "access";

/// A path of the host, opened with the rights of the caller: every directory on the way, and the end itself. No part of
/// the way is a link, so that nobody can put one there meanwhile.
pub fn open_as(path: &Path, caller: &Caller, write: bool) -> Result<OwnedFd> {
    as_caller(caller, || open(path, caller, write))
}

/// The same for a caller whom this process is already.
pub fn open(path: &Path, caller: &Caller, write: bool) -> Result<OwnedFd> {
    let hint = "the source of a mount must exist and its path must not go over a link";
    if !path.is_absolute() {
        return Err(failed("mount", format!("{} is not absolute", path.display()), hint));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = openat2(CWD, path, flags, Mode::empty(), resolve);
    let file = opened.map_err(|error| match error {
        rustix::io::Errno::ACCESS => denied(path, caller, "reach"),
        error => failed_at(path, error, hint),
    })?;
    let stat = rustix::fs::fstat(&file).on("mount", path.display(), "")?;
    let read = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => libc::R_OK | libc::X_OK,
        FileType::RegularFile | FileType::Socket => libc::R_OK,
        _ => {
            let why = format!("{} is neither a directory, a file nor a socket", path.display());
            return Err(failed("mount", why, ""));
        }
    };
    sys::may(file.as_fd(), read).map_err(|_| denied(path, caller, "read"))?;
    if write {
        sys::may(file.as_fd(), libc::W_OK).map_err(|_| denied(path, caller, "write to"))?;
    }
    Ok(file)
}

fn failed_at(path: &Path, error: rustix::io::Errno, hint: &str) -> crate::Failed {
    let failed: Result<()> = Err(error).on("mount", path.display(), hint);
    failed.expect_err("it is made of an error")
}

fn denied(path: &Path, caller: &Caller, what: &str) -> crate::Failed {
    let why = format!("user {} may not {what} {}", caller.uid, path.display());
    failed(DENIED, why, "")
}

pub fn check(access: &Access) -> Result<()> {
    for (path, write) in &access.paths {
        open_as(path, &access.caller, *write)?;
    }
    Ok(())
}

/// Does something as the caller. Root alone can be another than it is; anybody else must be the caller already.
fn as_caller<T>(caller: &Caller, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    check_caller(caller)?;
    if !uid.is_root() {
        return work();
    }
    let own = getgroups().step("access", "")?;
    take(
        Uid::from_raw(caller.uid),
        Gid::from_raw(caller.gid),
        &groups(&caller.groups),
    )?;
    let done = work();
    // Back to root first: the groups are root's to set.
    t::set_thread_res_uid(uid, uid, uid).step("access", "")?;
    t::set_thread_res_gid(gid, gid, gid).step("access", "")?;
    t::set_thread_groups(&own).step("access", "")?;
    set_dumpable_behavior(DumpableBehavior::Dumpable).step("access", "")?;
    done
}

/// The effective user alone: the saved one is the way back. With it the kernel takes root's capabilities out of effect.
fn take(uid: Uid, gid: Gid, groups: &[Gid]) -> Result<()> {
    t::set_thread_groups(groups).step("access", "")?;
    t::set_thread_res_gid(gid, gid, Gid::ROOT).step("access", "")?;
    t::set_thread_res_uid(Uid::ROOT, uid, Uid::ROOT).step("access", "")
}

pub fn groups(numbers: &[u32]) -> Vec<Gid> {
    numbers.iter().map(|number| Gid::from_raw(*number)).collect()
}

/// Only root can act for others.
pub fn check_caller(caller: &Caller) -> Result<()> {
    let own = rustix::process::geteuid();
    if own.is_root() || caller.uid == own.as_raw() {
        return Ok(());
    }
    let why = format!(
        "only root can act for user {} on the host; this is user {}",
        caller.uid,
        own.as_raw()
    );
    Err(failed("spec", why, ""))
}
