//! Who calls: the identity every request carries in its extensions, and what a role may reach.
//!
//! The identity comes from the kernel (peer credentials) or from a bearer token. Metadata is believed only where the
//! caller already is this daemon's own uid, which is how the front door passes a foreign caller on.
//!
//! [`Caller`] is the only type for this in Nexus: services and engines take it as it is and compare owners with
//! [`Caller::owns`] and [`Caller::sees`].

use http::{HeaderMap, HeaderName, HeaderValue};
use nexus_proto::words;
use std::{fmt, str::FromStr, sync::Arc};

use crate::scope::Scopes;

/// The uid of the caller that the front door calls for, decimal.
pub const PEER_UID: HeaderName = HeaderName::from_static(words::metadata::PEER_UID);
/// The [`Caller::principal`] that the front door calls for.
pub const PEER_PRINCIPAL: HeaderName = HeaderName::from_static(words::metadata::PEER_PRINCIPAL);
/// The role that the front door found for the caller: `admin`, `agent` or `user`.
pub const PEER_ROLE: HeaderName = HeaderName::from_static(words::metadata::PEER_ROLE);
/// The id of the token that the caller showed to the front door.
pub const PEER_TOKEN: HeaderName = HeaderName::from_static(words::metadata::PEER_TOKEN);
/// The scopes of that token, separated by spaces. Absent: everything that the role may.
pub const PEER_SCOPES: HeaderName = HeaderName::from_static(words::metadata::PEER_SCOPES);

const STAMPS: [HeaderName; 5] = [PEER_UID, PEER_PRINCIPAL, PEER_ROLE, PEER_TOKEN, PEER_SCOPES];
const ANONYMOUS: &str = "anonymous";

/// What a caller may do at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May everything.
    Admin,
    /// May what agents need: register, take tasks and messages, answer.
    Agent,
    /// May use what it made itself.
    User,
}

impl Role {
    /// The role as it stands in settings and metadata.
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

/// A text that is no role.
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
    /// Admins only.
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

    /// Whether `role` may call.
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
    /// What the caller may do at all; scopes only narrow it.
    pub role: Role,
    /// The user of the process that called, where the kernel named it.
    pub uid: Option<u32>,
    /// Its first group.
    pub gid: Option<u32>,
    /// The process itself, if it is one of this host.
    pub pid: Option<i32>,
    /// The id of the bearer token that was shown.
    pub token: Option<Arc<str>>,
    /// How far that token reaches. `None`: as far as the role does.
    pub scopes: Option<Arc<Scopes>>,
    /// `uid:1000`, `token:<id>` or `anonymous`: what ownership is compared by.
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

    /// A process of this host, known by its uid.
    pub fn of_uid(uid: u32, role: Role) -> Caller {
        Caller {
            uid: Some(uid),
            ..Caller::named(format!("uid:{uid}"), role)
        }
    }

    /// Whoever holds the token with this id.
    pub fn of_token(id: &str, role: Role, scopes: Option<Arc<Scopes>>) -> Caller {
        Caller {
            token: Some(id.into()),
            scopes,
            ..Caller::named(format!("token:{id}"), role)
        }
    }

    /// Somebody on this host who connected over TCP without a token.
    pub fn anonymous(role: Role) -> Caller {
        Caller::named(ANONYMOUS, role)
    }

    /// Whether the caller has role admin.
    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// Whether nothing is known of the caller but that it is on this host.
    pub fn is_anonymous(&self) -> bool {
        &*self.principal == ANONYMOUS
    }

    /// Whether `owner` is this caller's principal.
    pub fn owns(&self, owner: &str) -> bool {
        &*self.principal == owner
    }

    /// Whether the caller may see what `owner` made: its own, and as an admin everything.
    pub fn sees(&self, owner: &str) -> bool {
        self.is_admin() || self.owns(owner)
    }

    /// Says in `headers` who the caller is, for the next daemon; what was there before is replaced.
    pub fn stamp(&self, headers: &mut HeaderMap) {
        unstamp(headers);
        if let Some(uid) = self.uid {
            headers.insert(PEER_UID, HeaderValue::from(uid));
        }
        headers.insert(PEER_ROLE, HeaderValue::from_static(self.role.as_str()));
        let scopes = self.scopes.as_ref().map(ToString::to_string);
        for (name, text) in [
            (PEER_PRINCIPAL, Some(&*self.principal)),
            (PEER_TOKEN, self.token.as_deref()),
            (PEER_SCOPES, scopes.as_deref()),
        ] {
            if let Some(text) = text {
                let value = HeaderValue::from_str(text);
                headers.insert(name, value.expect("made of numbers, checked ids and checked scopes"));
            }
        }
    }

    pub(crate) fn named(principal: impl Into<Arc<str>>, role: Role) -> Caller {
        Caller {
            role,
            uid: None,
            gid: None,
            pid: None,
            token: None,
            scopes: None,
            principal: principal.into(),
        }
    }

    fn nobody() -> Caller {
        Caller::named("nobody", Role::User)
    }
}

/// Whether `headers` say anything of another caller.
pub(crate) fn is_stamped(headers: &HeaderMap) -> bool {
    STAMPS.iter().any(|name| headers.contains_key(name))
}

pub(crate) fn unstamp(headers: &mut HeaderMap) {
    for name in &STAMPS {
        headers.remove(name);
    }
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

    #[test]
    fn an_admin_sees_what_others_own_and_a_user_only_its_own() {
        let user = Caller::of_uid(7, Role::User);
        assert!(user.sees("uid:7") && !user.sees("uid:8") && !user.sees(""));
        let admin = Caller::of_uid(7, Role::Admin);
        assert!(admin.sees("uid:8") && !admin.owns("uid:8"));
        assert!(Caller::anonymous(Role::User).is_anonymous() && !user.is_anonymous());
    }
}
