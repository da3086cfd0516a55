//! What `nexus credential` takes. A secret is never among it: arguments can be read by everybody on the host.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use nexus_credential::{Account, Reference, Type};

const FORMS: &str = "\
References:
  env:NAME                       the environment (or the login shell, with NEXUS_LOAD_SHELL_ENV=1)
  file:/path[#key]               a file with mode 0600; #key picks a value of JSON or NAME=value lines
  keyring:service/account        Secret Service (GNOME, KDE, KeePassXC) or the macOS keychain
  op://vault/item/field          1Password, by its command op
  command:/program words         what a program prints; [\"/program\", \"a word\"] for words with blanks
  systemd:NAME                   LoadCredential= of the unit
  vault:name                     the encrypted file of this tree, by the program age
  service/account                an account of the index

The settings take the same: [llm] anthropic_key = \"keyring:nexus.anthropic/default\"";

#[derive(Debug, Subcommand)]
pub enum CredentialCommand {
    /// Make an account: store its secret, or say where it is
    #[command(after_help = FORMS)]
    Add(Box<AddArgs>),
    /// Print a secret where another program reads it
    #[command(after_help = FORMS)]
    Get(GetArgs),
    /// List accounts, never their secrets
    List(ListArgs),
    /// Ask the stores whether they give the secrets; all accounts by default
    Verify(VerifyArgs),
    /// Look for secrets in the environment that no account knows
    Scan(ScanArgs),
    /// Take over secrets from a file of NAME=value lines, or point to what another program keeps
    Import(ImportArgs),
    /// Forget an account, and the secret if we stored it
    Remove(RemoveArgs),
    /// Replace the secret of an account; running daemons use the new one at once
    Rotate(RotateArgs),
    /// Have running daemons ask all stores again, after a secret was changed in its store
    Sync,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    #[value(alias = "api-key")]
    #[value(name = "api_key")]
    ApiKey,
    Token,
    Oauth,
    Config,
}

impl From<Kind> for Type {
    fn from(kind: Kind) -> Type {
        match kind {
            Kind::ApiKey => Type::ApiKey,
            Kind::Token => Type::Token,
            Kind::Oauth => Type::Oauth,
            Kind::Config => Type::Config,
        }
    }
}

/// Where a secret that is given to us goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Storage {
    /// The keyring if there is one, else the vault if it was begun, else nothing is stored
    Auto,
    #[value(alias = "keychain")]
    Keyring,
    /// The encrypted file state/credentials/vault.age; begins one if there is none
    Vault,
    /// A file of its own with mode 0600, not encrypted
    File,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("pointer").args(["reference", "env_var", "item"])))]
pub struct AddArgs {
    /// service/account, such as anthropic/default; a service alone is its account default
    #[arg(value_name = "ACCOUNT", required_unless_present = "service")]
    pub name: Option<Account>,
    /// The service, if no ACCOUNT is given
    #[arg(long, conflicts_with = "name")]
    pub service: Option<String>,
    /// The account of that service
    #[arg(long, requires = "service", default_value = "default")]
    pub account: String,
    #[arg(long, visible_alias = "type", default_value = "api_key")]
    pub kind: Kind,
    /// Where to keep the secret, which is typed without echo or is the standard input
    #[arg(long, default_value = "auto", conflicts_with = "pointer")]
    pub storage: Storage,
    /// Where the secret is already; then none is asked for
    #[arg(long, value_name = "REFERENCE")]
    pub reference: Option<Reference>,
    /// Short for --reference env:NAME
    #[arg(long, value_name = "NAME")]
    pub env_var: Option<String>,
    /// Of 1Password: the item; short for --reference op://VAULT/ITEM/FIELD
    #[arg(long, requires = "vault")]
    pub item: Option<String>,
    /// Of 1Password: the vault
    #[arg(long, requires = "item")]
    pub vault: Option<String>,
    /// Of 1Password: the field
    #[arg(long, requires = "item", default_value = "credential")]
    pub field: String,
    /// When it ends; never by default
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub expires_in: Option<Duration>,
    /// In the place of an account of that name
    #[arg(long)]
    pub replace: bool,
    /// Refused: everybody on the host can read arguments
    #[arg(long, hide = true)]
    pub value: Option<String>,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// An account, or any reference
    #[arg(value_name = "ACCOUNT|REFERENCE", value_parser = reference)]
    pub reference: Reference,
    /// Print it on a terminal too, and in JSON
    #[arg(long)]
    pub reveal: bool,
    /// What is known of the account instead of its secret
    #[arg(long, conflicts_with = "reveal")]
    pub record: bool,
    /// How long the store may take
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those of this service
    #[arg(long)]
    pub service: Option<String>,
    /// Only those that did not resolve when last asked, or have expired
    #[arg(long)]
    pub broken: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Accounts, or any references
    #[arg(value_name = "ACCOUNT|REFERENCE", value_parser = reference)]
    pub references: Vec<Reference>,
    /// How long each store may take
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Variables of any name whose values look like secrets, too
    #[arg(long)]
    pub deep: bool,
    /// What the login shell would export, too
    #[arg(long)]
    pub shell: bool,
    /// Store what was found and make accounts of it
    #[arg(long)]
    pub import: bool,
    /// Where to
    #[arg(long, default_value = "auto", requires = "import")]
    pub storage: Storage,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A file such as .env, - for standard input, or claude-cli or codex-cli for what those keep
    pub from: PathBuf,
    /// Only these names; may be repeated. All that look like secrets by default
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Where to keep them
    #[arg(long, default_value = "auto")]
    pub storage: Storage,
    /// In the place of accounts of the same name
    #[arg(long)]
    pub replace: bool,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    #[arg(value_name = "ACCOUNT")]
    pub name: Account,
    /// Leave the secret in its store
    #[arg(long)]
    pub keep_secret: bool,
}

#[derive(Debug, Args)]
pub struct RotateArgs {
    #[arg(value_name = "ACCOUNT")]
    pub name: Account,
    /// When the new one ends; never by default
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub expires_in: Option<Duration>,
}

/// A service alone is its account `default`.
fn reference(text: &str) -> Result<Reference, String> {
    if !text.contains([':', '/']) {
        return text.parse().map(Reference::Account);
    }
    text.parse()
        .map_err(|error: nexus_credential::BadReference| error.to_string())
}
