//! Which content of its files a session has seen: by hash, never by time. Kept in a file, so that a worker that starts anew
//! does not refuse what was read before.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// Files that are remembered.
const MOST: usize = 10_000;
/// The file is written anew once it has so many bytes.
const BYTES: u64 = 4 << 20;

#[derive(Debug)]
pub struct Seen {
    path: PathBuf,
    hashes: Mutex<HashMap<String, String>>,
}

impl Seen {
    /// A file that cannot be read is one that was not there: the model reads again.
    pub fn open(path: &Path) -> Seen {
        let text = fs::metadata(path)
            .ok()
            .filter(|meta| meta.len() <= 2 * BYTES)
            .and_then(|_| fs::read_to_string(path).ok())
            .unwrap_or_default();
        let entries = text.lines().filter_map(|line| line.split_once(' '));
        let hashes = entries.map(|(hash, path)| (path.to_owned(), hash.to_owned())).collect();
        Seen {
            path: path.into(),
            hashes: Mutex::new(hashes),
        }
    }

    pub fn hash(&self, path: &str) -> Option<String> {
        self.hashes.lock().get(path).cloned()
    }

    /// Blocks. An empty hash: there is no such file any more.
    pub fn note(&self, path: &str, hash: &str) {
        if path.contains('\n') {
            return;
        }
        let mut hashes = self.hashes.lock();
        if hash.is_empty() {
            hashes.remove(path);
            return;
        }
        if hashes.get(path).is_some_and(|known| known == hash) {
            return;
        }
        if hashes.len() >= MOST {
            hashes.clear();
            let _ = fs::remove_file(&self.path);
        }
        hashes.insert(path.to_owned(), hash.to_owned());
        let line = format!("{hash} {path}\n");
        let written = match fs::metadata(&self.path) {
            Ok(meta) if meta.len() > BYTES => {
                let all: String = hashes.iter().map(|(path, hash)| format!("{hash} {path}\n")).collect();
                fs::write(&self.path, all)
            }
            _ => fs::File::options()
                .append(true)
                .create(true)
                .open(&self.path)
                .and_then(|mut file| file.write_all(line.as_bytes())),
        };
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "what a session has seen cannot be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen");
        let seen = Seen::open(&path);
        seen.note("/workspace/a b", "1");
        seen.note("/workspace/a b", "2");
        seen.note("/workspace/c\nd", "3");
        let again = Seen::open(&path);
        assert_eq!(again.hash("/workspace/a b").as_deref(), Some("2"));
        assert_eq!(again.hash("/workspace/c"), None);
    }
}
