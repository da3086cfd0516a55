//! Where a secret is, in one line of text that is none itself.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::Account;

/// Where a secret is stored, as settings and accounts name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `env:NAME`: the environment, or the login shell's where that is asked for.
    Env(String),
    /// `file:/path` or `file:/path#key`: the whole file, or one value of a JSON or `NAME=value` file.
    File {
        /// An absolute path.
        path: PathBuf,
        /// The key of a value; without one the whole file is the secret.
        key: Option<String>,
    },
    /// `keyring:service/account`: Secret Service or the macOS keychain.
    Keyring {
        /// The service attribute of the item.
        service: String,
        /// The account attribute of the item.
        account: String,
    },
    /// `op://vault/item/field` or `op://vault/item/section/field`.
    OnePassword(String),
    /// `command:/path word word` or `command:["/path", "an argument"]`, with `#key` after the list for JSON output.
    Command {
        /// The program, by its absolute path, and its arguments.
        argv: Vec<String>,
        /// The key of a value in the JSON that the program prints; without one its output is the secret.
        key: Option<String>,
    },
    /// `systemd:NAME`: a file in `$CREDENTIALS_DIRECTORY`.
    Systemd(String),
    /// `vault:name`: an entry of the encrypted file.
    Vault(String),
    /// `service/account`: whatever the index says of it.
    Account(Account),
}

/// What is wrong with a text that should be a reference. It never repeats the text, which may be a secret by mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadReference(String);

const FORMS: &str = "env:NAME, file:/path, keyring:service/account, op://vault/item/field, command:/program, \
                     systemd:NAME, vault:name, or service/account";

impl Reference {
    /// As it may be shown: without the arguments of a command, which are nobody's business.
    pub fn label(&self) -> String {
        match self {
            Reference::Command { argv, .. } => match argv.first() {
                Some(program) => format!("command:{program}"),
                None => "command:".to_owned(),
            },
            other => other.to_string(),
        }
    }

    /// Its scheme, as a person names the store.
    pub fn store(&self) -> &'static str {
        match self {
            Reference::Env(_) => "env",
            Reference::File { .. } => "file",
            Reference::Keyring { .. } => "keyring",
            Reference::OnePassword(_) => "op",
            Reference::Command { .. } => "command",
            Reference::Systemd(_) => "systemd",
            Reference::Vault(_) => "vault",
            Reference::Account(_) => "account",
        }
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Reference, BadReference> {
        let bad = |reason: &str| Err(BadReference(reason.to_owned()));
        let text = text.trim();
        if text.contains(['\0', '\n', '\r']) {
            return bad("a reference is one line of text");
        }
        if let Some(rest) = text.strip_prefix("op://") {
            let parts: Vec<&str> = rest.split('/').collect();
            return if matches!(parts.len(), 3 | 4) && parts.iter().all(|part| !part.trim().is_empty()) {
                Ok(Reference::OnePassword(rest.to_owned()))
            } else {
                bad("a reference to 1Password is op://vault/item/field or op://vault/item/section/field")
            };
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return match text.parse() {
                Ok(account) if text.contains('/') => Ok(Reference::Account(account)),
                _ => bad(&format!("is not a reference to a secret; write {FORMS}")),
            };
        };
        match scheme {
            "env" if variable(rest) => Ok(Reference::Env(rest.to_owned())),
            "env" => bad("env: wants the name of a variable, such as env:OPENAI_API_KEY"),
            "file" => file(rest),
            "keyring" | "keychain" => match rest.rsplit_once('/') {
                Some((service, account)) if named(service) && named(account) => Ok(Reference::Keyring {
                    service: service.to_owned(),
                    account: account.to_owned(),
                }),
                _ => bad("keyring: wants service/account, such as keyring:nexus.anthropic/default"),
            },
            "command" => command(rest),
            "systemd" if plain(rest) => Ok(Reference::Systemd(rest.to_owned())),
            "systemd" => bad("systemd: wants the name of a credential, such as systemd:anthropic-key"),
            "vault" if named(rest) => Ok(Reference::Vault(rest.to_owned())),
            "vault" => bad("vault: wants the name of an entry, such as vault:anthropic/default"),
            _ => match text.parse() {
                Ok(account) if text.contains('/') => Ok(Reference::Account(account)),
                _ => bad(&format!("is not a reference to a secret; write {FORMS}")),
            },
        }
    }
}

fn variable(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(fits)
}

fn plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.len() <= 255 && name.chars().all(fits)
}

fn named(name: &str) -> bool {
    !name.trim().is_empty() && name.len() <= 255
}

fn key(text: &str) -> Result<Option<String>, BadReference> {
    match text {
        "" => Err(BadReference("# wants the name of a value after it".to_owned())),
        key => Ok(Some(key.to_owned())),
    }
}

fn file(rest: &str) -> Result<Reference, BadReference> {
    let (path, key) = match rest.split_once('#') {
        Some((path, name)) => (path, key(name)?),
        None => (rest, None),
    };
    let path = Path::new(path.strip_prefix("//").map_or(path, |_| &path[2..]));
    if path.is_absolute() || path.starts_with("~") {
        Ok(Reference::File {
            path: path.to_path_buf(),
            key,
        })
    } else {
        Err(BadReference(
            "file: wants a path from / or ~, such as file:/run/secrets/openai".to_owned(),
        ))
    }
}

/// The program is named by its path: what `$PATH` finds depends on who started us.
fn command(rest: &str) -> Result<Reference, BadReference> {
    let wrong =
        || BadReference("command: wants a program by its whole path and its words, or a JSON list of them".to_owned());
    let (argv, key) = if rest.starts_with('[') {
        let mut list = serde_json::Deserializer::from_str(rest).into_iter::<Vec<String>>();
        let argv = list.next().and_then(Result::ok).ok_or_else(wrong)?;
        let after = &rest[list.byte_offset()..];
        let key = match after.strip_prefix('#') {
            Some(name) => key(name)?,
            None if after.is_empty() => None,
            None => return Err(wrong()),
        };
        (argv, key)
    } else {
        (rest.split_whitespace().map(str::to_owned).collect(), None)
    };
    let absolute = argv.first().is_some_and(|program| Path::new(program).is_absolute());
    if !absolute || argv.iter().any(|word| word.contains('\0')) {
        return Err(wrong());
    }
    Ok(Reference::Command { argv, key })
}

/// The text that reads back as the same reference.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = |key: &Option<String>| key.as_ref().map(|key| format!("#{key}")).unwrap_or_default();
        match self {
            Reference::Env(name) => write!(f, "env:{name}"),
            Reference::File { path, key } => write!(f, "file:{}{}", path.display(), hash(key)),
            Reference::Keyring { service, account } => write!(f, "keyring:{service}/{account}"),
            Reference::OnePassword(rest) => write!(f, "op://{rest}"),
            Reference::Command { argv, key } => {
                let list = serde_json::to_string(argv).map_err(|_| fmt::Error)?;
                write!(f, "command:{list}{}", hash(key))
            }
            Reference::Systemd(name) => write!(f, "systemd:{name}"),
            Reference::Vault(name) => write!(f, "vault:{name}"),
            Reference::Account(account) => write!(f, "{account}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back_as_itself() {
        for text in [
            "env:ANTHROPIC_API_KEY",
            "file:/run/secrets/key",
            "file:~/.config/keys.json#openai.key",
            "keyring:nexus.anthropic/default",
            "op://Private/Anthropic/credential",
            "op://Private/Anthropic/api/credential",
            r#"command:["/usr/bin/pass","show","a b"]"#,
            r#"command:["/usr/bin/vault","read"]#data.token"#,
            "systemd:anthropic-key",
            "vault:anthropic/default",
            "anthropic/default",
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference.to_string(), text);
        }
        let spaced: Reference = "command:/usr/bin/pass show x".parse().unwrap();
        assert_eq!(spaced.to_string(), r#"command:["/usr/bin/pass","show","x"]"#);
        assert_eq!(spaced.label(), "command:/usr/bin/pass");
        let url: Reference = "file:///etc/key".parse().unwrap();
        assert_eq!(url.to_string(), "file:/etc/key");
    }

    #[test]
    fn what_is_no_reference_is_refused_and_never_repeated() {
        for text in [
            "",
            "sk-canary-0123456789",
            "sk-canary-0123456789:abc",
            "env:",
            "env:sk-canary",
            "env:1A",
            "file:canary",
            "file:/a#",
            "keyring:canary",
            "keyring:/canary",
            "op://canary",
            "op://a//canary",
            "command:pass show canary",
            "command:[\"/a\"",
            "command:[\"/a\"] canary",
            "command:[]",
            "systemd:../canary",
            "vault:",
            "canary\nenv:A",
        ] {
            let error = text.parse::<Reference>().expect_err(text);
            assert!(!error.to_string().contains("canary"), "{text}: {error}");
        }
    }
}
