//! `--in-place`: what an agent changed in its copy, shown, and made in the directory itself once a person agrees.
//!
//! A file that changed in the directory while the agent worked is never overwritten. What others run by themselves (hooks
//! and settings of git, `.agents`) is not taken, and neither are bits that lend rights.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use nexus_walk::{Dir, Fresh, Kind, Step, Walk};

use super::workspace::{Copied, Known, Tree, now};
use crate::{chat::screen::Screen, failure::Failure, output::escape::visible};

/// Permissions of a new file.
const NEW: u32 = 0o644;

/// One difference between the copy and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Add(PathBuf, Known),
    Modify(PathBuf, Known),
    Delete(PathBuf),
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Change::Add(path, _) | Change::Modify(path, _) | Change::Delete(path) => path,
        }
    }

    /// A line in which no name hides anything.
    fn line(&self) -> String {
        let name = |path: &Path| visible(&path.to_string_lossy()).replace('\n', "\\n");
        let target = |known: &Known| match known {
            Known::Link(target) => format!(" -> {}", name(Path::new(target))),
            Known::Dir => "/".to_owned(),
            Known::File { .. } => String::new(),
        };
        match self {
            Change::Add(path, known) => format!("  A {}{}", name(path), target(known)),
            Change::Modify(path, known) => format!("  M {}{}", name(path), target(known)),
            Change::Delete(path) => format!("  D {}", name(path)),
        }
    }
}

/// Whether a person can be asked.
pub fn somebody() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Shows the changes, asks, and makes them. `files` is the copy.
pub fn take(copied: &Copied, files: &Path, yes: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let unreadable = |error: io::Error| {
        Failure::file("read", files, &error)
            .hint("--in-place works where the orchestrator runs, for the user it runs as")
    };
    let copy = Dir::open(files).map_err(unreadable)?;
    let (changes, refused) = sorted(copied, found(&copied.tree, &copy).map_err(unreadable)?);
    for path in &refused {
        let name = visible(&path.to_string_lossy()).replace('\n', "\\n");
        screen.note(&format!(
            "  not taken: {name} (it changed here meanwhile, or others run it by themselves)"
        ))?;
    }
    if changes.is_empty() {
        return Ok(screen.note("nothing to change")?);
    }
    for change in &changes {
        screen.note(&change.line())?;
    }
    let place = copied.tree.path.display();
    if !yes && !agreed(&format!("Make these changes in {place}?"))? {
        return Ok(screen.note(&format!("nothing was changed; the files are in {}", files.display()))?);
    }
    for change in &changes {
        make(change, &copy, &copied.tree.dir)
            .map_err(|error| Failure::file("change", &copied.tree.path.join(change.path()), &error))?;
    }
    Ok(screen.note(&format!("{} changes made in {place}", changes.len()))?)
}

fn agreed(question: &str) -> Result<bool, Failure> {
    let mut error = io::stderr().lock();
    write!(error, "{question} [y/N] ")?;
    error.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Everything in the copy, as it is now.
fn found(tree: &Tree, copy: &Dir) -> io::Result<BTreeMap<PathBuf, Known>> {
    let mut found = BTreeMap::new();
    let mut walk = Walk::new(copy)?.on_one_device()?;
    while let Some(step) = walk.step() {
        let entry = match step {
            Step::Entry(entry) => entry,
            Step::Problem(problem) => return Err(problem.error),
        };
        if tree.excludes(&entry.name) {
            walk.skip();
            continue;
        }
        if let Some(known) = now(walk.dir(), &entry.name, &entry.meta)? {
            found.insert(walk.path().to_path_buf(), known);
        }
    }
    Ok(found)
}

/// The changes in the order in which they can be made, and the paths that are not taken.
fn sorted(copied: &Copied, found: BTreeMap<PathBuf, Known>) -> (Vec<Change>, Vec<PathBuf>) {
    let (mut changes, mut refused) = (Vec::new(), Vec::new());
    let gone = copied.known.keys().rev().filter(|path| !found.contains_key(*path));
    let gone: Vec<Change> = gone.map(|path| Change::Delete(path.clone())).collect();
    let came = found
        .into_iter()
        .filter_map(|(path, known)| match copied.known.get(&path) {
            None => Some(Change::Add(path, known)),
            Some(before) if *before != known => Some(Change::Modify(path, known)),
            Some(_) => None,
        });
    // What is in the way of something new goes first.
    for change in gone.into_iter().chain(came) {
        if is_run_by_others(change.path()) || !is_untouched(copied, change.path()) {
            refused.push(change.path().to_path_buf());
        } else {
            changes.push(change);
        }
    }
    (changes, refused)
}

/// Whether the directory itself still has what was copied there.
fn is_untouched(copied: &Copied, path: &Path) -> bool {
    let before = copied.known.get(path);
    let Some(name) = path.file_name() else { return false };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => copied.tree.dir.open_dir(parent),
        _ => copied.tree.dir.try_clone(),
    };
    let parent = match parent {
        Ok(parent) => parent,
        Err(error) => return error.kind() == io::ErrorKind::NotFound && before.is_none(),
    };
    match parent.meta(name) {
        Ok(meta) => now(&parent, name, &meta).is_ok_and(|now| now.as_ref() == before),
        Err(error) => error.kind() == io::ErrorKind::NotFound && before.is_none(),
    }
}

fn is_run_by_others(path: &Path) -> bool {
    let parts: Vec<&OsStr> = path.iter().collect();
    let git = |pair: &[&OsStr]| pair[0] == ".git" && (pair[1] == "hooks" || pair[1] == "config");
    parts.windows(2).any(git) || parts.first().is_some_and(|first| *first == ".agents")
}

fn make(change: &Change, copy: &Dir, dir: &Dir) -> io::Result<()> {
    let path = change.path();
    let name: OsString = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    let above = path.parent().unwrap_or(Path::new(""));
    let parent = match above.as_os_str().is_empty() {
        true => dir.try_clone()?,
        false => dir.create_dirs(above, 0o755)?,
    };
    let (known, source) = match change {
        Change::Delete(_) => return delete(&parent, &name),
        Change::Add(_, known) | Change::Modify(_, known) => match above.as_os_str().is_empty() {
            true => (known, copy.try_clone()?),
            false => (known, copy.open_dir(above)?),
        },
    };
    match known {
        Known::Dir => {
            clear(&parent, &name, Kind::Dir)?;
            if !parent.exists(&name)? {
                parent.create_dir(&name, 0o755)?;
            }
        }
        Known::Link(target) => {
            clear(&parent, &name, Kind::Unknown)?;
            parent.symlink(target, &name)?;
        }
        Known::File { executable, .. } => {
            let (mut file, _): (File, _) = source.open_file(&name)?;
            clear(&parent, &name, Kind::File)?;
            // Who may read a file that is here already stays as it is.
            let before = parent.meta(&name).map_or(NEW, |meta| meta.mode & 0o777);
            let mode = match executable {
                true => before | ((before & 0o444) >> 2),
                false => before & !0o111,
            };
            let mut fresh = Fresh::new(&parent, mode)?;
            io::copy(&mut file, fresh.file_mut())?;
            fresh.replace(&name)?;
        }
    }
    Ok(())
}

/// Removes what has the name, unless it is of this kind.
fn clear(parent: &Dir, name: &OsStr, but: Kind) -> io::Result<()> {
    match parent.meta(name) {
        Ok(meta) if meta.kind == but => Ok(()),
        Ok(_) => delete(parent, name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn delete(parent: &Dir, name: &OsStr) -> io::Result<()> {
    match parent.meta(name)?.kind {
        // Not empty: it holds what was left out of the copy.
        Kind::Dir => match parent.remove_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed,
        },
        _ => parent.remove_file(name),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// A directory and its copy, as an agent gets it.
    fn copied(files: &[(&str, &str)]) -> (tempfile::TempDir, tempfile::TempDir, Copied) {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, content) in files {
            let path = here.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let mut archives = Vec::new();
        let tree = Tree::open(here.path(), &["target".to_owned()]).unwrap();
        let copied = tree
            .pack(|archive, _| {
                archives.push(archive);
                Ok(())
            })
            .unwrap();
        for archive in archives {
            tar::Archive::new(archive.as_slice()).unpack(there.path()).unwrap();
        }
        (here, there, copied)
    }

    fn changes(copied: &Copied, there: &Path) -> (Vec<String>, Vec<PathBuf>) {
        let copy = Dir::open(there).unwrap();
        let (changes, refused) = sorted(copied, found(&copied.tree, &copy).unwrap());
        for change in &changes {
            make(change, &copy, &copied.tree.dir).unwrap();
        }
        (changes.iter().map(Change::line).collect(), refused)
    }

    #[test]
    fn an_untouched_copy_has_no_changes() {
        let (_here, there, copied) = copied(&[("a", "1"), ("src/b", "2"), ("target/x", "big")]);
        assert!(!there.path().join("target").exists(), "it was left out");
        assert_eq!(changes(&copied, there.path()), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_the_agent_did_is_done_here() {
        let (here, there, copied) = copied(&[("a", "1"), ("b", "2"), ("old/c", "3"), ("target/x", "big")]);
        fs::set_permissions(here.path().join("a"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(there.path().join("a"), "changed").unwrap();
        fs::remove_file(there.path().join("b")).unwrap();
        fs::remove_dir_all(there.path().join("old")).unwrap();
        fs::create_dir_all(there.path().join("new/deep")).unwrap();
        fs::write(there.path().join("new/deep/d"), "4").unwrap();
        fs::set_permissions(there.path().join("new/deep/d"), fs::Permissions::from_mode(0o4755)).unwrap();
        std::os::unix::fs::symlink("a", there.path().join("l\u{202e}")).unwrap();
        let (lines, refused) = changes(&copied, there.path());
        assert_eq!(
            lines,
            [
                "  D old/c",
                "  D old",
                "  D b",
                "  M a",
                "  A l\\u{202e} -> a",
                "  A new/",
                "  A new/deep/",
                "  A new/deep/d"
            ]
        );
        assert!(refused.is_empty());
        let read = |name: &str| fs::read_to_string(here.path().join(name)).unwrap();
        assert_eq!(
            (read("a"), read("new/deep/d"), read("target/x")),
            ("changed".into(), "4".into(), "big".into())
        );
        assert!(!here.path().join("b").exists() && !here.path().join("old").exists());
        let mode = |name: &str| fs::metadata(here.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("a"), 0o600, "it stays private");
        assert_eq!(mode("new/deep/d"), 0o755, "the bit that lends rights is not taken");
    }

    #[test]
    fn a_file_that_changed_here_meanwhile_is_not_overwritten() {
        let (here, there, copied) = copied(&[("a", "1"), ("b", "2")]);
        fs::write(there.path().join("a"), "by the agent").unwrap();
        fs::write(here.path().join("a"), "by its owner").unwrap();
        fs::write(there.path().join("new"), "by the agent").unwrap();
        fs::write(here.path().join("new"), "by its owner").unwrap();
        let (lines, refused) = changes(&copied, there.path());
        assert!(lines.is_empty(), "{lines:?}");
        assert_eq!(refused, [PathBuf::from("a"), PathBuf::from("new")]);
        assert_eq!(fs::read_to_string(here.path().join("a")).unwrap(), "by its owner");
    }

    /// The attack: an agent leaves a hook that the next commit of its user runs, or a link for later writes to follow.
    #[test]
    fn hooks_are_not_taken_and_links_are_not_followed() {
        let (here, there, copied) = copied(&[(".git/hooks/x", "1"), (".git/HEAD", "1"), ("d/f", "1")]);
        fs::write(there.path().join(".git/hooks/pre-commit"), "evil").unwrap();
        fs::write(there.path().join(".git/config"), "evil").unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("f"), "theirs").unwrap();
        fs::remove_dir_all(here.path().join("d")).unwrap();
        std::os::unix::fs::symlink(outside.path(), here.path().join("d")).unwrap();
        fs::write(there.path().join("d/f"), "by the agent").unwrap();
        let (lines, refused) = changes(&copied, there.path());
        assert!(lines.is_empty(), "{lines:?}");
        assert_eq!(refused.len(), 3, "{refused:?}");
        assert!(!here.path().join(".git/hooks/pre-commit").exists());
        assert_eq!(fs::read_to_string(outside.path().join("f")).unwrap(), "theirs");
    }
}
