//! Resolves a reference to its secret, whichever provider stores it.

use std::{
    collections::BTreeSet,
    env, fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Mutex;

use crate::{
    Account, Entry, Error, Identity, Imported, Kind, Reference, Secret, Shell, Store, Vault, file,
    keyring::KeyringEntry,
    onepassword, pick,
    program::{Program, ProgramError},
    systemd,
};

/// How long a provider may take; some ask a person.
const DEADLINE: Duration = Duration::from_secs(20);

/// A secret and where it came from, in words.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The secret.
    pub secret: Secret,
    /// Where it came from, such as `environment ANTHROPIC_API_KEY`.
    pub source: String,
    /// The file it was read from: once that changes, so may the secret.
    pub file: Option<PathBuf>,
    /// As its account says.
    pub expires: Option<SystemTime>,
}

impl Resolved {
    fn from(source: impl Into<String>, secret: Secret) -> Resolved {
        Resolved {
            secret,
            source: source.into(),
            file: None,
            expires: None,
        }
    }
}

/// What the login shell said, so that it runs once for all names.
#[derive(Default)]
struct Login {
    names: BTreeSet<String>,
    said: Option<(Instant, Result<Imported, Error>)>,
}

/// A shell that failed is left alone for a while: its profile may take long to fail.
const AFTER_FAILURE: Duration = Duration::from_secs(120);

impl Login {
    fn expect(&mut self, name: String) {
        if self.names.insert(name) {
            self.said = None;
        }
    }

    async fn value(&mut self, shell: &Shell, name: &str) -> Result<Option<Secret>, Error> {
        self.expect(name.to_owned());
        let over = |(at, said): &(Instant, Result<Imported, Error>)| said.is_err() && at.elapsed() > AFTER_FAILURE;
        if self.said.as_ref().is_none_or(over) {
            let said = shell.import(&self.names).await;
            self.said = Some((Instant::now(), said));
        }
        match &self.said {
            Some((_, Ok(imported))) => Ok(imported.values.get(name).cloned()),
            Some((_, Err(error))) => Err(error.clone()),
            None => Ok(None),
        }
    }
}

type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Cheap to clone; all clones share what the login shell said.
#[derive(Clone)]
pub struct Resolver {
    store: Store,
    vault: Vault,
    environment: Environment,
    shell: Option<Shell>,
    // Held while the shell runs: who comes meanwhile gets the same answer.
    login: Arc<Mutex<Login>>,
    // Beside the lock, so that nobody who sets it waits for a shell that runs.
    again: Arc<AtomicBool>,
    deadline: Duration,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    /// With this process's environment. `shell` is [`Shell::from_environment`], where a login shell may be asked.
    pub fn new(store: Store, shell: Option<Shell>) -> Resolver {
        let vault = Vault::new(store.vault_file(), Identity::from_environment(), DEADLINE);
        Resolver {
            store,
            vault,
            environment: Arc::new(|name| env::var(name).ok()),
            shell,
            login: Arc::default(),
            again: Arc::default(),
            deadline: DEADLINE,
        }
    }

    /// How long each provider may take; 20 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Resolver {
        self.vault = Vault::new(self.store.vault_file(), Identity::from_environment(), deadline);
        self.deadline = deadline;
        self
    }

    /// Looks variables up by this function instead of in the process's environment.
    pub fn environment(mut self, environment: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Resolver {
        self.environment = Arc::new(environment);
        self
    }

    /// The index of accounts that references are looked up in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The encrypted file that `vault:` references read.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Variables that will be asked for: the login shell is run once for all of them.
    pub async fn expect(&self, names: impl IntoIterator<Item = String>) {
        let mut login = self.login.lock().await;
        names.into_iter().for_each(|name| login.expect(name));
    }

    /// The login shell is asked again when the next variable is.
    pub fn forget(&self) {
        self.again.store(true, Ordering::Release);
    }

    /// Fetches the secret that a reference points to.
    ///
    /// # Errors
    /// Of the [`Kind`](crate::Kind) that says what to do about it; never with a part of a secret.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, Error> {
        match reference {
            Reference::Env(name) => self.variable(reference, name).await,
            Reference::File { path, key } => {
                let file = path.clone();
                let (reference, path, key) = (reference.clone(), path.clone(), key.clone());
                let read = move || file::resolve(&reference, &path, key.as_deref());
                let found = Resolved::from(format!("the file {}", file.display()), self.blocking(read).await?);
                Ok(Resolved {
                    file: Some(file),
                    ..found
                })
            }
            Reference::Keyring { service, account } => {
                let place = KeyringEntry {
                    reference,
                    service,
                    account,
                    deadline: self.deadline,
                };
                Ok(Resolved::from("the keyring", place.get().await?))
            }
            Reference::OnePassword(path) => {
                let secret = onepassword::resolve(reference, path, self.deadline).await?;
                Ok(Resolved::from("1Password", secret))
            }
            Reference::Command { argv, key } => {
                let source = format!("the command {}", argv.first().map_or("", String::as_str));
                Ok(Resolved::from(
                    source,
                    self.command(reference, argv, key.as_deref()).await?,
                ))
            }
            Reference::Systemd(name) => Ok(Resolved::from(
                "a systemd credential",
                systemd::resolve(reference, name)?,
            )),
            Reference::Vault(name) => Ok(Resolved::from("the vault", self.vault.resolve(reference, name).await?)),
            Reference::Account(account) => {
                let entry = self.entry(account)?;
                let found = Box::pin(self.resolve(&entry.reference)).await?;
                Ok(Resolved {
                    expires: entry.expires.map(|moment| moment.0),
                    ..found
                })
            }
        }
    }

    /// What the index says of an account, if that may be used now.
    fn entry(&self, account: &Account) -> Result<Entry, Error> {
        let wrong = |kind, reason: String| Error::about(kind, account.to_string(), reason);
        let mut index = self.store.load()?;
        let entry = index.accounts.remove(account).ok_or_else(|| {
            wrong(Kind::NotFound, "there is no such account".into())
                .hint(format!("add it with: nexus credential add {account}"))
        })?;
        if matches!(entry.reference, Reference::Account(_)) {
            return Err(wrong(Kind::Malformed, "it points to another account".into()));
        }
        match entry.expires {
            Some(expires) if entry.is_expired() => Err(wrong(Kind::Expired, format!("it expired at {expires}"))
                .hint(format!("replace it with: nexus credential rotate {account}"))),
            _ => Ok(entry),
        }
    }

    async fn variable(&self, reference: &Reference, name: &str) -> Result<Resolved, Error> {
        if let Some(secret) = (self.environment)(name).and_then(|value| Secret::of(&value)) {
            return Ok(Resolved::from(format!("the environment variable {name}"), secret));
        }
        let missing = |reason: String| Error::new(Kind::NotFound, reference, reason);
        let Some(shell) = &self.shell else {
            let error = missing("the variable is not set in this process".into());
            return Err(error.hint(
                "a daemon does not see what a shell exports: set NEXUS_LOAD_SHELL_ENV=1, or keep the secret in a store",
            ));
        };
        let mut login = self.login.lock().await;
        if self.again.swap(false, Ordering::AcqRel) {
            login.said = None;
        }
        let said = login.value(shell, name).await?;
        drop(login);
        let program = shell.program().display();
        let source = format!("the variable {name} of the login shell {program}");
        said.map(|secret| Resolved::from(source, secret)).ok_or_else(|| {
            missing(format!(
                "the variable is set neither in this process nor by the login shell {program}"
            ))
        })
    }

    async fn command(&self, reference: &Reference, argv: &[String], key: Option<&str>) -> Result<Secret, Error> {
        let wrong = |kind, reason: &str| Error::new(kind, reference, reason);
        let (program, words) = argv
            .split_first()
            .ok_or_else(|| wrong(Kind::Malformed, "names no program"))?;
        let run = Program::new(program, self.deadline).args(words);
        let said = run.run().await.map_err(|trouble| match trouble {
            ProgramError::Missing => wrong(Kind::MissingProvider, "there is no such program"),
            ProgramError::NotAllowed => wrong(Kind::Denied, "it may not be run"),
            ProgramError::Start => wrong(Kind::Failed, "it cannot be started"),
            ProgramError::Timeout => wrong(Kind::Timeout, "it did not end in time"),
            ProgramError::TooMuch => wrong(Kind::Malformed, "it says far more than a secret"),
        })?;
        if !said.status.success() {
            let how = match said.status.code() {
                Some(code) => format!("it ended with {code}"),
                None => "it was killed by a signal".to_owned(),
            };
            return Err(wrong(Kind::Failed, &how));
        }
        let Some(key) = key else {
            return Secret::of_bytes(&said.output).ok_or_else(|| wrong(Kind::Malformed, "it says nothing, or no text"));
        };
        let text = std::str::from_utf8(&said.output).map_err(|_| wrong(Kind::Malformed, "it says no text"))?;
        pick::pick(text, key).map_err(|wrong| file::picked(reference, &wrong))
    }

    /// Files may lie on a disk that hangs.
    async fn blocking(&self, read: impl FnOnce() -> Result<Secret, Error> + Send + 'static) -> Result<Secret, Error> {
        let wrong = |kind, reason: &str| Error::about(kind, "file", reason);
        match tokio::time::timeout(self.deadline, tokio::task::spawn_blocking(read)).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(wrong(Kind::Failed, "reading it ended by a bug")),
            Err(_) => Err(wrong(Kind::Timeout, "reading it takes too long")),
        }
    }

    /// Keeps a secret where the reference says. Gives what was made on the way, such as the vault's identity.
    pub async fn keep(&self, reference: &Reference, secret: &Secret) -> Result<Option<PathBuf>, Error> {
        match reference {
            Reference::File { path, key: None } => {
                let (path, secret) = (path.clone(), secret.clone());
                let write = move || write_file(&path, &secret).map(|()| secret);
                self.blocking(write).await.map(|_| None)
            }
            Reference::Keyring { service, account } => {
                let place = KeyringEntry {
                    reference,
                    service,
                    account,
                    deadline: self.deadline,
                };
                place.put(secret).await.map(|()| None)
            }
            Reference::Vault(name) => self.vault.put(name, secret).await,
            Reference::File { key: Some(_), .. }
            | Reference::Env(_)
            | Reference::OnePassword(_)
            | Reference::Command { .. }
            | Reference::Systemd(_)
            | Reference::Account(_) => Err(Error::new(
                Kind::Denied,
                reference,
                "nothing is written there; change it where it is kept",
            )),
        }
    }

    /// Removes what [`Resolver::keep`] wrote. Whether there was something; what others keep is left alone.
    pub async fn discard(&self, reference: &Reference) -> Result<bool, Error> {
        match reference {
            Reference::File { path, key: None } if path.starts_with(self.store.folder()) => {
                match std::fs::remove_file(path) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
                    Err(_) => Err(Error::new(Kind::Failed, reference, "the file cannot be removed")),
                }
            }
            Reference::Keyring { service, account } => {
                let place = KeyringEntry {
                    reference,
                    service,
                    account,
                    deadline: self.deadline,
                };
                place.remove().await
            }
            Reference::Vault(name) => self.vault.remove(name).await,
            Reference::File { .. }
            | Reference::Env(_)
            | Reference::OnePassword(_)
            | Reference::Command { .. }
            | Reference::Systemd(_)
            | Reference::Account(_) => Ok(false),
        }
    }
}

fn write_file(path: &Path, secret: &Secret) -> Result<(), Error> {
    let wrong = |_| Error::about(Kind::Failed, path.display().to_string(), "cannot be written");
    let mut line = zeroize::Zeroizing::new(Vec::with_capacity(secret.reveal().len() + 1));
    line.extend_from_slice(secret.reveal().as_bytes());
    line.push(b'\n');
    file::write_private(path, &line).map_err(wrong)
}
