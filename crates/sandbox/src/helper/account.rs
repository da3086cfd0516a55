//! Who pays for what the kernel keeps for a sandbox of root's.
//!
//! The kernel counts inotify instances and watches, queued signals, message queues and further namespaces of a user
//! namespace against the user who made it, too. Made by root, a sandbox could use up root's share of them, and nothing of
//! root's on this host could watch a file any more. So it is made as a number that nobody has: one for each caller, so
//! that callers do not use up each other's share either.

use rustix::process::{DumpableBehavior, Uid, set_dumpable_behavior};
use rustix::thread::{self as t, CapabilitySets};

use crate::spec::{Caller, User};

use super::step::{Result, Step};

/// Numbers from here on stand for callers where sandboxes are counted: nobody has them.
const ACCOUNTS: u32 = 2_100_000_000;
/// So many users have a number of their own; it ends well before the numbers of other users' files.
const OWN_ACCOUNTS: u32 = 1 << 29;

/// Whose share a sandbox uses up. `outside` is who its processes are on the host.
pub fn of(caller: Option<&Caller>, outside: User) -> u32 {
    match caller {
        Some(caller) if caller.uid < OWN_ACCOUNTS => ACCOUNTS + caller.uid,
        _ => outside.uid,
    }
}

/// Does something as root whose effective user is `account`, as it is the effective user who owns a new namespace. Root's
/// capabilities stay in effect. A child that is made meanwhile stays so.
pub fn charge<T>(account: u32, work: impl FnOnce() -> T) -> Result<T> {
    let hint = "where root is in a user namespace itself, the numbers from 2000000000 on have to be mapped there";
    let account = Uid::from_raw(account);
    t::set_thread_res_uid(Uid::ROOT, account, Uid::ROOT).step("account", hint)?;
    let sets = t::capabilities(None).step("account", "")?;
    let all = CapabilitySets {
        effective: sets.permitted,
        ..sets
    };
    t::set_capabilities(None, all).step("account", "")?;
    set_dumpable_behavior(DumpableBehavior::Dumpable).step("account", "")?;
    let own = std::process::id();
    let done = work();
    if std::process::id() == own {
        t::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).step("account", "")?;
        set_dumpable_behavior(DumpableBehavior::Dumpable).step("account", "")?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::NOBODY;

    #[test]
    fn each_caller_has_a_number_that_nobody_has() {
        let caller = |uid| Caller {
            uid,
            gid: uid,
            groups: Vec::new(),
        };
        assert_eq!(of(Some(&caller(0)), NOBODY), 2_100_000_000);
        assert_eq!(of(Some(&caller(1001)), NOBODY), 2_100_001_001);
        assert_eq!(of(Some(&caller(NOBODY.uid)), NOBODY), NOBODY.uid);
        assert_eq!(of(None, NOBODY), NOBODY.uid);
    }
}
