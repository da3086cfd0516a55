//! Bearer tokens: made once, shown once, kept only as a hash. What the command line calls; a running daemon only reads.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::kill,
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    caller::Role,
    scope::{Scopes, UnknownScope},
};

const PREFIX: &str = "nxs_";
const SECRET_BYTES: usize = 32;
pub(crate) const MAX_NAME: usize = 64;
/// Random bytes of a token's id.
const ID_BYTES: usize = 8;
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// One token as it is kept. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// What people call it; unique among the tokens that exist, free again when it is revoked.
    pub name: String,
    /// What the token's holder owns things as (`token:<id>`): random, never used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// SHA-256 of the whole token text, hex.
    pub sha256: String,
    /// What its holder may do.
    pub role: Role,
    /// How far it reaches: names of services and packages, and actions (see [`Scopes`]). Empty: all that its role may.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// When it was made.
    pub created: String,
    /// When it ends; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl Token {
    /// The id. A token from before there were ids has its name as its id, so what it owns stays its own.
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.name)
    }
}

/// A token just made: the only time its text is known.
#[derive(Clone)]
pub struct Fresh {
    /// The id under which it owns things.
    pub id: String,
    /// What its holder sends as `authorization: Bearer <text>`.
    pub text: String,
}

impl std::fmt::Debug for Fresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fresh").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    #[serde(default)]
    token: Vec<Token>,
}

/// Why a command on tokens failed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The name is taken.
    #[error("a token named {0:?} exists; revoke it first or use another name")]
    Exists(String),
    /// A text that is no name of a token.
    #[error("{0:?} is not a valid token name: 1 to {MAX_NAME} of letters, digits, '-', '_' and '.'")]
    Name(String),
    /// A text that is no scope.
    #[error(transparent)]
    Scope(#[from] UnknownScope),
    /// A lifetime beyond the calendar.
    #[error("the lifetime ends after the year 9999")]
    Lifetime,
    /// The system refused something.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file it was tried on.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not one of tokens.
    #[error("{} is not a token file: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another command does not end.
    #[error("{} is locked by another command", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The system has no randomness.
    #[error("no randomness from the system")]
    Random,
}

/// Makes a token. Its text is kept nowhere.
///
/// # Errors
/// The name exists, the name or a scope is malformed, or the file cannot be written.
pub fn new(
    path: &Path,
    name: &str,
    role: Role,
    scopes: &[String],
    lifetime: Option<Duration>,
) -> Result<Fresh, TokenError> {
    if !valid(name, MAX_NAME) {
        return Err(TokenError::Name(name.into()));
    }
    Scopes::of(scopes)?;
    let now = SystemTime::now();
    let expires = match lifetime {
        Some(lifetime) => Some(date(now.checked_add(lifetime).ok_or(TokenError::Lifetime)?)?),
        None => None,
    };
    let text = format!("{PREFIX}{}", random::<SECRET_BYTES>()?);
    let id = random::<ID_BYTES>()?;
    let token = Token {
        name: name.into(),
        id: Some(id.clone()),
        sha256: hex::encode(Sha256::digest(text.as_bytes())),
        role,
        scopes: scopes.to_vec(),
        created: date(now)?,
        expires,
    };
    change(path, |tokens| {
        if tokens.iter().any(|known| known.name == name) {
            return Err(TokenError::Exists(name.into()));
        }
        tokens.push(token);
        Ok(())
    })?;
    Ok(Fresh { id, text })
}

/// `N` random bytes, in hex.
fn random<const N: usize>() -> Result<String, TokenError> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).map_err(|_| TokenError::Random)?;
    Ok(hex::encode(bytes))
}

/// All tokens, expired ones too; none if there is no file.
///
/// # Errors
/// The file cannot be read or is damaged.
pub fn list(path: &Path) -> Result<Vec<Token>, TokenError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(toml::from_str::<Tokens>(&text)
            .map_err(|error| damaged(path, error.message()))?
            .token),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Takes away the token with this name, or else with this id; `false` if there is none. Running daemons notice within a
/// second.
///
/// # Errors
/// The file cannot be read or written.
pub fn revoke(path: &Path, name_or_id: &str) -> Result<bool, TokenError> {
    change(path, |tokens| {
        let by_name = tokens.iter().position(|token| token.name == name_or_id);
        let found = by_name.or_else(|| tokens.iter().position(|token| token.id() == name_or_id));
        Ok(found.map(|at| tokens.remove(at)).is_some())
    })
}

/// Removes what commands that were killed in the middle of a write left beside the file; says how many there were. The file
/// itself is whole then: it is only ever replaced.
///
/// # Errors
/// A leftover cannot be removed.
pub fn sweep(path: &Path) -> Result<usize, TokenError> {
    let mut swept = 0;
    for file in left(path)? {
        match std::fs::remove_file(&file) {
            Ok(()) => swept += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove", &file)(error)),
        }
    }
    Ok(swept)
}

/// What [`sweep`] removes.
///
/// # Errors
/// The directory cannot be read.
pub fn left(path: &Path) -> Result<Vec<PathBuf>, TokenError> {
    let Some(dir) = path.parent() else {
        return Ok(Vec::new());
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", dir)(error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("read", dir))?;
        if is_left_over(&entry.file_name()) {
            all.push(entry.path());
        }
    }
    Ok(all)
}

/// A file that is not whole names the process that writes it; without that process nobody finishes it.
fn is_left_over(name: &std::ffi::OsStr) -> bool {
    let pid = name
        .to_str()
        .and_then(|name| name.strip_prefix(nexus_walk::UNFINISHED))
        .and_then(|rest| rest.split('-').next())
        .and_then(|pid| pid.parse().ok());
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH))
}

fn change<T>(path: &Path, edit: impl FnOnce(&mut Vec<Token>) -> Result<T, TokenError>) -> Result<T, TokenError> {
    if let Some(parent) = path.parent() {
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(parent)
            .map_err(failed("create", parent))?;
    }
    let _lock = lock(&beside(path, ".lock"))?;
    let mut tokens = list(path)?;
    let answer = edit(&mut tokens)?;
    let text = toml::to_string(&Tokens { token: tokens }).map_err(|error| damaged(path, &error.to_string()))?;
    nexus_walk::write_file(path, text.as_bytes(), 0o600).map_err(failed("write", path))?;
    Ok(answer)
}

/// Waits for another command's change, which takes milliseconds.
fn lock(path: &Path) -> Result<Flock<File>, TokenError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed("open", path))?;
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(held),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < give_up => {
                file = back;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(TokenError::Locked { path: path.into() }),
            Err((_, errno)) => return Err(failed("lock", path)(errno.into())),
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TokenError + use<> {
    let path = path.to_path_buf();
    move |source| TokenError::Io { action, path, source }
}

pub(crate) fn damaged(path: &Path, reason: &str) -> TokenError {
    TokenError::Damaged {
        path: path.into(),
        reason: reason.into(),
    }
}

pub(crate) fn valid(name: &str, longest: usize) -> bool {
    !name.is_empty()
        && name.len() <= longest
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn date(at: SystemTime) -> Result<String, TokenError> {
    // Beyond the year 9999 the formatter has no form.
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since < Duration::from_secs(253_402_300_800) => {
            Ok(humantime::format_rfc3339_seconds(at).to_string())
        }
        _ => Err(TokenError::Lifetime),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token_check::{Checker, Refusal};
    use std::os::unix::fs::PermissionsExt;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nexus/tokens.toml");
        (dir, path)
    }

    #[test]
    fn a_token_is_shown_once_and_kept_as_a_hash() {
        let (_dir, path) = file();
        let Fresh { id, text } = new(&path, "laptop", Role::User, &[], None).unwrap();
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(!kept.contains(&text) && !kept.contains(text.strip_prefix(PREFIX).unwrap()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let holder = Checker::new(path.clone()).check(&text).ok().unwrap();
        assert_eq!(*holder.principal, format!("token:{id}"));
        assert_eq!(holder.token.as_deref(), Some(&*id));
        assert_eq!(Checker::new(path).check("nxs_0").err(), Some(Refusal::Unknown));
    }

    #[test]
    fn names_are_unique_and_plain() {
        let (_dir, path) = file();
        new(&path, "a", Role::User, &[], None).unwrap();
        assert!(matches!(
            new(&path, "a", Role::Admin, &[], None),
            Err(TokenError::Exists(_))
        ));
        assert!(matches!(
            new(&path, "a b", Role::Admin, &[], None),
            Err(TokenError::Name(_))
        ));
        assert_eq!(list(&path).unwrap().len(), 1);
    }

    /// Attack: a user is given a token whose name a revoked one had, and reaches for what that one's holder made.
    #[test]
    fn a_name_used_again_is_another_owner() {
        let (_dir, path) = file();
        let first = new(&path, "laptop", Role::User, &[], None).unwrap();
        assert!(revoke(&path, "laptop").unwrap());
        let second = new(&path, "laptop", Role::User, &[], None).unwrap();
        assert_ne!(first.id, second.id);
        let holder = Checker::new(path.clone()).check(&second.text).ok().unwrap();
        assert!(holder.owns(&format!("token:{}", second.id)) && !holder.owns(&format!("token:{}", first.id)));
        assert!(!holder.owns("token:laptop"));
        assert!(revoke(&path, &second.id).unwrap(), "an id names it too");
    }

    #[test]
    fn a_token_from_before_there_were_ids_keeps_what_it_owns() {
        let (_dir, path) = file();
        let made = new(&path, "laptop", Role::User, &["read".into()], None).unwrap();
        let mut tokens = list(&path).unwrap();
        tokens[0].id = None;
        std::fs::write(&path, toml::to_string(&Tokens { token: tokens }).unwrap()).unwrap();
        let holder = Checker::new(path.clone()).check(&made.text).ok().unwrap();
        assert!(holder.owns("token:laptop"));
        new(&path, "other", Role::User, &[], None).unwrap();
        assert_eq!(
            list(&path).unwrap()[0].id(),
            "laptop",
            "another command leaves it as it was"
        );
    }

    #[test]
    fn what_a_killed_command_left_is_swept_and_what_is_being_written_is_not() {
        let (_dir, path) = file();
        let made = new(&path, "a", Role::User, &[], None).unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let beside = |pid| path.with_file_name(format!("{}{pid}-0-0", nexus_walk::UNFINISHED));
        let (left, written) = (beside(ended.id()), beside(std::process::id()));
        for file in [&left, &written] {
            std::fs::write(file, "half of a fi").unwrap();
        }
        assert_eq!(sweep(&path).unwrap(), 1);
        assert!(!left.exists() && written.exists());
        assert!(Checker::new(path).check(&made.text).is_ok());
        assert_eq!(sweep(Path::new("/nonexistent/tokens.toml")).unwrap(), 0);
    }

    #[test]
    fn two_tokens_with_one_id_let_nobody_in() {
        let (_dir, path) = file();
        let made = new(&path, "a", Role::User, &[], None).unwrap();
        let mut tokens = list(&path).unwrap();
        tokens.push(Token {
            name: "b".into(),
            ..tokens[0].clone()
        });
        std::fs::write(&path, toml::to_string(&Tokens { token: tokens }).unwrap()).unwrap();
        assert_eq!(Checker::new(path).check(&made.text).err(), Some(Refusal::Broken));
    }
}
