use std::{fmt, str::FromStr};

/// `service/account`, as in `anthropic/default`. Its parts can be file names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    service: String,
    account: String,
}

const LONGEST: usize = 128;

impl Account {
    /// An account of a service.
    ///
    /// # Errors
    /// What is wrong with a name, in words: only letters, digits and `-_.:@+` are allowed, at most 128, no dot first.
    pub fn new(service: &str, account: &str) -> Result<Account, String> {
        for (what, part) in [("service", service), ("account", account)] {
            if !plain(part) {
                return Err(format!(
                    "the {what} {part:?} is not a valid name: letters, digits and -_.:@+ only, no dot at the beginning, at most {LONGEST}"
                ));
            }
        }
        Ok(Account {
            service: service.to_owned(),
            account: account.to_owned(),
        })
    }

    /// The service, such as `anthropic`.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The account of that service, such as `default`.
    pub fn account(&self) -> &str {
        &self.account
    }
}

fn plain(part: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:@+".contains(c);
    !part.is_empty() && part.len() <= LONGEST && !part.starts_with('.') && part.chars().all(fits)
}

/// A service alone is its account `default`.
impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Account, String> {
        let (service, account) = text.split_once('/').unwrap_or((text, "default"));
        Account::new(service, account)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leaves_its_folder() {
        for bad in [
            "", "/", "a/", "/a", "..", "a/..", "../a", "a/b/c", ".a/b", "a/.b", "a\0/b", "a b/c", "a/b\n",
        ] {
            assert!(bad.parse::<Account>().is_err(), "{bad:?}");
        }
        let name: Account = "github/me@example.com".parse().unwrap();
        assert_eq!((name.service(), name.account()), ("github", "me@example.com"));
        assert_eq!("anthropic".parse::<Account>().unwrap().to_string(), "anthropic/default");
    }
}
