//! Reads the directory whose files an agent gets a copy of, and remembers what each of them was.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::{self, Read},
    path::{Path, PathBuf},
};

use nexus_walk::{Dir, Kind, Meta, Step, Walk};
use sha2::{Digest, Sha256};

use crate::{
    failure::{Exit, Failure},
    output::table::one_line,
};

/// Bytes of one archive; a file that is larger gets one of its own.
const ARCHIVE: usize = 8 << 20;
/// Bytes of one file, and of all.
const LARGEST_FILE: u64 = 64 << 20;
const LARGEST_TREE: u64 = 1 << 30;
const MOST_ENTRIES: usize = 100_000;
/// Permissions that are carried over: never those that lend rights.
const MODE: u32 = 0o777;
/// Its owner may execute it.
pub const EXECUTE: u32 = 0o100;

/// The directory, opened once.
#[derive(Debug)]
pub struct Tree {
    pub path: PathBuf,
    pub dir: Dir,
    excluded: Vec<OsString>,
}

/// What was at a path when it was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    Dir,
    /// Of its permissions only whether it can be executed is told apart: others depend on who unpacks it.
    File {
        hash: [u8; 32],
        executable: bool,
    },
    Link(OsString),
}

/// The directory, and what was copied of it.
#[derive(Debug)]
pub struct Copied {
    pub tree: Tree,
    pub known: BTreeMap<PathBuf, Known>,
    /// Sockets, devices, pipes, and what could not be read.
    pub left_out: Vec<PathBuf>,
}

impl Tree {
    pub fn open(path: &Path, exclude: &[String]) -> Result<Tree, Failure> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Failure {
                exit: Exit::NotFound,
                ..Failure::file("open", path, &error)
            },
            _ => Failure::file("open", path, &error),
        };
        let real = path.canonicalize().map_err(failed)?;
        Ok(Tree {
            dir: Dir::open(&real).map_err(failed)?,
            path: real,
            excluded: exclude.iter().map(OsString::from).collect(),
        })
    }

    pub fn excludes(&self, name: &OsStr) -> bool {
        self.excluded.iter().any(|excluded| excluded == name)
    }

    /// Packs everything, and hands over one archive after the other.
    pub fn pack(self, mut ready: impl FnMut(Vec<u8>, usize) -> io::Result<()>) -> Result<Copied, Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Failed, format!("failed to copy the files: {error}"));
        let mut walk = Walk::new(&self.dir).map_err(failed)?;
        let (mut known, mut left_out) = (BTreeMap::new(), Vec::new());
        let mut archive = tar::Builder::new(Vec::new());
        let mut bytes = 0;
        while let Some(step) = walk.step() {
            let entry = match step {
                Step::Problem(problem) => {
                    left_out.push(problem.path);
                    continue;
                }
                Step::Entry(entry) => entry,
            };
            if self.excludes(&entry.name) {
                walk.skip();
                continue;
            }
            if known.len() >= MOST_ENTRIES {
                return Err(too_much(&self, &format!("more than {MOST_ENTRIES} files")));
            }
            bytes += entry.meta.bytes;
            if entry.meta.kind == Kind::File && (entry.meta.bytes > LARGEST_FILE || bytes > LARGEST_TREE) {
                let what = format!("{} makes it too large", one_line(&walk.path().to_string_lossy()));
                return Err(too_much(&self, &what));
            }
            match add(&mut archive, &walk, &entry.name, &entry.meta) {
                Ok(Some(one)) => {
                    known.insert(walk.path().to_path_buf(), one);
                }
                Ok(None) => left_out.push(walk.path().to_path_buf()),
                // It went, changed its kind, or may not be read.
                Err(_) => left_out.push(walk.path().to_path_buf()),
            }
            if archive.get_ref().len() >= ARCHIVE {
                let full = std::mem::replace(&mut archive, tar::Builder::new(Vec::new()));
                ready(full.into_inner().map_err(failed)?, known.len()).map_err(failed)?;
            }
        }
        ready(archive.into_inner().map_err(failed)?, known.len()).map_err(failed)?;
        Ok(Copied {
            tree: self,
            known,
            left_out,
        })
    }
}

fn too_much(tree: &Tree, what: &str) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("{} is too much to copy: {what}", one_line(&tree.path.to_string_lossy())),
    )
    .hint("leave out what is not needed, such as --exclude target --exclude node_modules")
}

/// Adds the entry that the walk is at. `None`: it is none that can be copied.
fn add(archive: &mut tar::Builder<Vec<u8>>, walk: &Walk, name: &OsStr, meta: &Meta) -> io::Result<Option<Known>> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(meta.mode & MODE);
    header.set_mtime(u64::try_from(meta.modified.0).unwrap_or(0));
    header.set_size(0);
    match meta.kind {
        Kind::Dir => {
            header.set_entry_type(tar::EntryType::Directory);
            // Its owner has to be able to fill it.
            header.set_mode((meta.mode & MODE) | 0o700);
            archive.append_data(&mut header, walk.path(), io::empty())?;
            Ok(Some(Known::Dir))
        }
        Kind::Link => {
            let target = walk.dir().read_link(name)?;
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, walk.path(), Path::new(&target))?;
            Ok(Some(Known::Link(target)))
        }
        Kind::File => {
            let (file, now) = walk.dir().open_file(name)?;
            let content = nexus_walk::read_bounded(&file, LARGEST_FILE)?;
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, walk.path(), content.as_slice())?;
            Ok(Some(Known::File {
                hash: Sha256::digest(&content).into(),
                executable: now.mode & EXECUTE != 0,
            }))
        }
        _ => Ok(None),
    }
}

/// What is at a path now.
pub fn now(dir: &Dir, name: &OsStr, meta: &Meta) -> io::Result<Option<Known>> {
    Ok(match meta.kind {
        Kind::Dir => Some(Known::Dir),
        Kind::Link => Some(Known::Link(dir.read_link(name)?)),
        Kind::File => {
            let (file, meta) = dir.open_file(name)?;
            let mut hash = Sha256::new();
            let mut file = file.take(LARGEST_TREE);
            let mut piece = vec![0; 64 << 10];
            loop {
                match file.read(&mut piece)? {
                    0 => break,
                    bytes => hash.update(&piece[..bytes]),
                }
            }
            Some(Known::File {
                hash: hash.finalize().into(),
                executable: meta.mode & EXECUTE != 0,
            })
        }
        _ => None,
    })
}
