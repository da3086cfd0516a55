//! What a backup says about itself: its first entry.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The name of the manifest in the archive.
pub const NAME: &str = "manifest.json";
/// The version of this shape. Version 1 had only plain files, without holes, owners and times.
pub const SHAPE: u32 = 2;
/// The longest manifest that is believed to be one, in bytes.
pub const LONGEST: u64 = 256 << 20;
/// The longest path below the archive.
pub const PATH_MAX: usize = 4_095;
/// The most stretches of data that one sparse file may have.
pub const RANGES_MAX: usize = 16_384;

/// The first entry of an archive: what it holds, and where that came from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this shape, at most [`SHAPE`].
    pub schema: u32,
    /// RFC 3339; the databases are as of then or shortly after.
    pub created_at: String,
    /// The version that made it.
    pub nexus: String,
    /// The root that was saved.
    pub root: PathBuf,
    /// Keys and other secrets are in it.
    pub with_keys: bool,
    /// Every file and directory, in the order of the archive.
    pub files: Vec<Entry>,
    /// What was there and was left out, with the reason.
    pub left_out: Vec<LeftOut>,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    #[default]
    File,
    /// A directory.
    Dir,
}

impl Kind {
    fn is_file(&self) -> bool {
        *self == Self::File
    }
}

/// Bytes of data in a sparse file; all between two of them is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first byte of the stretch within the file.
    pub at: u64,
    /// Its length.
    pub bytes: u64,
}

/// One file or directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Entry {
    /// Below the archive: `state/db/orchestrator.db`.
    pub path: String,
    /// Whether it is a file or a directory.
    #[serde(default, skip_serializing_if = "Kind::is_file")]
    pub kind: Kind,
    /// Its length, with holes; 0 for a directory.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Of the data in the archive; empty for a directory.
    pub sha256: String,
    /// Where its data lies, if it has holes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Vec<Range>>,
    /// User and group, since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
    /// Seconds and nanoseconds since 1970, since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<(i64, u32)>,
    /// Extended attributes `user.*`: name, and value in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(String, String)>,
    /// What is known of it, if it is a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,
    /// Where it was, for a file that does not lie in `state/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<PathBuf>,
}

/// The version and the extent of a database that was saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Database {
    /// The version of its tables.
    pub schema: u32,
    /// The newest sequence of its log; none where it has no log.
    pub newest: Option<u64>,
}

/// A file that is not in the archive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// As it can be shown: what is not text, and control characters, are escaped.
    pub path: String,
    /// Why it was left out.
    pub reason: String,
}

impl LeftOut {
    /// Escapes the path, and cuts it where it is too long to be shown.
    pub fn new(path: &Path, reason: impl Into<String>) -> Self {
        const SHOWN: usize = 400;
        let text = path.to_string_lossy();
        let mut shown: String = text
            .chars()
            .flat_map(|one| {
                let strange = one.is_control() || matches!(one, '\u{200e}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
                let escaped = strange.then(|| one.escape_default());
                escaped.into_iter().flatten().chain((!strange).then_some(one))
            })
            .take(SHOWN)
            .collect();
        if text.chars().count() > SHOWN {
            shown.push('…');
        }
        Self {
            path: shown,
            reason: reason.into(),
        }
    }
}

impl Entry {
    /// Bytes of it that are in the archive.
    #[must_use]
    pub fn data(&self) -> u64 {
        match &self.ranges {
            Some(ranges) => ranges.iter().fold(0, |sum, one| sum.saturating_add(one.bytes)),
            None => self.bytes,
        }
    }

    /// About what it takes in the manifest.
    #[must_use]
    pub fn cost(&self) -> u64 {
        const FIELDS: usize = 420;
        let attributes: usize = self
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum();
        let ranges = self.ranges.as_ref().map_or(0, |ranges| ranges.len() * 80);
        // A control character takes six bytes in JSON.
        (FIELDS + self.path.len() * 6 + attributes + ranges) as u64
    }

    fn objection(&self) -> Option<String> {
        if !is_plain(&self.path) {
            return Some(format!("it names {:?}, which is not a path below state/", self.path));
        }
        let mut end = 0;
        for range in self.ranges.iter().flatten() {
            let stop = range.at.checked_add(range.bytes);
            if range.at < end || stop.is_none_or(|stop| stop > self.bytes) {
                return Some(format!("the ranges of {:?} overlap or lie outside of it", self.path));
            }
            end = stop.unwrap_or(end);
        }
        let many = self.ranges.as_ref().is_some_and(|ranges| ranges.len() > RANGES_MAX);
        if many || i64::try_from(self.bytes).is_err() {
            return Some(format!("{:?} is larger than any file", self.path));
        }
        None
    }
}

impl Manifest {
    /// All data in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.data()))
    }

    /// What makes it unfit to be read.
    #[must_use]
    pub fn objection(&self) -> Option<String> {
        if self.schema > SHAPE {
            return Some(format!(
                "it has shape {}, and this program knows up to {SHAPE}; nexus {} made it",
                self.schema, self.nexus
            ));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.files.iter().find(|file| !seen.insert(&file.path)) {
            return Some(format!("it names {:?} twice", twice.path));
        }
        self.files.iter().find_map(Entry::objection)
    }
}

/// Whether a name stays below the directory it is unpacked in.
fn is_plain(name: &str) -> bool {
    let path = Path::new(name);
    let inside = path.starts_with("state") || path.starts_with("elsewhere");
    inside
        && name.len() <= PATH_MAX
        && !name.contains('\0')
        && path.components().count() > 1
        && path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn nothing_is_unpacked_outside() {
        assert!(is_plain("state/db/x.db") && is_plain("elsewhere/orchestrator.database"));
        for bad in [
            "state",
            "/state/x",
            "state/../x",
            "etc/passwd",
            "../state/x",
            "",
            "state/\0",
        ] {
            assert!(!is_plain(bad), "{bad}");
        }
    }

    #[test]
    fn ranges_have_to_lie_in_their_file_one_after_the_other() {
        let with = |ranges: &[(u64, u64)]| Entry {
            path: "state/x".into(),
            bytes: 100,
            ranges: Some(
                ranges
                    .iter()
                    .map(|(at, bytes)| Range { at: *at, bytes: *bytes })
                    .collect(),
            ),
            ..Entry::default()
        };
        assert!(with(&[(0, 10), (10, 90)]).objection().is_none() && with(&[]).objection().is_none());
        for bad in [
            &[(50, 51)][..],
            &[(0, 20), (10, 5)],
            &[(u64::MAX, 2)],
            &[(50, 1), (0, 1)],
        ] {
            assert!(with(bad).objection().is_some(), "{bad:?}");
        }
    }

    /// A container names a file so that the list of what was left out cannot be written, or paints over the terminal.
    #[test]
    fn what_was_left_out_can_always_be_written_and_shown() {
        let bad = Path::new(std::ffi::OsStr::from_bytes(b"a\xff\x1b[2J\xe2\x80\xae"));
        let left = LeftOut::new(bad, "its name is not text");
        assert_eq!(left.path, "a\u{fffd}\\u{1b}[2J\\u{202e}");
        assert!(serde_json::to_string(&left).is_ok());
        assert!(LeftOut::new(Path::new(&"x".repeat(9_000)), "").path.len() < 420);
    }
}
