//! Drops rights permanently. The order matters: each step needs what a later one takes away.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::spec::{Run, User};
use crate::sys;

use super::filter;
use super::rules;
use super::step::{Result, Step, failed};

/// The user inside, still with the capabilities of its namespace.
pub fn become_user(user: User) -> Result<()> {
    use rustix::thread as t;
    t::set_keep_capabilities(true).step("user", "")?;
    let gid = rustix::process::Gid::from_raw(user.gid);
    let uid = rustix::process::Uid::from_raw(user.uid);
    t::set_thread_res_gid(gid, gid, gid).step("user", "")?;
    t::set_thread_res_uid(uid, uid, uid).step("user", "")?;
    let sets = t::capabilities(None).step("user", "")?;
    let all = CapabilitySets {
        effective: sets.permitted,
        ..sets
    };
    t::set_capabilities(None, all).step("user", "")
}

/// Dies with whoever watches over it. After the change of user, which would undo this.
pub fn die_with_parent(watcher: BorrowedFd<'_>) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("watch", "")?;
    let mut polled = [PollFd::from_borrowed_fd(watcher, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).step("watch", "")?;
    if polled[0].revents().contains(PollFlags::HUP) {
        return Err(failed("watch", "the helper went away", ""));
    }
    Ok(())
}

/// Nothing comes back after this. Returns the version of Landlock that holds.
pub fn lock(run: &Run) -> Result<u32> {
    // Others inside may be the same user: they may not look into this process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("dumpable", "")?;
    sys::new_session_keyring().step("keyring", "")?;
    limits(run, true)?;
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true).step("no-new-privileges", "")?;
    let landlock = rules::restrict(run)?;
    filter::install(run.may_set_ids())?;
    Ok(landlock)
}

fn drop_capabilities() -> Result<()> {
    use rustix::thread as t;
    t::clear_ambient_capability_set().step("capabilities", "")?;
    for number in 0..=63 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match t::remove_capability_from_bounding_set(capability) {
            // Beyond the last that this kernel has.
            Err(rustix::io::Errno::INVAL) => break,
            other => other.step("capabilities", "")?,
        }
    }
    t::set_keep_capabilities(false).step("capabilities", "")?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    t::set_capabilities(None, none).step("capabilities", "")
}

/// What holds without a control group. The number of processes is counted for this sandbox alone if it has a user
/// namespace of its own, and not at all otherwise: it would count whatever else the user runs. Memory is counted only for
/// each process.
pub fn limits(run: &Run, own_users: bool) -> Result<()> {
    let limits = &run.limits;
    let wanted = [
        (Resource::Nproc, limits.pids.filter(|_| own_users)),
        (Resource::Data, limits.memory),
        (Resource::Nofile, Some(limits.nofile)),
        (Resource::Fsize, limits.fsize),
        (Resource::Core, Some(0)),
        (Resource::Memlock, Some(64 << 10)),
        (Resource::Msgqueue, Some(0)),
    ];
    for (resource, limit) in wanted {
        let Some(limit) = limit else { continue };
        let now = rustix::process::getrlimit(resource);
        let most = now.maximum.map_or(limit, |maximum| maximum.min(limit));
        let value = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, value).on("limits", format!("{resource:?}"), "")?;
    }
    Ok(())
}
