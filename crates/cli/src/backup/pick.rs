//! What belongs in a backup: everything in `state/` but what is made anew by itself, and secrets only if asked for.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nexus_store::copy;

use super::manifest::LeftOut;

/// Logs say what was, sockets say what runs: neither is state.
const PASSING: [&str; 3] = ["logs", "run", "backups"];
/// Endings of files that hold keys.
const SECRET_ENDINGS: [&str; 5] = ["age", "enc", "key", "pem", "p12"];

/// One file that goes in.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    pub from: PathBuf,
    /// In the archive.
    pub to: String,
    pub database: bool,
    pub original: Option<PathBuf>,
}

#[derive(Debug, Default)]
pub struct Picked {
    pub sources: Vec<Source>,
    pub left_out: Vec<LeftOut>,
}

/// Below `state`, whether a file holds secrets.
pub fn is_secret(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    path == Path::new("nexus/keys.toml")
        || name == ".env"
        || SECRET_ENDINGS.contains(&ending)
        || (path.starts_with("credentials") && name != "index.json")
}

pub fn pick(state: &Path, with_keys: bool) -> io::Result<Picked> {
    let mut picked = Picked::default();
    walk(state, Path::new(""), with_keys, &mut picked)?;
    picked.sources.sort_by(|a, b| a.to.cmp(&b.to));
    Ok(picked)
}

fn walk(state: &Path, below: &Path, with_keys: bool, picked: &mut Picked) -> io::Result<()> {
    let entries = match fs::read_dir(state.join(below)) {
        Ok(entries) => entries,
        // Gone since it was seen.
        Err(error) if error.kind() == io::ErrorKind::NotFound && below != Path::new("") => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        let mut leave = |reason: &str| {
            picked.left_out.push(LeftOut {
                path: path.clone(),
                reason: reason.to_owned(),
            });
        };
        if kind.is_dir() {
            if PASSING.iter().any(|name| path == Path::new(name)) {
                continue;
            }
            walk(state, &path, with_keys, picked)?;
        } else if kind.is_symlink() {
            leave("a link; what it points to is not part of the tree");
        } else if !kind.is_file() || is_passing(&state.join(&path)) {
            // Sockets, locks and what belongs to a database that is copied whole.
        } else if is_secret(&path) && !with_keys {
            leave("holds secrets; --with-keys takes it along");
        } else if let Some(name) = path.to_str() {
            let from = state.join(&path);
            let database = copy::is_database(&from)?;
            picked.sources.push(Source {
                from,
                to: format!("state/{name}"),
                database,
                original: None,
            });
        } else {
            leave("its name is not text");
        }
    }
    Ok(())
}

fn is_passing(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.ends_with(".lock") || name == ".lock" {
        return true;
    }
    let of = ["-wal", "-shm", "-journal"]
        .iter()
        .find_map(|end| name.strip_suffix(end));
    of.is_some_and(|database| copy::is_database(&path.with_file_name(database)).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_and_what_is_secret_stays_out() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "logs/llm.log",
            "run/x.pid",
            "nexus/config.toml",
            "nexus/keys.toml",
            "nexus/tokens.toml",
            "credentials/index.json",
            "credentials/vault.age",
            "db/x.lock",
            "agents/a/IDENTITY.md",
        ];
        for file in files {
            fs::create_dir_all(dir.path().join(file).parent().unwrap()).unwrap();
            fs::write(dir.path().join(file), "x").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let names = |with_keys| -> Vec<String> {
            let picked = pick(dir.path(), with_keys).unwrap();
            picked.sources.into_iter().map(|source| source.to).collect()
        };
        let plain = [
            "state/agents/a/IDENTITY.md",
            "state/credentials/index.json",
            "state/nexus/config.toml",
            "state/nexus/tokens.toml",
        ];
        assert_eq!(names(false), plain);
        assert_eq!(names(true).len(), plain.len() + 2);
        let left = pick(dir.path(), false).unwrap().left_out;
        assert_eq!(left.len(), 3, "the link and two secrets are told: {left:?}");
    }
}
