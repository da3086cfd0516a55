//! User namespaces and their id maps: which user inside is which user on disk.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::spec::{Caller, User};
use crate::sys;

use super::step::{Result, Step, USERNS_HINT, failed};
use super::wire;

/// Numbers of the host from here on stand for other users' files while a sandbox looks at them: nobody has them.
const FOREIGN: u32 = 3_000_000_000;
/// So many numbers of users on disk can be told apart.
const ON_DISK: u32 = 1 << 30;
/// A map is written in one page.
const MOST_GROUPS: usize = 48;

/// One user inside is one user outside, and there are no others.
pub fn write(pid: i32, inside: User, outside: User, privileged: bool) -> Result<()> {
    let map = Map {
        uids: format!("{} {} 1\n", inside.uid, outside.uid),
        gids: format!("{} {} 1\n", inside.gid, outside.gid),
    };
    map.write(pid, privileged)
}

/// Who is who, for a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    uids: String,
    gids: String,
}

impl Map {
    /// Files of one user are those of another, and no others can be written to.
    pub fn of_owner(on_disk: User, outside: User) -> Map {
        Map {
            uids: format!("{} {} 1\n", on_disk.uid, outside.uid),
            gids: format!("{} {} 1\n", on_disk.gid, outside.gid),
        }
    }

    /// What belongs to the caller on disk belongs to `outside`, and its groups are those of [`own_groups`]. All other
    /// users are mapped to numbers that nobody has, so that modes and access lists hold as they do for the caller.
    pub fn of_caller(caller: &Caller, outside: User) -> Result<Map> {
        if caller.groups.len() > MOST_GROUPS {
            let why = format!("user {} is in more than {MOST_GROUPS} groups", caller.uid);
            return Err(failed("id-map", why, ""));
        }
        let mut gids = vec![(caller.gid, outside.gid)];
        let groups = caller.groups.iter().zip(own_groups(caller, outside));
        for (on_disk, group) in groups {
            if gids.iter().all(|(known, _)| known != on_disk) {
                gids.push((*on_disk, group));
            }
        }
        Ok(Map {
            uids: extents(&mut [(caller.uid, outside.uid)]),
            gids: extents(&mut gids),
        })
    }

    fn write(&self, pid: i32, privileged: bool) -> Result<()> {
        let dir = Path::new("/proc").join(pid.to_string());
        let put = |name: &str, text: &str| fs::write(dir.join(name), text).on("user-namespace", name, USERNS_HINT);
        if !privileged {
            put("setgroups", "deny")?;
        }
        put("gid_map", &self.gids)?;
        put("uid_map", &self.uids)
    }
}

/// The numbers that stand for the caller's further groups. The processes of its sandbox have them.
pub fn own_groups(caller: &Caller, outside: User) -> Vec<u32> {
    (1..=caller.groups.len() as u32).map(|n| outside.gid + n).collect()
}

/// `special` as it says, everybody else among the foreign numbers.
fn extents(special: &mut [(u32, u32)]) -> String {
    special.sort_unstable();
    let mut text = String::new();
    let mut next = 0;
    for (on_disk, outside) in special {
        if next < (*on_disk).min(ON_DISK) {
            text += &format!("{next} {} {}\n", FOREIGN + next, (*on_disk).min(ON_DISK) - next);
        }
        text += &format!("{on_disk} {outside} 1\n");
        next = on_disk.saturating_add(1);
    }
    if next < ON_DISK {
        text += &format!("{next} {} {}\n", FOREIGN + next, ON_DISK - next);
    }
    text
}

/// A user namespace that is only a map for a mount: numbers on disk are seen as others. Needs root.
pub fn for_mount(map: &Map) -> Result<OwnedFd> {
    let (ours, theirs) = wire::pair().step("id-map", "")?;
    let Some(pid) = sys::clone(libc::CLONE_NEWUSER, None).step("id-map", USERNS_HINT)? else {
        drop(ours);
        // Ends when the other side is closed, also by the death of its owner.
        let _ = wire::wait_for_go(&theirs);
        std::process::exit(0);
    };
    drop(theirs);
    let made = map
        .write(pid, true)
        .and_then(|()| File::open(format!("/proc/{pid}/ns/user")).step("id-map", ""));
    drop(ours);
    let child = Pid::from_raw(pid);
    let _ = rustix::io::retry_on_intr(|| waitpid(child, WaitOptions::empty()));
    Ok(made?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_else_is_a_number_that_nobody_has() {
        let outside = User {
            uid: 2_000_000_000,
            gid: 2_000_000_000,
        };
        let caller = Caller {
            uid: 0,
            gid: 7,
            groups: vec![7, 9],
        };
        let map = Map::of_caller(&caller, outside).unwrap();
        assert_eq!(map.uids, "0 2000000000 1\n1 3000000001 1073741823\n");
        assert_eq!(
            map.gids,
            "0 3000000000 7\n7 2000000000 1\n8 3000000008 1\n9 2000000002 1\n10 3000000010 1073741814\n"
        );
        let caller = Caller {
            uid: 4_000_000_000,
            ..caller
        };
        let map = Map::of_caller(&caller, outside).unwrap();
        assert_eq!(map.uids, "0 3000000000 1073741824\n4000000000 2000000000 1\n");
    }
}
