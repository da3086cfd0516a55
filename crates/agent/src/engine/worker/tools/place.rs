//! The files of a session: its workspace and mounts, opened beneath directory handles and with the rights of their owner.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nexus_tools::path::{self, Place as Named};
use nexus_tools::{Code, Error};
use nexus_walk::{Dir, Identity, Meta, Rights, is_root, restore_owner};

use crate::domain::worker::call::{Place, WORKSPACE};

/// Who owns the files of a session that nobody was named for, where the worker is root: a number that nobody has.
const NOBODY: u32 = nexus_runtime::sandbox::NOBODY;

/// Directories of this installation.
#[derive(Clone, Debug)]
pub struct Directories {
    /// Each session's own, by its id.
    pub workspaces: PathBuf,
    pub skills: PathBuf,
}

#[derive(Debug)]
pub struct Files {
    /// The longest target first.
    roots: Vec<Root>,
    pub owner: (u32, u32),
    identity: Identity,
    skills: PathBuf,
    results: PathBuf,
}

/// A directory, or a single file, that calls may use.
#[derive(Debug)]
pub struct Root {
    pub target: PathBuf,
    /// On the host.
    pub source: PathBuf,
    /// For a file: the directory that it lies in.
    dir: Dir,
    /// For a file: its name there.
    file: Option<PathBuf>,
    pub read_only: bool,
}

/// A path that a model named: where it is, and what to call it.
#[derive(Debug)]
pub struct At<'a> {
    pub dir: &'a Dir,
    pub path: PathBuf,
    /// As it is shown.
    pub shown: String,
    /// By which it is known: absolute, inside.
    pub inside: String,
    read_only: bool,
}

impl Files {
    /// Blocks.
    pub fn open(place: &Place, session_id: &str, here: &Directories, results: &Path) -> Result<Files, Error> {
        let missing = |path: &Path, error: &io::Error| {
            Error::new(
                Code::Unavailable,
                format!("the session's directory {} cannot be used: {error}", path.display()),
            )
        };
        let source = match &place.workspace {
            Some(path) => path.clone(),
            None => here.workspaces.join(session_id),
        };
        let workspace = match &place.workspace {
            Some(path) if *path != here.workspaces.join(session_id) => Dir::open(path),
            _ => own_workspace(&here.workspaces, session_id, &place.creator),
        };
        let workspace = workspace.map_err(|error| missing(&source, &error))?;
        let meta = workspace.own_meta().map_err(|error| missing(&source, &error))?;
        let owner = place.owner.unwrap_or((meta.uid, meta.gid));
        let mut roots = vec![Root {
            target: WORKSPACE.into(),
            source,
            dir: workspace,
            file: None,
            read_only: false,
        }];
        for mount in &place.mounts {
            let root = mounted(mount).map_err(|error| missing(&mount.source, &error))?;
            roots.push(root);
        }
        roots.sort_by_key(|root| std::cmp::Reverse(root.target.components().count()));
        Ok(Files {
            roots,
            identity: Identity::of(owner.0),
            owner,
            skills: here.skills.clone(),
            results: results.into(),
        })
    }

    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// While this lives, files are opened as their owner would.
    pub fn rights(&self) -> Result<Rights, Error> {
        self.identity.assume().map_err(|error| {
            Error::new(
                Code::Unavailable,
                format!("the rights of user {} cannot be taken: {error}", self.owner.0),
            )
        })
    }

    /// Gives a file to the owner; only root can. Without the owner's rights.
    pub fn give(&self, file: impl std::os::fd::AsFd, gid: Option<u32>) -> io::Result<()> {
        if !is_root() {
            return Ok(());
        }
        restore_owner(file, self.owner.0, gid.unwrap_or(self.owner.1))
    }

    /// A path within the workspace or a mount.
    pub fn at(&self, path: &str) -> Result<At<'_>, Error> {
        let path = path::file(path)?;
        self.inside(&path)
    }

    /// A path that will be written to.
    pub fn to_write(&self, path: &str) -> Result<At<'_>, Error> {
        let at = self.at(path)?;
        if path::is_protected(&at.inside) {
            return Err(Error::new(
                Code::NotAllowed,
                format!("{} is read-only: others execute what stands there", at.shown),
            ));
        }
        if at.read_only {
            return Err(Error::new(
                Code::NotAllowed,
                format!("{} is mounted read-only", at.shown),
            ));
        }
        if at.path.as_os_str().is_empty() {
            return Err(Error::new(Code::InvalidArguments, format!("{} is no file", at.shown)));
        }
        Ok(at)
    }

    /// `path` without `..`, relative to the workspace or absolute.
    pub fn inside(&self, path: &str) -> Result<At<'_>, Error> {
        let inside = match Path::new(path) {
            absolute if absolute.is_absolute() => absolute.to_path_buf(),
            relative => Path::new(WORKSPACE).join(relative),
        };
        // `a/.` and the like are gone: joining with `.` leaves a component that means nothing.
        let inside: PathBuf = inside
            .components()
            .filter(|part| !matches!(part, std::path::Component::CurDir))
            .collect();
        let root = self.roots.iter().find(|root| inside.starts_with(&root.target));
        let root = root.ok_or_else(|| {
            let targets: Vec<String> = self
                .roots
                .iter()
                .map(|root| root.target.display().to_string())
                .collect();
            Error::new(Code::NotAllowed, format!("{path:?} is outside of the session's files")).with_next(format!(
                "File tools see {}. Use exec for the rest of the sandbox.",
                targets.join(", ")
            ))
        })?;
        let rest = inside.strip_prefix(&root.target).unwrap_or(Path::new("")).to_path_buf();
        let path_there = match &root.file {
            Some(name) if rest.as_os_str().is_empty() => name.clone(),
            Some(_) => return Err(Error::new(Code::NotFound, format!("no file {path:?}"))),
            None => rest,
        };
        let shown = inside
            .strip_prefix(WORKSPACE)
            .ok()
            .filter(|rest| !rest.as_os_str().is_empty());
        Ok(At {
            dir: &root.dir,
            path: path_there,
            shown: shown.unwrap_or(&inside).display().to_string(),
            inside: inside.display().to_string(),
            read_only: root.read_only,
        })
    }

    /// Opens what a tool that only reads may be pointed at. `live` knows where the output of a call that runs is.
    pub fn open_to_read(&self, path: &str, live: impl Fn(&str) -> Option<PathBuf>) -> Result<Opened, Error> {
        match path::place(path)? {
            Named::File(path) => {
                let at = self.inside(&path)?;
                let _rights = self.rights()?;
                let opened = at.dir.open_any(&at.path).map_err(|error| at.failed(&error))?;
                Ok(Opened {
                    file: File::from(opened.0),
                    meta: opened.1,
                    shown: at.shown.clone(),
                    inside: Some(at.inside),
                })
            }
            Named::Result(call) => {
                let gone = || {
                    Error::new(Code::NotFound, format!("there is no result of a call {call:?}")).with_next(
                        "Results are kept while the session lives, the oldest go first when they are too large.",
                    )
                };
                if !crate::domain::worker::call::is_plain(&call) {
                    return Err(gone());
                }
                let file = match File::open(self.results.join(&call)) {
                    Ok(file) => file,
                    Err(_) => File::open(live(&call).ok_or_else(gone)?).map_err(|_| gone())?,
                };
                Opened::of(file, path).map_err(|_| gone())
            }
            Named::Skill { name, path: file } => {
                let missing = |_: io::Error| Error::new(Code::NotFound, format!("no file {path:?}"));
                let dir = Dir::open(&self.skills).map_err(missing)?;
                let (file, _) = dir.open_file(Path::new(&name).join(&file)).map_err(missing)?;
                Opened::of(file, path).map_err(missing)
            }
        }
    }
}

/// A file or directory that was opened to be read.
#[derive(Debug)]
pub struct Opened {
    pub file: File,
    pub meta: Meta,
    pub shown: String,
    /// By which the session remembers it; `None`: it is no file of the session.
    pub inside: Option<String>,
}

impl Opened {
    fn of(file: File, shown: &str) -> io::Result<Opened> {
        let meta = rustix::fs::fstat(&file)?.into();
        Ok(Opened {
            file,
            meta,
            shown: shown.to_owned(),
            inside: None,
        })
    }
}

impl At<'_> {
    /// The directory that it lies in, and its name there.
    pub fn parent(&self) -> io::Result<(Dir, std::ffi::OsString)> {
        let name = self.path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let parent = self.path.parent().unwrap_or(Path::new(""));
        let dir = if parent.as_os_str().is_empty() {
            self.dir.try_clone()?
        } else {
            self.dir.open_dir(parent)?
        };
        Ok((dir, name))
    }

    /// Why it cannot be used, as the model is told.
    pub fn failed(&self, error: &io::Error) -> Error {
        let shown = &self.shown;
        match error.kind() {
            io::ErrorKind::NotFound => Error::new(Code::NotFound, format!("no file {shown:?}")),
            io::ErrorKind::NotADirectory => Error::new(
                Code::NotFound,
                format!("a part of the path {shown:?} is no directory, or a link"),
            ),
            io::ErrorKind::PermissionDenied => Error::new(
                Code::NotAllowed,
                format!("{shown:?} may not be used by the session's owner"),
            ),
            io::ErrorKind::InvalidInput => Error::new(Code::NotAllowed, format!("{shown:?}: {error}")),
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                let target = self
                    .parent()
                    .and_then(|(dir, name)| dir.read_link(name))
                    .map(|target| format!(" to {}", target.display()))
                    .unwrap_or_default();
                Error::new(
                    Code::NotAllowed,
                    format!("{shown:?} is a link{target}, or leads over one"),
                )
                .with_next("Give the path that it leads to, within the workspace.")
            }
            _ if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                Error::new(Code::NotAllowed, format!("{shown:?} is no file"))
            }
            _ => Error::new(Code::Unavailable, format!("{shown:?}: {error}")),
        }
    }
}

fn mounted(mount: &crate::domain::worker::call::Mount) -> io::Result<Root> {
    let (dir, file) = match Dir::open(&mount.source) {
        Ok(dir) => (dir, None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let (dir, name) = Dir::of(&mount.source)?;
            (dir, Some(PathBuf::from(name)))
        }
        Err(error) => return Err(error),
    };
    Ok(Root {
        target: mount.target.clone(),
        source: mount.source.clone(),
        dir,
        file,
        read_only: mount.read_only,
    })
}

/// The session's directory below the workspaces, made if it is not there: for the user who made the session, or for nobody
/// until the orchestrator gives it to somebody.
fn own_workspace(workspaces: &Path, session_id: &str, creator: &str) -> io::Result<Dir> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(workspaces)?;
    let parent = Dir::open(workspaces)?;
    match parent.open_dir(session_id) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dir = parent.create_dir(session_id, 0o700)?;
            if is_root() {
                let uid = creator.strip_prefix("uid:").and_then(|uid| uid.parse::<u32>().ok());
                let user = uid.filter(|uid| *uid != 0).map(|uid| {
                    let known = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid))
                        .ok()
                        .flatten();
                    (uid, known.map_or(uid, |user| user.gid.as_raw()))
                });
                let (uid, gid) = user.unwrap_or((NOBODY, NOBODY));
                restore_owner(&dir, uid, gid)?;
            }
            Ok(dir)
        }
        opened => opened,
    }
}
