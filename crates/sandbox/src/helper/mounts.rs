//! Mounts that are held by descriptor until they are attached.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};

use crate::sys;

use super::step::{Result, Step};

pub const SAFE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// A mount without a place.
pub struct Tree {
    pub fd: OwnedFd,
    pub is_dir: bool,
}

/// A copy of the mounts at a place, held apart from where it came from.
pub fn copy(dir: impl AsFd, path: &Path) -> rustix::io::Result<Tree> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let last = if path.as_os_str().is_empty() {
        OpenTreeFlags::AT_EMPTY_PATH
    } else {
        OpenTreeFlags::AT_SYMLINK_NOFOLLOW
    };
    let fd = open_tree(dir, path, flags | last)?;
    let stat = rustix::fs::fstat(&fd)?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(Tree { fd, is_dir })
}

/// The mounts at what a handle stands for.
pub fn copy_of(file: &OwnedFd, path: &Path) -> Result<Tree> {
    copy(file, Path::new("")).on("mount", path.display(), "")
}

impl Tree {
    /// No set-user-id and no devices, nothing comes in later, and no writing where it is `read_only`.
    pub fn restrict(&self, read_only: bool) -> rustix::io::Result<()> {
        let write = if read_only {
            MountAttrFlags::MOUNT_ATTR_RDONLY
        } else {
            MountAttrFlags::empty()
        };
        set(&self.fd, SAFE | write, true)
    }

    /// Files of one user are seen, and made, as another's.
    pub fn map_owner(&self, map: BorrowedFd<'_>) -> std::io::Result<()> {
        sys::mount_setattr(self.fd.as_fd(), 0, libc::MS_PRIVATE, Some(map), true)
    }

    /// Puts it where a path inside leads; the path is resolved below `root` whatever links are there.
    pub fn attach(&self, root: impl AsFd, target: &Path) -> Result<()> {
        let place = place(root.as_fd(), target, self.is_dir)?;
        self.attach_at(&place).on("mount", target.display(), "")
    }

    /// Puts it on what has this name in a directory that nobody else writes to.
    pub fn attach_in(&self, dir: impl AsFd, name: &str) -> Result<()> {
        move_mount(&self.fd, "", dir, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).on("mount", name, "")
    }

    pub fn attach_at(&self, place: impl AsFd) -> rustix::io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.fd, "", place, "", flags)
    }
}

pub fn set(mount: impl AsFd, flags: MountAttrFlags, recursive: bool) -> rustix::io::Result<()> {
    let result = sys::mount_setattr(mount.as_fd(), flags.bits().into(), libc::MS_PRIVATE, None, recursive);
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// A new file system.
pub fn new(kind: &str, options: &[(&str, &str)], flags: MountAttrFlags) -> rustix::io::Result<Tree> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    let fd = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    Ok(Tree { fd, is_dir: true })
}

/// Memory, with a bound on bytes and on the number of files.
pub fn tmpfs(bytes: u64, mode: &str) -> rustix::io::Result<Tree> {
    let size = bytes.max(4096).to_string();
    let files = (bytes / 4096 + 1024).to_string();
    new("tmpfs", &[("size", &size), ("nr_inodes", &files), ("mode", mode)], SAFE)
}

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// The directory or file at a path below `root`, made if it is not there.
pub fn place(root: BorrowedFd<'_>, target: &Path, is_dir: bool) -> Result<OwnedFd> {
    let hint = "a mount point must exist in the image, or the root be writable";
    let open = |path: &Path| openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), INSIDE);
    match open(target) {
        Ok(place) => return Ok(place),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error).on("mount", target.display(), ""),
    }
    let mut parent = open(Path::new("/")).step("mount", "")?;
    let parts: Vec<_> = target.components().skip(1).collect();
    let mut path = std::path::PathBuf::from("/");
    for (index, part) in parts.iter().enumerate() {
        path.push(part);
        parent = match open(&path) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                let name = Path::new(part);
                if is_dir || index + 1 < parts.len() {
                    mkdirat(&parent, name, Mode::from_raw_mode(0o755)).on("mount", target.display(), hint)?;
                } else {
                    file(&parent, name).on("mount", target.display(), hint)?;
                }
                open(&path).on("mount", target.display(), hint)?
            }
            Err(error) => return Err(error).on("mount", target.display(), hint),
        };
    }
    Ok(parent)
}

/// An empty file.
pub fn file(dir: impl AsFd, name: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

pub fn kind(dir: impl AsFd, name: &Path) -> Option<FileType> {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}
