//! The command line of `nexus credential`. It takes no secret: any user of the host can read arguments.

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
    /// Create an account: store its secret, or refer to where it is stored
    #[command(after_help = FORMS)]
    Add(Box<AddArgs>),
    /// Print a secret for another program to read
    #[command(after_help = FORMS)]
    Get(GetArgs),
    /// List accounts, never their secrets
    List(ListArgs),
    /// Check that the secret of each account can be read; all accounts by default
    Verify(VerifyArgs),
    /// Find secrets in the environment that belong to no account
    Scan(ScanArgs),
    /// Import secrets from a file of NAME=value lines, or refer to those of another program
    Import(ImportArgs),
    /// Delete an account, and its secret if Nexus stored it
    Remove(RemoveArgs),
    /// Replace the secret of an account; running daemons use the new one at once
    Rotate(RotateArgs),
    /// Make running daemons read all secrets again, after one was changed in its store
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
    /// The keyring if there is one, else the vault if it exists, else nothing is stored
    Auto,
    #[value(alias = "keychain")]
    Keyring,
    /// The encrypted file state/credentials/vault.age, created if missing
    Vault,
    /// A separate file with mode 0600, not encrypted
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
    /// Where to store the secret, which is typed without echo or read from standard input
    #[arg(long, default_value = "auto", conflicts_with = "pointer")]
    pub storage: Storage,
    /// Where the secret is stored already; then none is asked for
    #[arg(long, value_name = "REFERENCE")]
    pub reference: Option<Reference>,
    /// Short for --reference env:NAME
    #[arg(long, value_name = "NAME")]
    pub env_var: Option<String>,
    /// 1Password item; short for --reference op://VAULT/ITEM/FIELD
    #[arg(long, requires = "vault")]
    pub item: Option<String>,
    /// 1Password vault
    #[arg(long, requires = "item")]
    pub vault: Option<String>,
    /// 1Password field
    #[arg(long, requires = "item", default_value = "credential")]
    pub field: String,
    /// When it expires; never by default
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub expires_in: Option<Duration>,
    /// Replace an existing account of that name
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
    /// Print the secret even to a terminal or as JSON
    #[arg(long)]
    pub reveal: bool,
    /// Show the account's details instead of its secret
    #[arg(long, conflicts_with = "reveal")]
    pub record: bool,
    /// How long the store may take to answer
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show only accounts of this service
    #[arg(long)]
    pub service: Option<String>,
    /// Show only accounts whose last check failed, or that have expired
    #[arg(long)]
    pub broken: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Accounts, or any references
    #[arg(value_name = "ACCOUNT|REFERENCE", value_parser = reference)]
    pub references: Vec<Reference>,
    /// How long each store may take to answer
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Include variables of any name whose values look like secrets
    #[arg(long)]
    pub deep: bool,
    /// Include variables that the login shell exports
    #[arg(long)]
    pub shell: bool,
    /// Store the secrets that were found, and create accounts for them
    #[arg(long)]
    pub import: bool,
    /// Where to store them
    #[arg(long, default_value = "auto", requires = "import")]
    pub storage: Storage,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A file such as .env, - for standard input, or claude-cli or codex-cli for the secrets of that program
    pub from: PathBuf,
    /// Import only these names; may be repeated; by default all that look like secrets
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Where to store them
    #[arg(long, default_value = "auto")]
    pub storage: Storage,
    /// Replace existing accounts of the same name
    #[arg(long)]
    pub replace: bool,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    #[arg(value_name = "ACCOUNT")]
    pub name: Account,
    /// Keep the secret in its store
    #[arg(long)]
    pub keep_secret: bool,
}

#[derive(Debug, Args)]
pub struct RotateArgs {
    #[arg(value_name = "ACCOUNT")]
    pub name: Account,
    /// When the new secret expires; never by default
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
