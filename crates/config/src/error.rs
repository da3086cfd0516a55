use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A failure that is not about one setting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither an option, nor `NEXUS_ROOT`, nor a home directory names the root.
    #[error("cannot tell where Nexus lives: no --root, no NEXUS_ROOT and no home directory")]
    NoRoot,
    /// The root or one of its directories could not be created.
    #[error("cannot create {path}; choose another place with --root or NEXUS_ROOT")]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the system reported.
        #[source]
        cause: std::io::Error,
    },
    #[error("{path} is not a directory; choose another place with --root or NEXUS_ROOT")]
    /// Something else lies where the root or one of its directories should be.
    NotADirectory {
        /// What is no directory.
        path: PathBuf,
    },
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", content = "at", rename_all = "lowercase")]
pub enum Origin {
    /// The default of the settings table.
    Default,
    /// The settings file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1; none where the whole file is meant.
        line: Option<usize>,
    },
    /// An environment variable, by name.
    Env(String),
    /// An option of the command line, by name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Origin::File { path, line: None } => write!(f, "{}", path.display()),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong, with all that is needed to put it right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The source that the value came from.
    pub origin: Origin,
    /// `section.key`, or what was written where no such key exists; empty when the whole source is unreadable.
    pub key: String,
    /// The value as written; none for a secret.
    pub value: Option<String>,
    /// What is wrong, as a fragment that follows the key.
    pub reason: String,
    /// The name that was probably meant.
    pub nearest: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}", self.key)?;
            if let Some(value) = &self.value {
                write!(f, " = {value:?}")?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", self.reason)?;
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean {nearest:?}?")?;
        }
        Ok(())
    }
}

/// Every mistake found, in the order of the sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Errors(pub Vec<Mistake>);

impl Errors {
    /// Whether there is no mistake.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One line for each mistake.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Errors {}
