//! Creates files and directories as a manifest describes them, beneath a directory handle.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use nexus_walk::Dir;

use crate::manifest::{Entry, Kind, Manifest, Range};
use crate::read::{Error, write_error};

/// No set-uid, set-gid or sticky bit of a file comes out of an archive.
const FILE_MODE: u32 = 0o777;
/// Directories may pass their group on, and be sticky.
const DIR_MODE: u32 = 0o3777;

/// A file that is being written.
pub struct File<'a> {
    entry: &'a Entry,
    file: std::fs::File,
    /// The range that is being filled, and how much of it is.
    range: usize,
    filled: u64,
}

impl<'a> File<'a> {
    /// Creates the file of an entry beneath `into`, with the directories above it.
    pub fn create(into: &Dir, entry: &'a Entry) -> Result<Self, Error> {
        let path = Path::new(&entry.path);
        let (parent, name) = (path.parent(), path.file_name());
        let (parent, name) = parent
            .zip(name)
            .expect("the manifest was looked at: it lies in a directory");
        let made = into
            .create_dirs(parent, 0o700)
            .and_then(|parent| parent.create_file(name, 0o600));
        let file = made.map_err(|error| write_error(&entry.path, error))?;
        Ok(Self {
            entry,
            file,
            range: 0,
            filled: 0,
        })
    }

    /// The next bytes of its data. More than the manifest announces is written nowhere: the archive is about to be refused.
    pub fn write(&mut self, mut piece: &[u8]) -> Result<(), Error> {
        let whole = [Range {
            at: 0,
            bytes: self.entry.bytes,
        }];
        let ranges = self.entry.ranges.as_deref().unwrap_or(&whole);
        while !piece.is_empty()
            && let Some(range) = ranges.get(self.range)
        {
            let room = range.bytes - self.filled;
            if room == 0 {
                (self.range, self.filled) = (self.range + 1, 0);
                continue;
            }
            let length = usize::try_from(room).unwrap_or(usize::MAX).min(piece.len());
            self.file
                .write_all_at(&piece[..length], range.at + self.filled)
                .map_err(|error| write_error(&self.entry.path, error))?;
            self.filled += length as u64;
            piece = &piece[length..];
        }
        Ok(())
    }

    /// Length, owner, mode, attributes and time; on the disk when this returns.
    pub fn finish(self) -> Result<(), Error> {
        let done = || -> io::Result<()> {
            self.file.set_len(self.entry.bytes)?;
            if let Some((uid, gid)) = self.entry.owner
                && nexus_walk::is_root()
            {
                nexus_walk::restore_owner(&self.file, uid, gid)?;
            }
            for (name, value) in &self.entry.xattrs {
                attribute(&self.file, name, value)?;
            }
            let mode = std::fs::Permissions::from_mode(self.entry.mode & FILE_MODE);
            self.file.set_permissions(mode)?;
            if let Some(modified) = self.entry.modified {
                nexus_walk::set_modified(&self.file, modified)?;
            }
            self.file.sync_all()
        };
        done().map_err(|error| write_error(&self.entry.path, error))
    }
}

/// The innermost first: what is made in a directory changes its time.
pub fn directories(into: &Dir, manifest: &Manifest, wanted: impl Fn(&Entry) -> bool) -> Result<(), Error> {
    let dirs = manifest.files.iter().filter(|entry| entry.kind == Kind::Dir);
    let mut all: Vec<&Entry> = dirs.filter(|entry| wanted(entry)).collect();
    for entry in &all {
        into.create_dirs(&entry.path, 0o700)
            .map_err(|error| write_error(&entry.path, error))?;
    }
    all.sort_by(|a, b| b.path.cmp(&a.path));
    for entry in all {
        let done = || -> io::Result<()> {
            let dir = into.open_dir(&entry.path)?;
            if let Some((uid, gid)) = entry.owner
                && nexus_walk::is_root()
            {
                nexus_walk::restore_owner(&dir, uid, gid)?;
            }
            for (name, value) in &entry.xattrs {
                attribute(&dir, name, value)?;
            }
            dir.set_mode(entry.mode & DIR_MODE)?;
            if let Some(modified) = entry.modified {
                nexus_walk::set_modified(&dir, modified)?;
            }
            dir.sync()
        };
        done().map_err(|error| write_error(&entry.path, error))?;
    }
    Ok(())
}

/// Only names that mean nothing to the kernel come out of an archive. A file system that has none keeps the file without.
fn attribute(file: impl std::os::fd::AsFd, name: &str, value: &str) -> io::Result<()> {
    let (true, Ok(bytes)) = (name.starts_with("user."), hex::decode(value)) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the attribute {name:?} is not one of ours"),
        ));
    };
    match nexus_walk::set_xattr(file, OsStr::new(name), &bytes) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        done => done,
    }
}
