//! The index of accounts: names, references and the results of their last checks. It holds no secret.
//!
//! `index.json` in `state/credentials/`, 0600, replaced whole under a lock. Whoever uses an account watches the file's
//! [`Stamp`]: it changes with every change of an account, also when only the secret behind the reference is new.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{Account, Error, Kind, Reference, file};

const VERSION: u32 = 1;
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// A folder with an index in it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// The accounts of a tree, as `index.json` holds them: names and references, no secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Index {
    version: u32,
    /// Rises with every change.
    #[serde(default)]
    generation: u64,
    /// What is known of each account.
    #[serde(default)]
    pub accounts: BTreeMap<Account, Entry>,
}

/// What the index knows of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where its secret is stored.
    pub reference: Reference,
    /// What kind of secret it is.
    #[serde(rename = "type")]
    pub kind: Type,
    /// When the account was created.
    pub added: Moment,
    /// When its secret was last replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<Moment>,
    /// When it last resolved, as somebody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Moment>,
    /// When the secret expires, as the user said; none for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
    /// The result of the last check.
    #[serde(default)]
    pub status: State,
    /// Why the last check failed; it holds no part of the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The kind of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// A key of an API.
    ApiKey,
    /// A bearer token.
    Token,
    /// A token that was obtained by OAuth.
    Oauth,
    /// A configuration file that holds secrets.
    Config,
}

/// The result of the last check of an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nobody has asked its provider yet.
    #[default]
    New,
    /// Its secret was read.
    Ready,
    /// Somebody must unlock the store first.
    Locked,
    /// Its secret could not be read; the entry's error says why.
    Broken,
}

/// A time of day, as RFC 3339 in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub SystemTime);

impl Moment {
    /// The wall clock.
    pub fn now() -> Moment {
        Moment(SystemTime::now())
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_rfc3339_seconds(self.0).fmt(f)
    }
}

impl Entry {
    /// An account that is created now and was never checked.
    pub fn new(reference: Reference, kind: Type) -> Entry {
        Entry {
            reference,
            kind,
            added: Moment::now(),
            rotated: None,
            verified: None,
            expires: None,
            status: State::New,
            error: None,
        }
    }

    /// Whether its time is over.
    pub fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= Moment::now())
    }

    /// What came of asking its provider.
    pub fn note(&mut self, outcome: Result<(), &Error>) {
        (self.status, self.error) = match outcome {
            Ok(()) => (State::Ready, None),
            Err(error) if error.kind == Kind::Locked => (State::Locked, Some(error.to_string())),
            Err(error) => (State::Broken, Some(error.to_string())),
        };
        if outcome.is_ok() {
            self.verified = Some(Moment::now());
        }
    }
}

impl Default for Index {
    fn default() -> Index {
        Index {
            version: VERSION,
            generation: 0,
            accounts: BTreeMap::new(),
        }
    }
}

impl Store {
    /// `folder` is `state/credentials` of a tree; it need not exist yet.
    pub fn at(folder: impl Into<PathBuf>) -> Store {
        Store { folder: folder.into() }
    }

    /// The folder, `state/credentials`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of `index.json`.
    pub fn path(&self) -> PathBuf {
        self.folder.join("index.json")
    }

    /// Where the file store keeps the secret of an account.
    pub fn secret_file(&self, account: &Account) -> PathBuf {
        self.folder.join(account.service()).join(account.account())
    }

    /// The path of `vault.age`.
    pub fn vault_file(&self) -> PathBuf {
        self.folder.join("vault.age")
    }

    /// Reads the index; an empty one if the file does not exist.
    ///
    /// # Errors
    /// The file cannot be read, belongs to another user or may be read by others, or is not an index.
    pub fn load(&self) -> Result<Index, Error> {
        let path = self.path();
        let text = match file::read_private(&path) {
            Ok(text) => text,
            Err(error) if error.kind == Kind::NotFound => return Ok(Index::default()),
            Err(error) => return Err(error),
        };
        let wrong = |reason: String| Error::about(Kind::Malformed, path.display().to_string(), reason);
        let index: Index = serde_json::from_str(&text).map_err(|error| {
            wrong(format!("is not an index of credentials (line {})", error.line()))
                .hint("correct it, or move it away and add the accounts again")
        })?;
        if index.version != VERSION {
            return Err(wrong(format!(
                "has version {}, this program knows {VERSION}",
                index.version
            )));
        }
        Ok(index)
    }

    /// Changes the index with nobody else changing it meanwhile. What `change` refuses is not written.
    pub fn change<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, Error>) -> Result<T, Error> {
        let wrong = |error: io::Error| {
            Error::about(
                Kind::Failed,
                self.path().display().to_string(),
                format!("cannot be written: {error}"),
            )
        };
        let _lock = self.lock()?;
        let mut index = self.load()?;
        let answer = change(&mut index)?;
        index.generation += 1;
        let mut text = serde_json::to_vec_pretty(&index).map_err(|error| wrong(error.into()))?;
        text.push(b'\n');
        file::write_private(&self.path(), &text).map_err(wrong)?;
        Ok(answer)
    }

    fn lock(&self) -> Result<Flock<File>, Error> {
        let path = self.folder.join(".lock");
        let wrong = |reason: String| Error::about(Kind::Failed, path.display().to_string(), reason);
        if !self.folder.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.folder)
                .map_err(|error| wrong(format!("its folder cannot be made: {error}")))?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| wrong(format!("cannot be opened: {error}")))?;
        let begin = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, nix::Error::EWOULDBLOCK)) if begin.elapsed() < LOCK_PATIENCE => {
                    file = back;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err((_, nix::Error::EWOULDBLOCK)) => {
                    return Err(Error::about(
                        Kind::Timeout,
                        path.display().to_string(),
                        "somebody else has held it for 5 s",
                    ));
                }
                Err((_, error)) => return Err(wrong(format!("cannot be locked: {error}"))),
            }
        }
    }

    /// `None`: there is no index.
    pub fn stamp(&self) -> Option<Stamp> {
        Stamp::of(&self.path())
    }
}

/// Changes whenever a file does, its mode and owner included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    modified: (i64, i64),
    size: u64,
}

impl Stamp {
    /// The stamp of a file as it is now; none if it cannot be looked at.
    pub fn of(path: &Path) -> Option<Stamp> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Stamp {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
            modified: (found.mtime(), found.mtime_nsec()),
            size: found.len(),
        })
    }
}

macro_rules! as_text {
    ($type:ty, $parse:expr) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(Account, |text: &str| text.parse::<Account>());
as_text!(Reference, |text: &str| text.parse::<Reference>());
as_text!(Moment, |text: &str| humantime::parse_rfc3339_weak(text).map(Moment));

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Account {
        text.parse().unwrap()
    }

    #[test]
    fn accounts_are_kept_privately_and_changes_show() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("credentials"));
        assert!(store.load().unwrap().accounts.is_empty());
        assert_eq!(store.stamp(), None);
        let mut entry = Entry::new("env:KEY".parse().unwrap(), Type::ApiKey);
        entry.expires = Some(Moment(SystemTime::UNIX_EPOCH));
        store
            .change(|index| Ok(index.accounts.insert(name("a/b"), entry.clone())))
            .unwrap();
        let first = store.stamp().unwrap();
        let found = store.load().unwrap().accounts.remove(&name("a/b")).unwrap();
        assert_eq!(found.reference.to_string(), "env:KEY");
        assert!(found.is_expired());
        // The same content again is a change all the same: the secret behind it may be new.
        store.change(|_| Ok(())).unwrap();
        assert_ne!(store.stamp().unwrap(), first);
        assert_eq!(fs::metadata(store.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(store.folder()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_refused_change_and_a_damaged_file_leave_all_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        store.change(|_| Ok(())).unwrap();
        let before = fs::read(store.path()).unwrap();
        let refused = store.change(|index| {
            index
                .accounts
                .insert(name("a/b"), Entry::new("env:A".parse().unwrap(), Type::Token));
            Err::<(), _>(Error::about(Kind::Failed, "x", "no"))
        });
        assert!(refused.is_err());
        assert_eq!(fs::read(store.path()).unwrap(), before);
        file::write_private(
            &store.path(),
            b"{\"version\":1,\"accounts\":{\"a/b\":{\"reference\":\"sk-canary\"}}}",
        )
        .unwrap();
        let error = store.change(|_| Ok(())).unwrap_err();
        assert_eq!(error.kind, Kind::Malformed);
        assert!(!error.advice().contains("canary"), "{error}");
        file::write_private(&store.path(), b"{\"version\":2}").unwrap();
        assert_eq!(store.load().unwrap_err().kind, Kind::Malformed);
    }

    #[test]
    fn many_writers_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let store = store.clone();
                scope.spawn(move || {
                    for round in 0..5 {
                        let entry = Entry::new("env:A".parse().unwrap(), Type::Token);
                        let name = name(&format!("s{writer}/a{round}"));
                        store.change(|index| Ok(index.accounts.insert(name, entry))).unwrap();
                    }
                });
            }
        });
        assert_eq!(store.load().unwrap().accounts.len(), 20);
    }
}
