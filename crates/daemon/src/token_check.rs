//! Checks bearer tokens against the file, which is read again when it changes. A file that cannot be read or understood
//! lets nobody in; nothing falls back to what was known before.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    caller::Caller,
    token::{MAX_NAME, TokenError, damaged, list, unhex, valid},
};

/// How long a change of the file may go unseen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The tokens a daemon checks against.
pub(crate) struct Checker {
    path: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    entries: Result<Vec<Entry>, ()>,
}

#[derive(PartialEq, Eq)]
struct Stamp {
    changed: (i64, i64),
    inode: u64,
    len: u64,
}

#[derive(Clone)]
struct Entry {
    hash: [u8; 32],
    expires: Option<SystemTime>,
    caller: Caller,
    scopes: Arc<[String]>,
}

pub(crate) struct Holder {
    pub caller: Caller,
    scopes: Arc<[String]>,
}

impl Holder {
    /// Whether the token's scopes reach `service` (a full name).
    pub fn reaches(&self, service: &str) -> bool {
        self.scopes.is_empty()
            || self.scopes.iter().any(|scope| {
                service
                    .strip_prefix(scope.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    Expired,
    /// The file cannot be used; the log says why.
    Broken,
}

impl Checker {
    pub fn new(path: PathBuf) -> Self {
        Checker {
            path,
            known: Mutex::new(Known {
                looked: None,
                stamp: None,
                entries: Ok(Vec::new()),
            }),
        }
    }

    /// Compares with every entry in full, so the time taken tells nothing.
    pub fn check(&self, token: &str) -> Result<Holder, Refusal> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.look(&mut known);
        let entries = known.entries.as_ref().map_err(|()| Refusal::Broken)?;
        let mut found = None;
        for entry in entries {
            if bool::from(entry.hash.ct_eq(&hash)) {
                found = Some(entry);
            }
        }
        let entry = found.ok_or(Refusal::Unknown)?;
        if entry.expires.is_some_and(|expires| expires <= SystemTime::now()) {
            return Err(Refusal::Expired);
        }
        Ok(Holder {
            caller: entry.caller.clone(),
            scopes: entry.scopes.clone(),
        })
    }

    fn look(&self, known: &mut Known) {
        let now = Instant::now();
        if known
            .looked
            .is_some_and(|looked| now.duration_since(looked) < LOOK_EVERY)
        {
            return;
        }
        let stamp = std::fs::metadata(&self.path).ok().map(|found| Stamp {
            changed: (found.mtime(), found.mtime_nsec()),
            inode: found.ino(),
            len: found.len(),
        });
        if known.looked.is_none() || stamp != known.stamp || known.entries.is_err() {
            known.entries = read(&self.path).map_err(|error| {
                tracing::error!(%error, "no token is accepted until the token file is put right");
            });
        }
        known.stamp = stamp;
        known.looked = Some(now);
    }
}

fn read(path: &Path) -> Result<Vec<Entry>, TokenError> {
    list(path)?
        .into_iter()
        .map(|token| {
            let hash = unhex(&token.sha256)
                .ok_or_else(|| damaged(path, &format!("token {:?} has no sha256 of 64 hex digits", token.name)))?;
            if !valid(&token.name, MAX_NAME) {
                return Err(TokenError::Name(token.name));
            }
            let expires = match &token.expires {
                None => None,
                Some(text) => Some(humantime::parse_rfc3339(text).map_err(|_| {
                    damaged(
                        path,
                        &format!("token {:?} expires at {text:?}, which is no date", token.name),
                    )
                })?),
            };
            let caller = Caller {
                role: token.role,
                uid: None,
                gid: None,
                pid: None,
                principal: format!("token:{}", token.name).into(),
            };
            Ok(Entry {
                hash,
                expires,
                caller,
                scopes: token.scopes.into(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        caller::Role,
        token::{new, revoke},
    };

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        (dir, path)
    }

    #[test]
    fn expired_revoked_and_broken_let_nobody_in() {
        let (_dir, path) = file();
        let gone = new(&path, "gone", Role::User, &[], Some(Duration::ZERO)).unwrap();
        let kept = new(&path, "kept", Role::User, &[], Some(Duration::from_secs(3600))).unwrap();
        assert_eq!(Checker::new(path.clone()).check(&gone).err(), Some(Refusal::Expired));
        assert!(Checker::new(path.clone()).check(&kept).is_ok());
        assert!(revoke(&path, "kept").unwrap());
        assert!(!revoke(&path, "kept").unwrap());
        assert_eq!(Checker::new(path.clone()).check(&kept).err(), Some(Refusal::Unknown));
        std::fs::write(&path, "token = 1").unwrap();
        assert_eq!(Checker::new(path).check(&gone).err(), Some(Refusal::Broken));
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let (_dir, path) = file();
        let checker = Checker::new(path.clone());
        assert_eq!(checker.check("nxs_x").err(), Some(Refusal::Unknown));
        let text = new(&path, "late", Role::Agent, &[], None).unwrap();
        checker.known.lock().unwrap().looked = Some(Instant::now() - LOOK_EVERY);
        assert!(checker.check(&text).is_ok());
    }

    #[test]
    fn a_scope_reaches_its_package_and_no_further() {
        let (_dir, path) = file();
        let text = new(&path, "narrow", Role::Admin, &["llm.v1".into()], None).unwrap();
        let holder = Checker::new(path).check(&text).ok().unwrap();
        assert!(holder.reaches("llm.v1.LLMService"));
        assert!(!holder.reaches("llm.v10.LLMService"));
        assert!(!holder.reaches("orchestrator.v1.OrchestratorService"));
    }
}
