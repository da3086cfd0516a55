//! `edit_file`: one text takes another's place in a file, and nothing else changes.
//!
//! First the text is sought exactly. If it is not there, once more as people and models confuse it: blanks at line ends,
//! CRLF, typographic quotes, dashes and blanks. Never by likeness, which has overwritten code unseen. Line ends, the byte
//! order mark and the end of the file stay as they are.

mod diff;
mod near;
mod tolerant;

use sha2::{Digest as _, Sha256};

use crate::error::{Code, Error};

pub use diff::unified_diff;
pub(crate) use near::no_match;
pub(crate) use tolerant::plain_line;

/// Largest file that is edited, in bytes.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// Most line numbers that `not_unique` tells.
const MAX_PLACES: usize = 5;

/// What an edit makes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// The new content.
    pub content: Vec<u8>,
    /// SHA-256 of the content before, hex.
    pub hash_before: String,
    /// SHA-256 of the content after, hex.
    pub hash_after: String,
    /// The difference, with three lines around each change; empty if there is none.
    pub diff: String,
    /// How many places were changed.
    pub replaced: usize,
    /// What the model is told besides, such as that the text was found only in other quotes.
    pub notes: Vec<String>,
}

/// SHA-256 of a file's content, hex.
pub fn hash(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// Replaces `old` by `new` in a file. `path` is for errors and the difference.
pub fn edit(path: &str, content: &[u8], old: &str, new: &str, replace_all: bool) -> Result<Edited, Error> {
    if old.is_empty() {
        return Err(Error::new(Code::InvalidArguments, "at /old_string: it is empty")
            .with_next("Give the text to replace; write_file makes a new file."));
    }
    if old == new {
        return Err(
            Error::new(Code::InvalidArguments, "at /new_string: it is the same as old_string")
                .with_next("Nothing has to be changed."),
        );
    }
    let text = text_of(path, content)?;
    let exact: Vec<(usize, usize)> = text
        .match_indices(old)
        .map(|(at, found)| (at, at + found.len()))
        .collect();
    let (places, tolerant) = match exact.is_empty() {
        false => (exact, false),
        true => (tolerant::places(text, old), true),
    };
    match places.len() {
        0 => return Err(no_match(path, text, old)),
        1 => {}
        _ if replace_all => {}
        _ => return Err(not_unique(path, text, &places)),
    }
    let crlf = text.contains("\r\n");
    let mut after = String::with_capacity(text.len() + new.len());
    let mut from = 0;
    for (start, end) in &places {
        after.push_str(&text[from..*start]);
        after.push_str(&in_line_ends_of(text, (*start, *end), old, new, tolerant, crlf));
        from = *end;
    }
    after.push_str(&text[from..]);
    if after == text {
        return Err(Error::new(
            Code::NoMatch,
            format!("{path} already reads so: old_string and new_string differ only in what was ignored"),
        )
        .with_next("Nothing has to be changed."));
    }
    let mut notes = Vec::new();
    if tolerant {
        notes.push(
            "old_string was not there exactly; it was found with other blanks, quotes, dashes or line ends".to_owned(),
        );
    }
    Ok(Edited {
        hash_before: hash(content),
        hash_after: hash(after.as_bytes()),
        diff: unified_diff(path, path, text, &after),
        replaced: places.len(),
        notes,
        content: after.into_bytes(),
    })
}

/// The content as text; a file that is none cannot be edited as one.
pub(crate) fn text_of<'a>(path: &str, content: &'a [u8]) -> Result<&'a str, Error> {
    if content.len() > MAX_FILE_BYTES {
        return Err(Error::new(
            Code::TooLarge,
            format!("{path} has {} bytes, {MAX_FILE_BYTES} can be edited", content.len()),
        )
        .with_next("Change it with a program, by exec."));
    }
    std::str::from_utf8(content).map_err(|error| {
        Error::new(
            Code::InvalidArguments,
            format!(
                "{path} is not UTF-8 text: byte {} is not part of a character",
                error.valid_up_to()
            ),
        )
        .with_next("Change it with a program, by exec.")
    })
}

/// The line, from 1, on which a byte stands.
pub(crate) fn line_at(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
}

fn not_unique(path: &str, text: &str, places: &[(usize, usize)]) -> Error {
    let lines: Vec<String> = places
        .iter()
        .take(MAX_PLACES)
        .map(|(at, _)| line_at(text, *at).to_string())
        .collect();
    let more = if places.len() > MAX_PLACES { " and others" } else { "" };
    Error::new(
        Code::NotUnique,
        format!(
            "the text occurs {} times in {path}, on lines {}{more}",
            places.len(),
            lines.join(", ")
        ),
    )
}

/// The new text for one place. It is written as the model sent it, but for line ends, which are those of the place: a
/// model does not see them.
fn in_line_ends_of(text: &str, place: (usize, usize), old: &str, new: &str, tolerant: bool, crlf: bool) -> String {
    let matched = &text[place.0..place.1];
    let mut new = new.to_owned();
    if crlf && !new.contains("\r\n") && !old.contains("\r\n") {
        // Within the match its own line ends count; where it has none, the one after it.
        let local = if matched.contains('\n') {
            matched
        } else {
            &text[place.1..]
        };
        let follows_crlf = local
            .find('\n')
            .is_none_or(|at| at > 0 && local.as_bytes()[at - 1] == b'\r');
        if follows_crlf {
            new = new.replace('\n', "\r\n");
        }
    } else if tolerant && !crlf && old.contains("\r\n") {
        new = new.replace("\r\n", "\n");
    }
    new
}

#[cfg(test)]
mod tests;
