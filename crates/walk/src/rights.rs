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

/// Whether this process may give files to others, and take their rights.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A user and the groups of that user, as the system told when it was asked.
#[derive(Clone, Debug)]
pub struct Identity {
    uid: u32,
    #[cfg(target_os = "linux")]
    groups: linux::Groups,
}

impl Identity {
    /// Of a user, whether or not the system knows a name for it. One without a name is in no group.
    #[must_use]
    pub fn of(uid: u32) -> Self {
        Self {
            uid,
            #[cfg(target_os = "linux")]
            groups: linux::Groups::of(uid),
        }
    }

    /// Takes the rights of this user for the current thread.
    ///
    /// # Errors
    /// The system refuses, or cannot do so.
    pub fn assume(&self) -> io::Result<Rights> {
        let needed = is_root() && self.uid != 0;
        #[cfg(not(target_os = "linux"))]
        if needed {
            let text = "this system cannot lend a thread another user's rights";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(Rights {
            #[cfg(target_os = "linux")]
            before: needed.then(|| linux::assume(self.uid, &self.groups)).transpose()?,
            thread: PhantomData,
        })
    }
}

impl Rights {
    /// [`Identity::assume`], with groups that are looked up now.
    pub fn assume(uid: u32) -> io::Result<Self> {
        Identity::of(uid).assume()
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

    #[derive(Clone, Debug)]
    pub struct Groups {
        gid: Gid,
        all: Vec<Gid>,
    }

    pub fn assume(uid: u32, groups: &Groups) -> io::Result<Before> {
        let before = Before {
            gid: nix::unistd::getegid(),
            groups: getgroups()?,
        };
        // Groups first: changing them needs root. The call changes those of this thread only.
        set_thread_groups(&raw(&groups.all))?;
        setfsgid(groups.gid);
        setfsuid(Uid::from_raw(uid));
        // Neither call reports a failure; asked again, both say what holds.
        let holds = setfsuid(Uid::from_raw(uid)).as_raw() == uid && setfsgid(groups.gid) == groups.gid;
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

    impl Groups {
        pub fn of(uid: u32) -> Self {
            let none = Self {
                gid: Gid::from_raw(NOGROUP),
                all: Vec::new(),
            };
            let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else {
                return none;
            };
            let Ok(name) = CString::new(user.name) else {
                return none;
            };
            Self {
                gid: user.gid,
                all: getgrouplist(&name, user.gid).unwrap_or_default(),
            }
        }
    }

    fn raw(groups: &[Gid]) -> Vec<rustix::fs::Gid> {
        groups
            .iter()
            .map(|group| rustix::fs::Gid::from_raw(group.as_raw()))
            .collect()
    }
}
