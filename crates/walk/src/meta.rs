//! Metadata of a file.

use rustix::fs::{FileType, Stat};

/// The kind of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// The directory does not say; [`Meta`] always knows.
    Unknown,
}

impl Kind {
    /// As an error or a list of what was left out names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Dir => "a directory",
            Self::Link => "a symbolic link",
            Self::Fifo => "a named pipe",
            Self::Socket => "a socket",
            Self::CharDevice | Self::BlockDevice => "a device",
            Self::Unknown => "of an unknown kind",
        }
    }
}

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Link,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => Self::Unknown,
        }
    }
}

/// From `fstat` of a handle, or from `fstatat` without following a link.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// What kind of entry it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// The user that owns it.
    pub uid: u32,
    /// The group that owns it.
    pub gid: u32,
    /// The length; a sparse file holds fewer on the disk.
    pub bytes: u64,
    /// What it takes on the disk, in bytes.
    pub allocated: u64,
    /// The number of the device that it lies on.
    pub device: u64,
    /// Its inode number on that device.
    pub inode: u64,
    /// The number of names this file has.
    pub links: u64,
    /// Seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
}

impl Meta {
    /// The same file, as long as it exists.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

impl From<Stat> for Meta {
    fn from(stat: Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode).into(),
            mode: u32::try_from(wide(stat.st_mode) & 0o7777).expect("twelve bits fit"),
            uid: stat.st_uid,
            gid: stat.st_gid,
            bytes: wide(stat.st_size),
            allocated: wide(stat.st_blocks).saturating_mul(512),
            device: wide(stat.st_dev),
            inode: wide(stat.st_ino),
            links: wide(stat.st_nlink),
            modified: (
                stat.st_mtime,
                u32::try_from(wide(stat.st_mtime_nsec)).unwrap_or_default(),
            ),
        }
    }
}

/// The fields of `stat` have other types on other systems.
fn wide(value: impl TryInto<u64>) -> u64 {
    value.try_into().unwrap_or(u64::MAX)
}
