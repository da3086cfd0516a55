//! The scopes of a bearer token: which services it may call, and which actions it may take there.
//!
//! A scope is either the name of a service or package (`llm.v1.LLMService`, `llm.v1`) or one of the four actions `read`,
//! `write`, `approve`, `control`. Without a name a token reaches every service, without an action it may do all four;
//! both only within its role.

use std::{fmt, str::FromStr};

use crate::token::valid;

/// Longest name of a service or package, in bytes.
const LONGEST_NAME: usize = 256;

/// What a method does, as far as a scope can allow or refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answers what is there and changes nothing.
    Read,
    /// Everything that is not one of the other three.
    Write,
    /// Decides for a person whether something may happen.
    Approve,
    /// Changes how Nexus itself runs: services, settings, keys, tokens.
    Control,
}

/// What the names of methods that change nothing begin with.
const READING: [&str; 5] = ["Get", "List", "Watch", "Subscribe", "HealthCheck"];
/// Methods that change nothing and have other names: health, reflection, and streams of what is there.
const ALSO_READING: [&str; 5] = [
    "Check",
    "ServerReflectionInfo",
    "ContainerLogs",
    "ContainerStats",
    "StreamResponses",
];
const DECIDING: [&str; 4] = ["Approve", "Deny", "Decide", "RevokeGrant"];

impl Action {
    const ALL: [Action; 4] = [Action::Read, Action::Write, Action::Approve, Action::Control];

    /// The action of the method at `path` (`/package.Service/Method`), by its name. A name that says nothing is `Write`.
    pub fn of(path: &str) -> Action {
        let method = path.rsplit('/').next().unwrap_or_default();
        let begins = |names: &[&str]| names.iter().any(|name| method.starts_with(name));
        if begins(&READING) || ALSO_READING.contains(&method) {
            Action::Read
        } else if begins(&DECIDING) {
            Action::Approve
        } else if path.starts_with("/control.") {
            Action::Control
        } else {
            Action::Write
        }
    }

    /// The action as it stands in a scope.
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Write => "write",
            Action::Approve => "approve",
            Action::Control => "control",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The scopes of one token. Displayed and parsed as words separated by spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes {
    services: Vec<String>,
    actions: Vec<Action>,
}

/// A word that is neither an action nor the name of a service or package.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a scope: a service or package name such as llm.v1, or one of read, write, approve, control")]
pub struct UnknownScope(pub String);

impl Scopes {
    /// `None` for an empty list, which narrows nothing.
    ///
    /// # Errors
    /// A word that is no scope.
    pub fn of(words: &[String]) -> Result<Option<Scopes>, UnknownScope> {
        let mut scopes = Scopes {
            services: Vec::new(),
            actions: Vec::new(),
        };
        for word in words {
            match Action::ALL.into_iter().find(|action| action.as_str() == word) {
                Some(action) => scopes.actions.push(action),
                None if valid(word, LONGEST_NAME) => scopes.services.push(word.clone()),
                None => return Err(UnknownScope(word.clone())),
            }
        }
        Ok((!words.is_empty()).then_some(scopes))
    }

    /// Whether these scopes reach `service` (a full name).
    pub fn reach(&self, service: &str) -> bool {
        self.services.is_empty()
            || self.services.iter().any(|scope| {
                service
                    .strip_prefix(scope.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
    }

    /// Whether they allow `action`.
    pub fn allow(&self, action: Action) -> bool {
        self.actions.is_empty() || self.actions.contains(&action)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actions = self.actions.iter().map(|action| action.as_str());
        let words: Vec<&str> = self.services.iter().map(String::as_str).chain(actions).collect();
        f.write_str(&words.join(" "))
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
        Scopes::of(&words)?.ok_or_else(|| UnknownScope(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(text: &str) -> Scopes {
        text.parse().unwrap()
    }

    #[test]
    fn a_scope_reaches_its_package_and_no_further() {
        let narrow = scopes("llm.v1");
        assert!(narrow.reach("llm.v1.LLMService") && narrow.allow(Action::Control));
        assert!(!narrow.reach("llm.v10.LLMService") && !narrow.reach("orchestrator.v1.OrchestratorService"));
    }

    #[test]
    fn actions_narrow_what_may_be_done_everywhere() {
        let reader = scopes("read approve");
        assert!(reader.reach("llm.v1.LLMService"));
        assert!(reader.allow(Action::Read) && reader.allow(Action::Approve));
        assert!(!reader.allow(Action::Write) && !reader.allow(Action::Control));
        assert_eq!(scopes("read llm.v1").to_string(), "llm.v1 read");
    }

    #[test]
    fn a_word_that_is_neither_is_refused() {
        for wrong in ["", "a/b.c", "llm.v1 wh\u{e4}t"] {
            assert!(wrong.parse::<Scopes>().is_err(), "{wrong:?}");
        }
        assert_eq!(Scopes::of(&[]), Ok(None));
    }

    /// A method added to the contract appears here: what only reads has to be seen to only read.
    #[test]
    fn the_methods_that_a_reading_token_may_call() {
        let mut reading: Vec<String> = crate::methods::of(nexus_proto::FILE_DESCRIPTOR_SET)
            .into_iter()
            .map(|found| format!("/{}/{}", found.service, found.method))
            .filter(|path| Action::of(path) == Action::Read)
            .map(|path| path.rsplit('.').next().unwrap_or_default().to_owned())
            .collect();
        reading.sort();
        reading.dedup(); // Each stands there twice: under its name and under its alias.
        let listed: Vec<&str> = include_str!("scope/reading.txt").lines().collect();
        assert_eq!(reading, listed);
        assert_eq!(Action::of("/control.v1.ControlService/SetKey"), Action::Control);
        assert_eq!(Action::of("/control.v1.ControlService/ListServices"), Action::Read);
        assert_eq!(Action::of("/orchestrator.v1.ApprovalService/Decide"), Action::Approve);
        assert_eq!(
            Action::of("/orchestrator.v1.OrchestratorService/SendMessage"),
            Action::Write
        );
    }
}
