//! Opening files with the rights of another user: the kernel decides, not a copy of its rules.

use std::io;
use std::marker::PhantomData;

/// While this lives, the thread that made it opens files as another user would: without the powers of root, with that
/// user's groups. What is open already stays usable.
///
/// Only root can take another user's rights. For everyone else this changes nothing: the process's own rights are the
/// limit, and they are never more than what its user may do.
#[derive(Debug)]
pub struct Rights {
    #[cfg(target_os = "linux")]
    before: Option<linux::Before>,
    /// The rights are those of a thread, so this stays on it.
    thread: PhantomData<*const ()>,
}

impl Rights {
    /// The rights of a user, whether or not the system knows a name for it.
    pub fn assume(uid: u32) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        let before = if rustix::process::geteuid().is_root() && uid != 0 {
            Some(linux::assume(uid)?)
        } else {
            None
        };
        #[cfg(not(target_os = "linux"))]
        if rustix::process::geteuid().is_root() && uid != 0 {
            let text = "this system cannot lend a thread another user's rights";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(Self {
            #[cfg(target_os = "linux")]
            before,
            thread: PhantomData,
        })
    }
}

#[cfg(target_os = "linux")]
impl Drop for Rights {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            linux::give_back(&before);
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::CString;
    use std::io;

    use nix::unistd::{Gid, Uid, User, getgrouplist, getgroups, setfsgid, setfsuid};
    use rustix::thread::set_thread_groups;

    /// The group of those who are in none.
    const NOGROUP: u32 = 65_534;

    #[derive(Debug)]
    pub struct Before {
        gid: Gid,
        groups: Vec<Gid>,
    }

    pub fn assume(uid: u32) -> io::Result<Before> {
        let (gid, groups) = groups_of(uid);
        let before = Before {
            gid: nix::unistd::getegid(),
            groups: getgroups()?,
        };
        // Groups first: changing them needs root. The call changes those of this thread only.
        set_thread_groups(&raw(&groups))?;
        setfsgid(gid);
        setfsuid(Uid::from_raw(uid));
        // Neither call reports a failure; asked again, both say what holds.
        let holds = setfsuid(Uid::from_raw(uid)).as_raw() == uid && setfsgid(gid) == gid;
        if !holds {
            give_back(&before);
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        Ok(before)
    }

    pub fn give_back(before: &Before) {
        let root = Uid::from_raw(0);
        setfsuid(root);
        setfsgid(before.gid);
        let groups = set_thread_groups(&raw(&before.groups));
        if setfsuid(root) != root || groups.is_err() {
            // A thread that others use must not go on with the rights of somebody else.
            std::process::abort();
        }
    }

    fn groups_of(uid: u32) -> (Gid, Vec<Gid>) {
        let nobody = || (Gid::from_raw(NOGROUP), Vec::new());
        let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else {
            return nobody();
        };
        let Ok(name) = CString::new(user.name) else {
            return nobody();
        };
        (user.gid, getgrouplist(&name, user.gid).unwrap_or_default())
    }

    fn raw(groups: &[Gid]) -> Vec<rustix::fs::Gid> {
        groups
            .iter()
            .map(|group| rustix::fs::Gid::from_raw(group.as_raw()))
            .collect()
    }
}
