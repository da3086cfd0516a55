//! Provider keys: by the reference that the settings name, else from the environment, else from the key file, else from
//! the account `<provider>/default` of the index. No other daemon reads any of them.
//!
//! The file is `state/nexus/keys.toml`, TOML, mode 0600, owned by the user the daemon runs as:
//!
//! ```toml
//! [keys]
//! anthropic = "sk-ant-..."
//! rack = "a key of an endpoint from llm.endpoints"
//! ```
//!
//! It is read again when it changes, so a key can be set while the daemon runs. Whoever writes it writes a new file
//! with mode 0600 beside it and renames that over it. A file that others may read is refused, not repaired.
//!
//! A key never appears in an error, in a log line or in `Debug`.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Far more than any set of keys needs.
const LARGEST_FILE: u64 = 1 << 20;

#[derive(Clone)]
pub struct Key(Arc<Zeroizing<String>>);

impl Key {
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// For the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("key file {path} may be read by others (mode {mode:04o}): chmod 600 it, and replace keys that were seen")]
    Open { path: PathBuf, mode: u32 },
    #[error("key file {path} belongs to uid {owner}, not to uid {own} that this daemon runs as")]
    Owner { path: PathBuf, owner: u32, own: u32 },
    #[error("key file {path} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("key file {path} is larger than {LARGEST_FILE} bytes")]
    Size { path: PathBuf },
    #[error("key file {path} has the wrong format: expected a table [keys] with name = \"key\" (near line {line})")]
    Form { path: PathBuf, line: usize },
    #[error("failed to read key file {path}: {reason}")]
    Read { path: PathBuf, reason: String },
    #[error("{0}")]
    Reference(String),
    #[error("the key of {0} is being looked up")]
    Pending(String),
}

pub struct Keys {
    path: PathBuf,
    own_uid: u32,
    environment: fn(&str) -> Option<String>,
    references: Option<References>,
    // What the file held when it last changed, so that a request costs one stat and no parsing.
    seen: Mutex<Option<Seen>>,
}

struct Seen {
    stamp: Stamp,
    keys: Result<BTreeMap<String, Key>, Error>,
}

/// Changes whenever the file does, its mode included.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    modified: (i64, i64),
    size: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    keys: BTreeMap<String, String>,
}

impl Keys {
    pub fn new(path: impl Into<PathBuf>, own_uid: u32, environment: fn(&str) -> Option<String>) -> Self {
        Self {
            path: path.into(),
            own_uid,
            environment,
            references: None,
            seen: Mutex::new(None),
        }
    }

    pub fn with(mut self, references: References) -> Self {
        self.references = Some(references);
        self
    }

    pub fn references(&self) -> Option<References> {
        self.references.clone()
    }

    /// Waits for the store that a provider's key is in, if it is in one and that was not asked yet.
    pub async fn settle(&self, provider: &str) {
        if let Some(references) = &self.references {
            references.settle(provider).await;
        }
    }

    /// The key of a provider. A broken file is an error only for a provider whose key is not in the environment.
    pub fn get(&self, provider: &str) -> Result<Option<Key>, Error> {
        let Some(references) = &self.references else {
            return self.by_hand(provider);
        };
        if !references.is_named(provider)
            && let Some(key) = self.by_hand(provider)?
        {
            return Ok(Some(key));
        }
        match references.state(provider) {
            State::Unnamed => Ok(None),
            State::Pending => Err(Error::Pending(provider.to_owned())),
            State::Ready(key) => Ok(Some(key)),
            State::Trouble(error) => Err(Error::Reference(references::said(provider, &error))),
        }
    }

    fn by_hand(&self, provider: &str) -> Result<Option<Key>, Error> {
        for variable in variables(provider) {
            if let Some(value) = (self.environment)(&variable).filter(|value| !value.trim().is_empty()) {
                return Ok(Some(Key::new(value.trim().to_owned())));
            }
        }
        self.in_file(provider)
    }

    /// What is wrong with the file, or with a reference that nothing stands in for.
    pub fn trouble(&self) -> Option<Error> {
        if let Err(error) = self.in_file("") {
            return Some(error);
        }
        let troubles = self.references.iter().flat_map(References::troubles);
        troubles
            .map(|(provider, _)| provider)
            .find_map(|provider| self.get(&provider).err())
    }

    fn in_file(&self, provider: &str) -> Result<Option<Key>, Error> {
        let found = match fs::symlink_metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.unreadable(&error)),
        };
        let stamp = Stamp::of(&found);
        let mut seen = self.seen.lock();
        let current = match seen.take() {
            Some(same) if same.stamp == stamp => same,
            _ => Seen {
                stamp,
                keys: self.read(),
            },
        };
        let answer = current
            .keys
            .as_ref()
            .map(|keys| keys.get(provider).cloned())
            .map_err(Clone::clone);
        *seen = Some(current);
        answer
    }

    fn read(&self) -> Result<BTreeMap<String, Key>, Error> {
        let path = || self.path.clone();
        let named = fs::symlink_metadata(&self.path).map_err(|error| self.unreadable(&error))?;
        if !named.is_file() {
            return Err(Error::NotAFile { path: path() });
        }
        let mut file = fs::File::open(&self.path).map_err(|error| self.unreadable(&error))?;
        // Judged by what was opened, not by a name that may have changed since.
        let found = file.metadata().map_err(|error| self.unreadable(&error))?;
        if !found.is_file() {
            return Err(Error::NotAFile { path: path() });
        }
        if found.uid() != self.own_uid {
            return Err(Error::Owner {
                path: path(),
                owner: found.uid(),
                own: self.own_uid,
            });
        }
        let mode = found.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::Open { path: path(), mode });
        }
        if found.len() > LARGEST_FILE {
            return Err(Error::Size { path: path() });
        }
        let mut text = Zeroizing::new(String::new());
        (&mut file)
            .take(LARGEST_FILE)
            .read_to_string(&mut text)
            .map_err(|error| self.unreadable(&error))?;
        parse(&text, &self.path)
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        Error::Read {
            path: self.path.clone(),
            reason: error.to_string(),
        }
    }
}

/// The parser's own message would quote the line, and with it a key; so only the line's number is told.
fn parse(text: &str, path: &Path) -> Result<BTreeMap<String, Key>, Error> {
    // Editors of other systems put a byte order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let file: File = toml::from_str(text).map_err(|error| {
        let before = error.span().map_or(0, |span| span.start.min(text.len()));
        Error::Form {
            path: path.into(),
            line: text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1,
        }
    })?;
    Ok(file
        .keys
        .into_iter()
        .map(|(name, text)| (name, Key::new(text)))
        .filter(|(_, key)| !key.reveal().trim().is_empty())
        .collect())
}

/// The environment variables that hold a provider's key, best first.
pub fn variables(provider: &str) -> Vec<String> {
    let upper: String = provider
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    let own = format!("NEXUS_LLM_KEY_{upper}");
    match provider {
        "anthropic" | "openai" | "openrouter" | "gemini" => vec![own, format!("{upper}_API_KEY")],
        _ => vec![own],
    }
}

impl Stamp {
    fn of(found: &fs::Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
            modified: (found.mtime(), found.mtime_nsec()),
            size: found.len(),
        }
    }
}

pub mod references;

use references::{References, State};

#[cfg(test)]
mod tests;
