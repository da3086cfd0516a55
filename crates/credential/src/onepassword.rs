//! 1Password by its own command `op`, which asks the desktop app, a service account or a Connect server.

use std::{env, time::Duration};

use crate::{
    Error, Kind, Reference, Secret,
    program::{Program, ProgramError},
};

/// How `op` learns who asks. A session's name ends with the account.
const ITS_OWN: [&str; 6] = [
    "OP_SERVICE_ACCOUNT_TOKEN",
    "OP_CONNECT_HOST",
    "OP_CONNECT_TOKEN",
    "OP_ACCOUNT",
    "OP_CONFIG_DIR",
    "OP_BIOMETRIC_UNLOCK_ENABLED",
];
const SESSION: &str = "OP_SESSION_";

/// What `op` says on failing, in lower case; the first that is found decides. None of it is shown.
const COMPLAINTS: [(&str, Kind); 22] = [
    ("not currently signed in", Kind::Locked),
    ("not signed in", Kind::Locked),
    ("no accounts configured", Kind::Locked),
    ("no account found", Kind::Locked),
    ("session expired", Kind::Locked),
    ("is locked", Kind::Locked),
    ("cannot connect to 1password app", Kind::Locked),
    ("connecting to desktop app", Kind::Locked),
    ("authorization prompt dismissed", Kind::Denied),
    ("authorization denied", Kind::Denied),
    ("forbidden", Kind::Denied),
    ("unauthorized", Kind::Denied),
    ("don't have access", Kind::Denied),
    ("permission", Kind::Denied),
    ("authorization timeout", Kind::Timeout),
    ("timed out", Kind::Timeout),
    ("deadline exceeded", Kind::Timeout),
    ("invalid secret reference", Kind::Malformed),
    ("isn't an item", Kind::NotFound),
    ("isn't a vault", Kind::NotFound),
    ("could not find", Kind::NotFound),
    ("does not have a field", Kind::NotFound),
];

pub(crate) async fn resolve(reference: &Reference, path: &str, deadline: Duration) -> Result<Secret, Error> {
    let wrong = |kind, reason: &str| Error::new(kind, reference, reason);
    let mut op = Program::new("op", deadline).args(["read", "--no-newline", &format!("op://{path}")]);
    for (name, value) in env::vars_os() {
        let plain = name.to_string_lossy();
        if ITS_OWN.contains(&plain.as_ref()) || plain.starts_with(SESSION) {
            op = op.env(name, value);
        }
    }
    let said = op.run().await.map_err(|trouble| match trouble {
        ProgramError::Missing | ProgramError::NotAllowed => {
            wrong(Kind::MissingProvider, "1Password's command op was not found")
                .hint("install it from developer.1password.com/docs/cli, or set PATH for this daemon")
        }
        ProgramError::Timeout => wrong(
            Kind::Timeout,
            "op did not answer in time; it may be waiting for a confirmation on the desktop",
        ),
        ProgramError::TooMuch => wrong(Kind::Malformed, "op says far more than a secret"),
        ProgramError::Start => wrong(Kind::Failed, "op cannot be started"),
    })?;
    if said.status.success() {
        return Secret::of_bytes(&said.output).ok_or_else(|| wrong(Kind::Malformed, "the field is empty or no text"));
    }
    let complaint = String::from_utf8_lossy(&said.complaints).to_lowercase();
    let kind = COMPLAINTS.iter().find(|(words, _)| complaint.contains(words));
    Err(match kind.map_or(Kind::Failed, |(_, kind)| *kind) {
        kind @ Kind::Locked => wrong(kind, "1Password is locked, or no account is signed in")
            .hint("unlock the app or run op signin; on a server set OP_SERVICE_ACCOUNT_TOKEN"),
        kind @ Kind::Denied => wrong(kind, "1Password refused it"),
        kind @ Kind::Timeout => wrong(kind, "1Password did not answer in time"),
        kind @ Kind::Malformed => wrong(kind, "op does not take this for a reference"),
        kind @ Kind::NotFound => wrong(kind, "there is no such vault, item or field"),
        kind @ (Kind::MissingProvider | Kind::Expired | Kind::Failed) => {
            let code = said
                .status
                .code()
                .map_or("a signal".to_owned(), |code| code.to_string());
            wrong(kind, &format!("op failed with {code}")).hint("see why with: op read, and this reference")
        }
    })
}
