//! Who calls: the identity every request carries in its extensions, and what a role may reach.
//!
//! The identity comes from the kernel (peer credentials) or from a bearer token. Metadata is believed only where the
//! caller already is this daemon's own uid, which is how the front door passes a foreign caller on.

use http::{HeaderMap, HeaderName, HeaderValue};
use nexus_proto::words;
use std::{fmt, str::FromStr, sync::Arc};

pub const PEER_UID: HeaderName = HeaderName::from_static(words::metadata::PEER_UID);
pub const PEER_PRINCIPAL: HeaderName = HeaderName::from_static("nexus-peer-principal");
pub const PEER_ROLE: HeaderName = HeaderName::from_static("nexus-peer-role");

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Admin,
    Agent,
    User,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Agent => "agent",
            Role::User => "user",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown role {0:?}, it is one of admin, agent, user")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        match text {
            "admin" => Ok(Role::Admin),
            "agent" => Ok(Role::Agent),
            "user" => Ok(Role::User),
            other => Err(UnknownRole(other.into())),
        }
    }
}

/// The roles that may call a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    agents: bool,
    users: bool,
}

impl Access {
    pub const ADMIN: Access = Access {
        agents: false,
        users: false,
    };
    /// Admins and agents.
    pub const AGENTS: Access = Access {
        agents: true,
        users: false,
    };
    /// Admins and users.
    pub const USERS: Access = Access {
        agents: false,
        users: true,
    };
    /// Anyone who has a role.
    pub const ALL: Access = Access {
        agents: true,
        users: true,
    };

    pub const fn allows(self, role: Role) -> bool {
        match role {
            Role::Admin => true,
            Role::Agent => self.agents,
            Role::User => self.users,
        }
    }

    /// "admin", "admin or agent", ...
    pub const fn needs(self) -> &'static str {
        match (self.agents, self.users) {
            (false, false) => "admin",
            (true, false) => "admin or agent",
            (false, true) => "admin or user",
            (true, true) => "admin, agent or user",
        }
    }
}

/// The one who made a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub role: Role,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub pid: Option<i32>,
    /// `uid:1000`, `token:<name>` or `anonymous`; what ownership is compared by.
    pub principal: Arc<str>,
}

impl Caller {
    /// The caller the guard put on this request. A request that never passed the guard (a handler called directly)
    /// belongs to nobody: role user, principal `nobody`, which owns nothing.
    pub fn of<T>(request: &tonic::Request<T>) -> Caller {
        request.extensions().get().cloned().unwrap_or_else(Caller::nobody)
    }

    /// The same for a plain HTTP request, as the front door sees it.
    pub fn of_http<T>(request: &http::Request<T>) -> Caller {
        request.extensions().get().cloned().unwrap_or_else(Caller::nobody)
    }

    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// Says in `headers` who the caller is, for the next daemon; what was there before is replaced.
    pub fn stamp(&self, headers: &mut HeaderMap) {
        unstamp(headers);
        if let Some(uid) = self.uid {
            headers.insert(PEER_UID, HeaderValue::from(uid));
        }
        headers.insert(PEER_ROLE, HeaderValue::from_static(self.role.as_str()));
        // A principal is made by us from a number or a checked token name, so it always fits a header.
        if let Ok(principal) = HeaderValue::from_str(&self.principal) {
            headers.insert(PEER_PRINCIPAL, principal);
        }
    }

    pub(crate) fn of_uid(uid: u32, gid: Option<u32>, pid: Option<i32>, role: Role) -> Caller {
        Caller {
            role,
            uid: Some(uid),
            gid,
            pid,
            principal: format!("uid:{uid}").into(),
        }
    }

    fn nobody() -> Caller {
        Caller {
            role: Role::User,
            uid: None,
            gid: None,
            pid: None,
            principal: "nobody".into(),
        }
    }
}

pub(crate) fn unstamp(headers: &mut HeaderMap) {
    headers.remove(PEER_UID);
    headers.remove(PEER_PRINCIPAL);
    headers.remove(PEER_ROLE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_lets_in_who_it_names() {
        for (access, agent, user) in [
            (Access::ADMIN, false, false),
            (Access::AGENTS, true, false),
            (Access::USERS, false, true),
            (Access::ALL, true, true),
        ] {
            assert!(access.allows(Role::Admin));
            assert_eq!(access.allows(Role::Agent), agent);
            assert_eq!(access.allows(Role::User), user);
        }
    }

    #[test]
    fn a_request_that_passed_no_guard_is_nobodys() {
        let caller = Caller::of(&tonic::Request::new(()));
        assert!(!caller.is_admin());
        assert_eq!(&*caller.principal, "nobody");
    }
}
