//! Files as they are to be installed, and tar archives of them that are the same each time.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

#[derive(Clone, Debug)]
pub enum What {
    Folder,
    File(Vec<u8>),
    Link(String),
}

/// One file. The path has no slash at its beginning.
#[derive(Clone, Debug)]
pub struct Entry {
    pub path: String,
    pub mode: u32,
    pub what: What,
    pub owner: u64,
}

/// In the order of their paths, each folder before what is in it.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    entries: std::collections::BTreeMap<String, Entry>,
}

impl Tree {
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.put(path, mode, What::File(bytes.into()), 0);
    }

    pub fn folder(&mut self, path: &str, mode: u32, owner: u64) {
        self.put(path, mode, What::Folder, owner);
    }

    pub fn link(&mut self, path: &str, to: &str) {
        self.put(path, 0o777, What::Link(to.to_owned()), 0);
    }

    fn put(&mut self, path: &str, mode: u32, what: What, owner: u64) {
        for (at, _) in path.match_indices('/') {
            let folder = &path[..at];
            if !self.entries.contains_key(folder) {
                self.put(folder, 0o755, What::Folder, 0);
            }
        }
        let entry = Entry {
            path: path.to_owned(),
            mode,
            what,
            owner,
        };
        self.entries.insert(path.to_owned(), entry);
    }

    /// Everything in it that lies below `from`, now below `to`.
    pub fn moved(&self, from: &str, to: &str) -> Tree {
        let mut moved = Tree::default();
        for entry in self.entries() {
            let Some(rest) = entry.path.strip_prefix(from) else {
                continue;
            };
            moved.put(&format!("{to}{rest}"), entry.mode, entry.what.clone(), entry.owner);
        }
        moved
    }

    pub fn extend(&mut self, other: Tree) {
        self.entries.extend(other.entries);
    }

    /// A tar archive. `prefix` comes before each path, `./` for Debian.
    pub fn tar(&self, prefix: &str) -> Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        for entry in self.entries() {
            let mut header = Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_mtime(0);
            header.set_uid(entry.owner);
            header.set_gid(entry.owner);
            let path = format!("{prefix}{}", entry.path);
            let added = match &entry.what {
                What::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_size(0);
                    builder.append_data(&mut header, format!("{path}/"), std::io::empty())
                }
                What::File(bytes) => {
                    header.set_size(bytes.len() as u64);
                    builder.append_data(&mut header, path, bytes.as_slice())
                }
                What::Link(to) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_size(0);
                    builder.append_link(&mut header, path, to)
                }
            };
            added.with_context(|| format!("failed to pack {}", entry.path))?;
        }
        builder.into_inner().context("failed to pack")
    }
}

pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_the_same_each_time_and_folders_come_first() {
        let make = |names: [&str; 2]| {
            let mut tree = Tree::default();
            for name in names {
                tree.file(name, 0o644, name.as_bytes());
            }
            tree
        };
        let (one, two) = (make(["usr/bin/b", "usr/a"]), make(["usr/a", "usr/bin/b"]));
        assert_eq!(
            gzip(&one.tar("").unwrap()).unwrap(),
            gzip(&two.tar("").unwrap()).unwrap()
        );
        let paths: Vec<&str> = one.entries().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["usr", "usr/a", "usr/bin", "usr/bin/b"]);
        let moved = one.moved("usr/bin", "opt");
        assert!(moved.entries().any(|entry| entry.path == "opt/b"));
    }
}
