//! The encrypted file of hosts without a keyring: `vault.age`, a JSON table encrypted to one age identity.
//!
//! The format is age's own, and so is the program: `age` reads and writes it, so any age tool opens the file. The
//! identity is a file of ours with mode 0600 outside the tree, or a systemd credential. Its text never passes through
//! this process: `age` is given the path.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;
use zeroize::Zeroizing;

use crate::{
    Error, Kind, Reference, Secret, file,
    program::{Program, ProgramError, ProgramOutput},
    systemd,
};

/// The credential that a unit loads as the identity.
const CREDENTIAL: &str = "nexus-vault-identity";
const MOST: usize = 1 << 20;
const INSTALL: &str = "install age (apt install age, brew install age)";

/// Where the key of the vault is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The file with the age identity.
    pub path: PathBuf,
    /// systemd made the file and guards it.
    pub of_systemd: bool,
}

impl Identity {
    /// `NEXUS_VAULT_IDENTITY`, else the credential `nexus-vault-identity`, else `~/.config/nexus/vault-identity.txt`.
    pub fn from_environment() -> Option<Identity> {
        let file = |path: PathBuf| Identity {
            path,
            of_systemd: false,
        };
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = set("NEXUS_VAULT_IDENTITY") {
            return Some(file(path));
        }
        if let Some(path) = systemd::directory()
            .map(|directory| directory.join(CREDENTIAL))
            .filter(|path| path.exists())
        {
            return Some(Identity { path, of_systemd: true });
        }
        let folder = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        folder.map(|folder| file(folder.join("nexus/vault-identity.txt")))
    }

    fn check(&self, what: &str) -> Result<(), Error> {
        let wrong = |kind, reason: String| Error::about(kind, what, reason);
        let found = fs::metadata(&self.path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                wrong(Kind::Locked, format!("there is no identity at {}", self.path.display()))
                    .hint("put it back, or begin a vault with: nexus credential add --storage vault")
            }
            _ => wrong(
                Kind::Denied,
                format!("the identity {} cannot be read", self.path.display()),
            ),
        })?;
        if self.of_systemd {
            return Ok(());
        }
        let own = geteuid().as_raw();
        if found.uid() != own {
            let reason = format!("the identity {} belongs to uid {}", self.path.display(), found.uid());
            return Err(wrong(Kind::Denied, reason));
        }
        let mode = found.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let reason = format!(
                "the identity {} may be used by others (mode {mode:04o})",
                self.path.display()
            );
            let hint = format!("chmod 600 {}, and make a new one if it was seen", self.path.display());
            return Err(wrong(Kind::Denied, reason).hint(hint));
        }
        Ok(())
    }
}

/// An encrypted file of secrets by name, opened by the `age` program.
#[derive(Debug, Clone)]
pub struct Vault {
    file: PathBuf,
    identity: Option<Identity>,
    deadline: Duration,
}

type Entries = BTreeMap<String, Zeroizing<String>>;

impl Vault {
    /// The vault in `file`; each run of `age` may take `deadline`.
    pub fn new(file: impl Into<PathBuf>, identity: Option<Identity>, deadline: Duration) -> Vault {
        Vault {
            file: file.into(),
            identity,
            deadline,
        }
    }

    /// Whether it can be used without making an identity first.
    pub fn is_set_up(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.path.exists())
    }

    pub(crate) async fn resolve(&self, reference: &Reference, name: &str) -> Result<Secret, Error> {
        let what = reference.label();
        if !self.file.exists() {
            return Err(Error::new(
                Kind::NotFound,
                reference,
                format!("there is no vault at {}", self.file.display()),
            ));
        }
        let entries = self.read(&what).await?;
        let text = entries
            .get(name)
            .ok_or_else(|| Error::new(Kind::NotFound, reference, "the vault has no entry of that name"))?;
        Secret::of(text).ok_or_else(|| Error::new(Kind::NotFound, reference, "the entry is empty"))
    }

    /// Keeps a secret, and makes the identity if there is none. Gives the path of an identity that it made.
    pub async fn put(&self, name: &str, secret: &Secret) -> Result<Option<PathBuf>, Error> {
        let what = format!("vault:{name}");
        let made = self.make_identity(&what).await?;
        let mut entries = if self.file.exists() {
            self.read(&what).await?
        } else {
            Entries::new()
        };
        entries.insert(name.to_owned(), Zeroizing::new(secret.reveal().to_owned()));
        self.write(&what, &entries).await?;
        Ok(made)
    }

    /// Whether there was one.
    pub async fn remove(&self, name: &str) -> Result<bool, Error> {
        if !self.file.exists() {
            return Ok(false);
        }
        let what = format!("vault:{name}");
        let mut entries = self.read(&what).await?;
        let was_there = entries.remove(name).is_some();
        if was_there {
            self.write(&what, &entries).await?;
        }
        Ok(was_there)
    }

    fn identity(&self, what: &str) -> Result<&Path, Error> {
        let identity = self.identity.as_ref().ok_or_else(|| {
            Error::about(Kind::Locked, what, "no identity is known").hint("set HOME or NEXUS_VAULT_IDENTITY")
        })?;
        identity.check(what)?;
        Ok(&identity.path)
    }

    async fn make_identity(&self, what: &str) -> Result<Option<PathBuf>, Error> {
        let Some(Identity {
            path,
            of_systemd: false,
        }) = self.identity.as_ref().filter(|identity| !identity.path.exists())
        else {
            return Ok(None);
        };
        if self.file.exists() {
            // A new one would not open what is there.
            return self.identity(what).map(|_| None);
        }
        let wrong = |_| Error::about(Kind::Failed, what, format!("{} cannot be written", path.display()));
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(wrong)?;
        }
        let said = self
            .run("age-keygen", Program::new("age-keygen", self.deadline), what)
            .await?;
        file::write_private(path, &said.output).map_err(wrong)?;
        Ok(Some(path.clone()))
    }

    async fn read(&self, what: &str) -> Result<Entries, Error> {
        let age = Program::new("age", self.deadline)
            .args(["--decrypt", "--identity"])
            .args([self.identity(what)?.as_os_str(), self.file.as_os_str()]);
        let said = self.run("age", age, what).await?;
        serde_json::from_slice(&said.output)
            .map_err(|_| Error::about(Kind::Malformed, what, format!("{} holds no vault", self.file.display())))
    }

    async fn write(&self, what: &str, entries: &Entries) -> Result<(), Error> {
        let wrong = |reason: String| Error::about(Kind::Failed, what, reason);
        let text = serde_json::to_vec(entries).map_err(|error| wrong(error.to_string()))?;
        let mut age = Program::new("age", self.deadline)
            .args(["--encrypt", "--identity"])
            .args([self.identity(what)?]);
        age.input = Some(Zeroizing::new(text));
        let said = self.run("age", age, what).await?;
        file::write_private(&self.file, &said.output)
            .map_err(|error| wrong(format!("{} cannot be written: {error}", self.file.display())))
    }

    async fn run(&self, name: &str, mut program: Program, what: &str) -> Result<ProgramOutput, Error> {
        let wrong = |kind, reason: String| Error::about(kind, what, reason);
        program.most = MOST;
        let said = program.run().await.map_err(|trouble| match trouble {
            ProgramError::Missing | ProgramError::NotAllowed => {
                wrong(Kind::MissingProvider, format!("the program {name} was not found")).hint(INSTALL)
            }
            ProgramError::Start => wrong(Kind::Failed, format!("{name} cannot be started")),
            ProgramError::Timeout => wrong(Kind::Timeout, format!("{name} did not end in time")),
            ProgramError::TooMuch => wrong(Kind::Malformed, "the vault is far too large".into()),
        })?;
        if said.status.success() {
            return Ok(said);
        }
        let complaint = String::from_utf8_lossy(&said.complaints).to_lowercase();
        Err(if complaint.contains("no identity matched") {
            wrong(
                Kind::Denied,
                "the identity is not the one that the vault was written for".into(),
            )
        } else if complaint.contains("passphrase") {
            wrong(
                Kind::Locked,
                "the identity has a passphrase, which a daemon cannot be asked for".into(),
            )
        } else if complaint.contains("header") || complaint.contains("decrypt") || complaint.contains("chunk") {
            wrong(Kind::Malformed, format!("{} is damaged", self.file.display()))
        } else {
            wrong(Kind::Failed, format!("{name} failed"))
        })
    }
}
