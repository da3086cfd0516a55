//! Checks bearer tokens against the file, which is read again when it changes. A file that cannot be read or understood
//! lets nobody in; nothing falls back to what was known before.

use std::{
    collections::{BTreeSet, HashMap},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    caller::Caller,
    scope::Scopes,
    token::{MAX_NAME, TokenError, damaged, list, valid},
};

/// How long a revoked token may still be taken.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How soon the streams of a token that was revoked or has expired end.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// The tokens a daemon checks against.
pub(crate) struct Checker {
    path: PathBuf,
    known: Mutex<Known>,
    /// Of the tokens that have streams open, by id. A task looks after them while there are any.
    watched: Mutex<HashMap<Arc<str>, Weak<TokenEnd>>>,
}

/// The end of a token's life, for the streams that are open in its name.
#[derive(Default)]
pub(crate) struct TokenEnd {
    // The flag is what a busy stream looks at before each frame; the token wakes those that wait.
    ended: AtomicBool,
    end: CancellationToken,
}

impl TokenEnd {
    pub fn has_come(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub fn wait(&self) -> WaitForCancellationFutureOwned {
        self.end.clone().cancelled_owned()
    }

    fn comes(&self) {
        self.ended.store(true, Ordering::Release);
        self.end.cancel();
    }
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
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    Expired,
    /// The file cannot be used; the log says why.
    Broken,
}

impl Entry {
    fn has_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= SystemTime::now())
    }
}

impl Known {
    /// Compares with every entry in full, so the time taken tells nothing.
    fn holder(&self, hash: &[u8; 32]) -> Result<Caller, Refusal> {
        let entries = self.entries.as_ref().map_err(|()| Refusal::Broken)?;
        let mut found = None;
        for entry in entries {
            if bool::from(entry.hash.ct_eq(hash)) {
                found = Some(entry);
            }
        }
        match found.ok_or(Refusal::Unknown)? {
            entry if entry.has_expired() => Err(Refusal::Expired),
            entry => Ok(entry.caller.clone()),
        }
    }
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
            watched: Mutex::default(),
        }
    }

    /// The holder of this token. One that is not known yet may have been made a moment ago: the file is looked at again
    /// before it is refused.
    pub fn check(&self, token: &str) -> Result<Caller, Refusal> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut known, LOOK_EVERY);
        let answer = known.holder(&hash);
        if answer != Err(Refusal::Unknown) {
            return answer;
        }
        self.look(&mut known, Duration::ZERO);
        known.holder(&hash)
    }

    /// Whether the token with this id is still good.
    fn is_good(&self, id: &str) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut known, WATCH_EVERY / 2);
        let Ok(entries) = &known.entries else { return false };
        let entry = entries.iter().find(|entry| entry.caller.token.as_deref() == Some(id));
        entry.is_some_and(|entry| !entry.has_expired())
    }

    /// Told within [`WATCH_EVERY`] when the token with this id is revoked or has expired.
    pub fn watch(self: &Arc<Self>, id: &Arc<str>) -> Arc<TokenEnd> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = watched.get(id).and_then(Weak::upgrade) {
            return end;
        }
        let end = Arc::new(TokenEnd::default());
        if watched.is_empty() {
            tokio::spawn(self.clone().look_after());
        }
        watched.insert(id.clone(), Arc::downgrade(&end));
        end
    }

    /// Until no stream of any token is open.
    async fn look_after(self: Arc<Self>) {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.retain(|id, end| match end.upgrade() {
                Some(end) if !self.is_good(id) => {
                    end.comes();
                    false
                }
                open => open.is_some(),
            });
            if watched.is_empty() {
                return;
            }
        }
    }

    fn look(&self, known: &mut Known, every: Duration) {
        let now = Instant::now();
        if known.looked.is_some_and(|looked| now.duration_since(looked) < every) {
            return;
        }
        let stamp = std::fs::metadata(&self.path).ok().map(|found| Stamp {
            changed: (found.mtime(), found.mtime_nsec()),
            inode: found.ino(),
            len: found.len(),
        });
        if known.looked.is_none() || stamp != known.stamp || known.entries.is_err() {
            known.entries = read(&self.path).map_err(|error| {
                tracing::error!(%error, "no token is accepted until the token file is repaired");
            });
        }
        known.stamp = stamp;
        known.looked = Some(now);
    }
}

fn read(path: &Path) -> Result<Vec<Entry>, TokenError> {
    let mut ids = BTreeSet::new();
    let tokens = list(path)?;
    tokens
        .into_iter()
        .map(|token| {
            let wrong = |what: &str| damaged(path, &format!("token {:?} {what}", token.name));
            let mut hash = [0_u8; 32];
            hex::decode_to_slice(&token.sha256, &mut hash).map_err(|_| wrong("has no sha256 of 64 hex digits"))?;
            if !valid(&token.name, MAX_NAME) {
                return Err(TokenError::Name(token.name.clone()));
            }
            if !valid(token.id(), MAX_NAME) || !ids.insert(token.id().to_owned()) {
                return Err(wrong("has an id that is malformed, or is another token's"));
            }
            let expires = match &token.expires {
                None => None,
                Some(text) => Some(
                    humantime::parse_rfc3339(text)
                        .map_err(|_| wrong(&format!("expires at {text:?}, which is not a date")))?,
                ),
            };
            let scopes = Scopes::of(&token.scopes).map_err(|error| wrong(&error.to_string()))?;
            Ok(Entry {
                hash,
                expires,
                caller: Caller::of_token(token.id(), token.role, scopes.map(Arc::new)),
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
        let gone = new(&path, "gone", Role::User, &[], Some(Duration::ZERO)).unwrap().text;
        let kept = new(&path, "kept", Role::User, &[], Some(Duration::from_secs(3600)))
            .unwrap()
            .text;
        assert_eq!(Checker::new(path.clone()).check(&gone).err(), Some(Refusal::Expired));
        assert!(Checker::new(path.clone()).check(&kept).is_ok());
        assert!(revoke(&path, "kept").unwrap());
        assert!(!revoke(&path, "kept").unwrap());
        assert_eq!(Checker::new(path.clone()).check(&kept).err(), Some(Refusal::Unknown));
        std::fs::write(&path, "token = 1").unwrap();
        assert_eq!(Checker::new(path).check(&gone).err(), Some(Refusal::Broken));
    }

    #[test]
    fn a_new_token_works_at_once_and_a_revoked_one_ends() {
        let (_dir, path) = file();
        let checker = Checker::new(path.clone());
        assert_eq!(checker.check("nxs_x").err(), Some(Refusal::Unknown));
        let text = new(&path, "late", Role::Agent, &[], None).unwrap().text;
        let holder = checker.check(&text).ok().unwrap();
        let id = holder.token.unwrap();
        assert!(checker.is_good(&id) && !checker.is_good("another"));
        revoke(&path, "late").unwrap();
        checker.known.lock().unwrap().looked = Some(Instant::now() - LOOK_EVERY);
        assert!(!checker.is_good(&id));
        assert_eq!(checker.check(&text).err(), Some(Refusal::Unknown));
    }
}
