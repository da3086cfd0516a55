//! Turns a connection's kernel credentials or bearer token into the caller of each request.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tonic::{Code, Status};

use crate::{
    OwnToken,
    caller::{self, Caller, PEER_PRINCIPAL, PEER_ROLE, PEER_SCOPES, PEER_TOKEN, PEER_UID, Role},
    shares::{Account, Shares},
    status::status,
    token_check::{Checker, Refusal, TokenEnd},
};

/// Whose calls are whose; the same for all connections.
pub(crate) struct Rules {
    pub own_uid: u32,
    pub uids: BTreeMap<u32, Role>,
    pub gids: BTreeMap<u32, Role>,
    pub anonymous: Role,
    pub require_token: bool,
    /// Of the other daemons of this installation, on its sockets.
    pub own_token: Option<OwnToken>,
    pub tokens: Arc<Checker>,
}

/// A key of `roles` that names nobody.
#[derive(Debug, thiserror::Error)]
#[error(
    "roles: {0:?} is none of \"uid:<user>\", \"gid:<group>\", \"anonymous\", where a user or group is one of this host, by number or name"
)]
pub struct RoleKey(pub String);

impl Rules {
    pub fn new(
        own_uid: u32,
        roles: &BTreeMap<String, Role>,
        require_token: bool,
        tokens: Checker,
    ) -> Result<Self, RoleKey> {
        let (mut uids, mut gids, mut anonymous) = (BTreeMap::new(), BTreeMap::new(), Role::User);
        for (key, role) in roles {
            let wrong = || RoleKey(key.clone());
            match key.split_once(':') {
                Some(("uid", user)) => drop(uids.insert(uid(user).ok_or_else(wrong)?, *role)),
                Some(("gid", group)) => drop(gids.insert(gid(group).ok_or_else(wrong)?, *role)),
                None if key == "anonymous" => anonymous = *role,
                _ => return Err(wrong()),
            }
        }
        Ok(Rules {
            own_uid,
            uids,
            gids,
            anonymous,
            require_token,
            own_token: None,
            tokens: Arc::new(tokens),
        })
    }

    pub fn role_of(&self, uid: u32, gids: &[u32]) -> Option<Role> {
        if uid == self.own_uid {
            return Some(Role::Admin);
        }
        self.uids
            .get(&uid)
            .or_else(|| gids.iter().find_map(|gid| self.gids.get(gid)))
            .copied()
    }
}

/// By number, else by name.
fn uid(user: &str) -> Option<u32> {
    let named = || Some(nix::unistd::User::from_name(user).ok()??.uid.as_raw());
    user.parse().ok().or_else(named)
}

fn gid(group: &str) -> Option<u32> {
    let named = || Some(nix::unistd::Group::from_name(group).ok()??.gid.as_raw());
    group.parse().ok().or_else(named)
}

pub(crate) struct Peer {
    rules: Arc<Rules>,
    kind: Kind,
    /// Of the caller that was first seen on this connection, which most often is the only one.
    account: OnceLock<Arc<Account>>,
}

enum Kind {
    Own(Caller),
    Known(Caller),
    Stranger {
        uid: u32,
        gid: u32,
    },
    /// TCP: whoever holds a token, and nobody else unless `anonymous`.
    Remote {
        anonymous: bool,
    },
}

impl Peer {
    /// The other end of a Unix socket. `more_gids` are its supplementary groups, as far as they matter.
    pub fn local(rules: Arc<Rules>, uid: u32, gid: u32, pid: Option<i32>, more_gids: &[u32]) -> Peer {
        let gids: Vec<u32> = std::iter::once(gid).chain(more_gids.iter().copied()).collect();
        let known = |role| Caller {
            gid: Some(gid),
            pid,
            ..Caller::of_uid(uid, role)
        };
        let kind = match rules.role_of(uid, &gids) {
            Some(role) if uid == rules.own_uid => Kind::Own(known(role)),
            Some(role) => Kind::Known(known(role)),
            None => Kind::Stranger { uid, gid },
        };
        Peer {
            rules,
            kind,
            account: OnceLock::new(),
        }
    }

    pub fn remote(rules: Arc<Rules>, anonymous: bool) -> Peer {
        Peer {
            rules,
            kind: Kind::Remote { anonymous },
            account: OnceLock::new(),
        }
    }

    /// Whose connection this is, as far as the kernel knows it. `None`: nobody with a role.
    pub fn known(&self) -> Option<&Caller> {
        match &self.kind {
            Kind::Own(caller) | Kind::Known(caller) => Some(caller),
            Kind::Stranger { .. } | Kind::Remote { .. } => None,
        }
    }

    /// What `caller` has taken of this daemon.
    pub fn account(&self, shares: &Shares, caller: &Caller) -> Arc<Account> {
        let first = self.account.get_or_init(|| shares.account(caller));
        if first.is_of(caller) {
            return first.clone();
        }
        shares.account(caller)
    }

    /// Tells when the token that `caller` showed, here or at the front door, ends; `None` without one.
    pub fn token_end(&self, caller: &Caller) -> Option<Arc<TokenEnd>> {
        Some(self.rules.tokens.watch(caller.token.as_ref()?))
    }

    /// Who makes this request. A token that is shown is checked and counts, whoever connected. The headers by which
    /// daemons tell each other of callers are gone afterwards, and so is the token.
    pub fn identify(&self, headers: &mut HeaderMap) -> Result<Caller, Status> {
        let shown = headers.remove(header::AUTHORIZATION);
        let told = if caller::is_stamped(headers) {
            let told = self.is_trusted(shown.as_ref()).then(|| self.told(headers));
            caller::unstamp(headers);
            told.transpose()?
        } else {
            None
        };
        match &self.kind {
            Kind::Stranger { uid, gid } => Err(self.stranger(*uid, *gid)),
            Kind::Own(own) | Kind::Known(own) => match &shown {
                None if self.rules.require_token => Err(no_token()),
                None => Ok(told.unwrap_or_else(|| own.clone())),
                Some(value) if self.is_own_token(value) => Ok(told.unwrap_or_else(|| own.clone())),
                Some(value) => Ok(Caller {
                    uid: own.uid,
                    gid: own.gid,
                    pid: own.pid,
                    ..self.bearer(value)?
                }),
            },
            Kind::Remote { anonymous } => match &shown {
                None if *anonymous => Ok(Caller::anonymous(self.rules.anonymous)),
                None => Err(no_token()),
                Some(value) => self.bearer(value),
            },
        }
    }

    /// Whether what is said here about other callers is believed: by our own uid, in its own name. Whoever shows a token of
    /// somebody's speaks for that token alone.
    fn is_trusted(&self, shown: Option<&HeaderValue>) -> bool {
        match (&self.kind, shown) {
            (Kind::Own(_), None) => !self.rules.require_token,
            (Kind::Own(_), Some(value)) => self.is_own_token(value),
            (Kind::Known(_) | Kind::Stranger { .. } | Kind::Remote { .. }, _) => false,
        }
    }

    fn is_own_token(&self, shown: &HeaderValue) -> bool {
        let own = self.rules.own_token.as_ref();
        own.is_some_and(|own| bearer_text(shown).is_some_and(|text| own.is(text)))
    }

    /// What our own uid says about whom it calls for.
    fn told(&self, headers: &HeaderMap) -> Result<Caller, Status> {
        let wrong = |what: &HeaderName| {
            let message = format!("malformed {what} metadata");
            status(Code::InvalidArgument, message, "PEER_METADATA")
        };
        let text = |name: &HeaderName| match headers.get(name) {
            Some(value) => value.to_str().map(Some).map_err(|_| wrong(name)),
            None => Ok(None),
        };
        let uid = match text(&PEER_UID)? {
            Some(number) => Some(number.parse::<u32>().map_err(|_| wrong(&PEER_UID))?),
            None => None,
        };
        let role = match (text(&PEER_ROLE)?, uid) {
            (Some(name), _) => name.parse().map_err(|_| wrong(&PEER_ROLE))?,
            (None, Some(uid)) => self.rules.role_of(uid, &[]).ok_or_else(|| self.stranger(uid, uid))?,
            (None, None) => return Err(wrong(&PEER_PRINCIPAL)),
        };
        let principal = match (text(&PEER_PRINCIPAL)?, uid) {
            (Some(name), _) => name.to_owned(),
            (None, Some(uid)) => format!("uid:{uid}"),
            (None, None) => return Err(wrong(&PEER_ROLE)),
        };
        let scopes = match text(&PEER_SCOPES)? {
            Some(words) => Some(words.parse().map_err(|_| wrong(&PEER_SCOPES))?),
            None => None,
        };
        Ok(Caller {
            uid,
            token: text(&PEER_TOKEN)?.map(Into::into),
            scopes: scopes.map(Arc::new),
            ..Caller::named(principal, role)
        })
    }

    fn bearer(&self, shown: &HeaderValue) -> Result<Caller, Status> {
        let refuse = |message: &str, reason| status(Code::Unauthenticated, message, reason);
        let token =
            bearer_text(shown).ok_or_else(|| refuse("authorization metadata is not \"Bearer <token>\"", "NO_TOKEN"))?;
        match self.rules.tokens.check(token) {
            Ok(caller) => Ok(caller),
            Err(Refusal::Unknown) => Err(refuse("this token is not known or was revoked", "BAD_TOKEN")),
            Err(Refusal::Expired) => Err(refuse(
                "this token has expired; make one with: nexus token new",
                "EXPIRED_TOKEN",
            )),
            Err(Refusal::Broken) => Err(status(
                Code::Unavailable,
                "tokens cannot be checked now; see the log",
                "TOKEN_FILE",
            )),
        }
    }

    fn stranger(&self, uid: u32, gid: u32) -> Status {
        let message = format!(
            "uid {uid} (gid {gid}) has no role here, this daemon runs as uid {}; give it one in config.toml: \
             [common] roles = {{ \"uid:{uid}\" = \"user\" }}",
            self.rules.own_uid
        );
        status(Code::PermissionDenied, message, "UNKNOWN_UID")
    }
}

fn no_token() -> Status {
    let message = "a bearer token is needed here; make one with: nexus token new";
    status(Code::Unauthenticated, message, "NO_TOKEN")
}

/// The token in an `authorization` header.
fn bearer_text(shown: &HeaderValue) -> Option<&str> {
    let (scheme, token) = shown.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token;

    fn rules(require_token: bool) -> Arc<Rules> {
        let roles = [("uid:1001", Role::Agent), ("gid:50", Role::User)].map(|(key, role)| (key.to_string(), role));
        let tokens = Checker::new("/nonexistent/tokens.toml".into());
        Arc::new(Rules::new(1000, &roles.into(), require_token, tokens).unwrap())
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn role(peer: &Peer) -> Result<Role, Code> {
        peer.identify(&mut HeaderMap::new())
            .map(|found| found.role)
            .map_err(|status| status.code())
    }

    #[test]
    fn roles_go_by_uid_then_gid() {
        let local = |uid, gid, more: &[u32]| Peer::local(rules(false), uid, gid, None, more);
        assert_eq!(role(&local(1000, 1000, &[])), Ok(Role::Admin));
        assert_eq!(role(&local(1001, 50, &[])), Ok(Role::Agent));
        assert_eq!(role(&local(1002, 50, &[])), Ok(Role::User));
        assert_eq!(role(&local(1002, 7, &[8, 50])), Ok(Role::User));
        assert_eq!(role(&local(1002, 7, &[])), Err(Code::PermissionDenied));
    }

    #[test]
    fn users_and_groups_may_be_named() {
        let rules = |key: &str| {
            let roles = [(key.to_owned(), Role::Admin)].into();
            Rules::new(1000, &roles, false, Checker::new("/nonexistent/tokens.toml".into()))
        };
        assert_eq!(rules("uid:root").unwrap().role_of(0, &[]), Some(Role::Admin));
        assert_eq!(rules("gid:root").unwrap().role_of(7, &[0]), Some(Role::Admin));
        let text = rules("uid:nobody-has-this-name").err().unwrap().to_string();
        assert!(
            text.contains("nobody-has-this-name") && text.contains("number or name"),
            "{text}"
        );
    }

    #[test]
    fn a_stranger_is_told_both_uids_and_the_setting() {
        let peer = Peer::local(rules(false), 1002, 7, None, &[]);
        let text = peer
            .identify(&mut HeaderMap::new())
            .err()
            .unwrap()
            .message()
            .to_string();
        assert!(
            text.contains("1002") && text.contains("1000") && text.contains("roles"),
            "{text}"
        );
    }

    #[test]
    fn only_our_own_uid_speaks_for_others() {
        let said = [("nexus-peer-uid", "1001")];
        let own = Peer::local(rules(false), 1000, 1000, None, &[]);
        let mut own_headers = headers(&said);
        let caller = own.identify(&mut own_headers).ok().unwrap();
        assert_eq!(
            (caller.role, caller.uid, &*caller.principal),
            (Role::Agent, Some(1001), "uid:1001")
        );
        assert!(own_headers.is_empty());

        let other = Peer::local(rules(false), 1001, 1001, None, &[]);
        let mut other_headers = headers(&[("nexus-peer-uid", "1000"), ("nexus-peer-role", "admin")]);
        let caller = other.identify(&mut other_headers).ok().unwrap();
        assert_eq!((caller.role, caller.uid), (Role::Agent, Some(1001)));
        assert!(other_headers.is_empty());
    }

    #[test]
    fn what_is_stamped_arrives() {
        let own = Peer::local(rules(false), 1000, 1000, None, &[]);
        let scopes = "llm.v1 read".parse().unwrap();
        let sent = Caller::of_token("6f0c", Role::User, Some(Arc::new(scopes)));
        let mut headers = HeaderMap::new();
        sent.stamp(&mut headers);
        assert_eq!(own.identify(&mut headers).ok().unwrap(), sent);
        for wrong in [
            [("nexus-peer-uid", "x")],
            [("nexus-peer-principal", "token:a")],
            [("nexus-peer-role", "user")],
            [("nexus-peer-token", "6f0c")],
        ] {
            assert_eq!(
                own.identify(&mut self::headers(&wrong)).err().unwrap().code(),
                Code::InvalidArgument,
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn without_a_token_where_one_is_needed() {
        assert_eq!(
            role(&Peer::local(rules(true), 1000, 1000, None, &[])),
            Err(Code::Unauthenticated)
        );
        assert_eq!(role(&Peer::remote(rules(false), false)), Err(Code::Unauthenticated));
        assert_eq!(role(&Peer::remote(rules(false), true)), Ok(Role::User));
    }

    /// The attack: a process of the daemon's own uid, such as a container with nothing but the socket, says that it calls
    /// for an administrator, without a token or with one of less.
    #[test]
    fn a_token_counts_on_the_socket_and_only_the_own_one_speaks_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens.toml");
        let narrow = token::new(&file, "narrow", Role::User, &["read".into()], None).unwrap();
        let own_token = OwnToken::establish(&dir.path().join("own-token")).unwrap();
        let own = own_token.text.clone();
        let peer = |require_token, uid| {
            let roles = [("uid:1001".to_owned(), Role::Agent)].into();
            let mut rules = Rules::new(1000, &roles, require_token, Checker::new(file.clone())).unwrap();
            rules.own_token = require_token.then(|| own_token.clone());
            Peer::local(Arc::new(rules), uid, uid, None, &[])
        };
        let ask = |peer: &Peer, token: Option<&str>, stamped: bool| {
            let mut headers = HeaderMap::new();
            if let Some(token) = token {
                headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            }
            if stamped {
                Caller::of_uid(7, Role::Admin).stamp(&mut headers);
            }
            let found = peer.identify(&mut headers).map_err(|status| status.code());
            assert!(headers.is_empty(), "{headers:?}");
            found.map(|caller| (caller.principal.to_string(), caller.role, caller.scopes.is_some()))
        };
        let token = (format!("token:{}", narrow.id), Role::User, true);
        let (own_uid, other) = (
            ("uid:1000".to_owned(), Role::Admin, false),
            ("uid:1001".to_owned(), Role::Agent, false),
        );
        for require in [false, true] {
            for stamped in [false, true] {
                for uid in [1000, 1001] {
                    assert_eq!(ask(&peer(require, uid), Some(&narrow.text), stamped), Ok(token.clone()));
                    assert_eq!(
                        ask(&peer(require, uid), Some("nxs_x"), stamped),
                        Err(Code::Unauthenticated)
                    );
                }
                let bare = ask(&peer(require, 1001), None, stamped);
                assert_eq!(
                    bare,
                    if require {
                        Err(Code::Unauthenticated)
                    } else {
                        Ok(other.clone())
                    }
                );
            }
        }
        let named = ("uid:7".to_owned(), Role::Admin, false);
        let strict = peer(true, 1000);
        assert_eq!(ask(&strict, None, true), Err(Code::Unauthenticated));
        assert_eq!(ask(&strict, Some(&*own), true), Ok(named.clone()));
        assert_eq!(ask(&strict, Some(&*own), false), Ok(own_uid));
        assert_eq!(ask(&peer(false, 1000), None, true), Ok(named));
        // Root, say, that read the file: known by its own uid, and believed nothing of others.
        assert_eq!(ask(&peer(true, 1001), Some(&*own), true), Ok(other));
        // It is for sockets only.
        let mut rules = Rules::new(1000, &BTreeMap::new(), true, Checker::new(file.clone())).unwrap();
        rules.own_token = Some(own_token.clone());
        let remote = Peer::remote(Arc::new(rules), true);
        assert_eq!(ask(&remote, Some(&*own), true), Err(Code::Unauthenticated));
    }

    #[test]
    fn a_misspelt_role_key_is_refused() {
        for key in ["uid:bob", "1001", "group:5"] {
            let roles = BTreeMap::from([(key.to_string(), Role::User)]);
            assert!(
                Rules::new(0, &roles, false, Checker::new("/nonexistent".into())).is_err(),
                "{key}"
            );
        }
    }
}
