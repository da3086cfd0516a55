//! Standing consents: which ones a call may be given with, in words, and which later calls one covers.
//!
//! A person says "always"; what that means is derived here, and narrowly. A grant by prefix is offered only for a command
//! that is certainly one plain command ([`words`]), of a program that does not execute what its arguments say
//! ([`programs`]), and it fixes the program, its subcommand and all options: only plain words at the end may differ.

mod programs;
mod words;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    canonical,
    definition::{Definition, Source},
    escape::visible,
    net, patch, path,
};

pub use words::{named_files, plain_words};

/// Longest pattern of a grant that is kept as it is; of a longer one the hash is kept.
const MAX_PATTERN_BYTES: usize = 4096;
/// Most words of a prefix.
const MAX_PREFIX_WORDS: usize = 12;

/// What a grant compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The arguments and the directory.
    Exact,
    /// The first words of a plain command.
    Prefix,
    /// The file that is written or read.
    Path,
    /// The host that is asked.
    Host,
}

/// A grant that may be given with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What it compares.
    pub kind: Kind,
    /// With what: JSON for exact and prefix, a path, a host.
    pub pattern: String,
    /// Whom it covers, in words, with nothing hidden.
    pub description: String,
}

/// A call as grants see it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The tool.
    pub tool: &'a Definition,
    /// Checked arguments.
    pub arguments: &'a Value,
    /// The real directory it works in.
    pub directory: &'a str,
}

/// The grants that may be given with a call, the narrowest first. For a run that read content of strangers there are none.
pub fn offers(subject: Subject<'_>, tainted: bool) -> Vec<Offer> {
    if tainted {
        return Vec::new();
    }
    let name = subject.tool.name();
    let mut offers = vec![Offer {
        kind: Kind::Exact,
        pattern: exact(subject),
        description: format!("{name} with exactly these arguments in {}", visible(subject.directory)),
    }];
    if let Some(words) = prefix(subject) {
        let shown = visible(&words.join(" "));
        let description = format!("commands that begin with `{shown}`, followed by words that are no options");
        offers.push(Offer {
            kind: Kind::Prefix,
            pattern: canonical::text(&json!(words)),
            description,
        });
    }
    if let Some(path) = only_path(subject) {
        let description = format!("{name} of {}", visible(&path));
        offers.push(Offer {
            kind: Kind::Path,
            pattern: path,
            description,
        });
    }
    if let Some(host) = host(subject) {
        let description = format!("{name} from {}", visible(&host));
        offers.push(Offer {
            kind: Kind::Host,
            pattern: host,
            description,
        });
    }
    offers
}

/// Whether a grant covers a call. The caller has compared the tool's name, the digest of its definition, the scope and the
/// time already. In a run that read content of strangers only exact ones count.
pub fn covers(kind: Kind, pattern: &str, subject: Subject<'_>, tainted: bool) -> bool {
    match kind {
        Kind::Exact => exact(subject) == pattern,
        Kind::Prefix => !tainted && begins_with(pattern, subject),
        Kind::Path => !tainted && only_path(subject).is_some_and(|path| path == pattern),
        Kind::Host => !tainted && host(subject).is_some_and(|host| host == pattern),
    }
}

fn exact(subject: Subject<'_>) -> String {
    let text = canonical::text(&json!({"arguments": subject.arguments, "directory": subject.directory}));
    if text.len() <= MAX_PATTERN_BYTES {
        text
    } else {
        format!("{{\"sha256\":\"{}\"}}", hex::encode(Sha256::digest(text.as_bytes())))
    }
}

fn is_builtin(subject: Subject<'_>, name: &str) -> bool {
    *subject.tool.source() == Source::Builtin && subject.tool.name() == name
}

/// The words of a command to which a prefix may apply at all.
fn command(subject: Subject<'_>) -> Option<Vec<String>> {
    // What a program reads may be what it executes.
    let stdin = subject
        .arguments
        .get("stdin")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !is_builtin(subject, "exec") || !stdin.is_empty() {
        return None;
    }
    plain_words(subject.arguments.get("command")?.as_str()?)
}

/// The prefix of a command: the program, its subcommand, and everything up to the last option and the word after it.
fn prefix(subject: Subject<'_>) -> Option<Vec<String>> {
    let words = command(subject)?;
    let fixed = programs::fixed_words(&words)?;
    let options = words.iter().rposition(|word| is_option(word)).map_or(0, |at| at + 2);
    let count = fixed.max(options).min(words.len());
    (count <= MAX_PREFIX_WORDS && words[count..].iter().all(|word| is_free(word))).then(|| words[..count].to_vec())
}

fn begins_with(pattern: &str, subject: Subject<'_>) -> bool {
    let Ok(prefix) = serde_json::from_str::<Vec<String>>(pattern) else {
        return false;
    };
    let Some(words) = command(subject) else { return false };
    // The command has to be one that would be offered a prefix itself: what is known of programs may have grown.
    programs::fixed_words(&words).is_some_and(|fixed| fixed <= prefix.len())
        && words.starts_with(&prefix)
        && words[prefix.len()..].iter().all(|word| is_free(word))
}

fn is_option(word: &str) -> bool {
    word.starts_with(['-', '+'])
}

/// A word that is no option, no assignment and no file of further arguments.
fn is_free(word: &str) -> bool {
    !is_option(word) && !word.contains('=') && !word.starts_with('@') && !word.is_empty() && !word.contains("::")
}

/// The one file that a file tool works on.
fn only_path(subject: Subject<'_>) -> Option<String> {
    if *subject.tool.source() != Source::Builtin {
        return None;
    }
    match subject.tool.name() {
        "read_file" | "write_file" | "edit_file" => path::file(subject.arguments.get("path")?.as_str()?).ok(),
        "apply_patch" => {
            let patch = patch::parse(subject.arguments.get("patch")?.as_str()?).ok()?;
            let mut paths = patch.paths();
            let first = paths.next()?.to_owned();
            paths.all(|path| path == first).then_some(first)
        }
        _ => None,
    }
}

/// The host that `web_fetch` would ask, in lower case and ASCII.
fn host(subject: Subject<'_>) -> Option<String> {
    if !is_builtin(subject, "web_fetch") {
        return None;
    }
    let target = net::target(subject.arguments.get("url")?.as_str()?).ok()?;
    target.url.port().is_none().then_some(target.host)
}

#[cfg(test)]
mod tests;
