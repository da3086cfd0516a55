//! The user whose rights the containers of a session have on host files, and who owns the files they create.
//!
//! It is the user who made the session; on the bare host `orchestrator.container_user`, where that is set. Root's containers, and those of callers who are no user of this host, have the
//! rights of nobody; the settings can name another user for a caller (`orchestrator.container_owners`).

use nexus_proto::orchestrator::v1::ContainerConfig;
use nexus_runtime::{Found, HostUser};
use nix::unistd::{Gid, Uid, User};

use super::Containers;

/// Numbers that nobody has: a sandbox of root's is this user on the host.
const NOBODY: u32 = nexus_runtime::sandbox::NOBODY;

/// A caller, and the user of the host that its containers act for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub principal: String,
    pub uid: u32,
    pub gid: Option<u32>,
}

/// For whom a container acts, and whether paths of the host may be mounted for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub user: HostUser,
    pub is_caller: bool,
}

impl Containers {
    /// Blocks: it looks a user and its groups up. `principal` made the session.
    pub(super) fn owner(&self, principal: &str) -> Owner {
        if let Some((uid, gid)) = self.options().bare_user {
            return Owner {
                user: host_user(uid, gid),
                is_caller: false,
            };
        }
        let own = nix::unistd::geteuid().as_raw();
        if let Some(pair) = self.options().owners.iter().find(|pair| pair.principal == principal) {
            return Owner {
                user: host_user(pair.uid, pair.gid),
                is_caller: true,
            };
        }
        let caller = principal.strip_prefix("uid:").and_then(|uid| uid.parse::<u32>().ok());
        match caller {
            Some(uid) if uid == own && own != 0 => Owner {
                user: host_user(own, Some(nix::unistd::getegid().as_raw())),
                is_caller: true,
            },
            Some(uid) if own == 0 && uid != 0 => Owner {
                user: host_user(uid, None),
                is_caller: true,
            },
            // Only root can act for others.
            _ if own != 0 => Owner {
                user: host_user(own, Some(nix::unistd::getegid().as_raw())),
                is_caller: false,
            },
            root => Owner {
                user: HostUser {
                    uid: NOBODY,
                    gid: NOBODY,
                    groups: Vec::new(),
                },
                is_caller: root.is_some(),
            },
        }
    }

    /// Who commands of this container run as, inside. Where users inside are users of the host it is left to the engine,
    /// which takes the owner.
    pub(super) fn user(&self, config: &ContainerConfig, found: &Found) -> String {
        let own = nix::unistd::geteuid();
        let given = [&config.user, &self.options().user]
            .into_iter()
            .find(|user| !user.is_empty());
        match given {
            Some(user) => user.clone(),
            None if found.engine.name() != "sandbox" => String::new(),
            None if own.is_root() => "65534:65534".into(),
            None => format!("{own}:{}", nix::unistd::getegid()),
        }
    }
}

/// With the groups that the host's user database has for it. A number without an entry has its own group and no others.
fn host_user(uid: u32, gid: Option<u32>) -> HostUser {
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let gid = gid.or(known.as_ref().map(|user| user.gid.as_raw())).unwrap_or(uid);
    let name = known.and_then(|user| std::ffi::CString::new(user.name).ok());
    let groups = name.and_then(|name| nix::unistd::getgrouplist(&name, Gid::from_raw(gid)).ok());
    let mut groups: Vec<u32> = groups.unwrap_or_default().iter().map(|group| group.as_raw()).collect();
    groups.retain(|group| *group != gid);
    groups.sort_unstable();
    groups.dedup();
    HostUser { uid, gid, groups }
}
