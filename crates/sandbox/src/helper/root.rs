//! Builds the root file system that the command sees.
//!
//! A small tmpfs holds one mount for each top directory of the host's system or of the image, so that both are built
//! the same way. Where the root is writable each of them is an overlay into memory. The tmpfs itself is read-only in the
//! end. An image with very many entries in its root is one overlay instead: each mount takes a descriptor, and time.
//! Everything that can be written to without a mount of the caller's comes out of one bounded memory, `scratch`.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::mount::{MountAttrFlags, MountFlags, UnmountFlags, mount, unmount};

use crate::spec::{Caller, Rootfs, Run, Source, User};

use super::access;
use super::etc;
use super::idmap::{self, Map};
use super::mounts::{self, Tree, copy, copy_of, tmpfs};
use super::step::{Result, Step, failed};

/// What of the host a program needs to run, next to parts of `/etc`.
const SYSTEM: [&str; 8] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix"];
/// Always created here, never taken from an image.
const OURS: [&str; 4] = ["dev", "proc", "sys", "tmp"];
/// Entries of an image's root that get a mount each.
const MOST_ENTRIES: usize = 256;
/// Where the scratch memory has a name while the root is put together: over a directory of the host that is not looked
/// into any more, and is left behind with it.
const SCRATCH: &str = "/usr";
/// Where the new root is put together. Everybody has it, and the process leaves it behind.
const STAGE: &str = "/tmp";

/// What has to be taken from the host before its view changes: by the monitor where it is root, as root may go where
/// the user inside may not, else by pid 1, as only in its own namespace may an ordinary user copy mounts.
pub struct Sources {
    base: Base,
    mounts: Vec<Option<Tree>>,
}

/// What the root is made of.
enum Base {
    Entries(Vec<(PathBuf, Entry)>),
    /// An image with more than [`MOST_ENTRIES`].
    Whole(Tree),
}

enum Entry {
    Link(PathBuf),
    Tree(Tree),
}

/// `outside`: who the sandbox is on the host, where this is root.
pub fn sources(run: &Run, outside: Option<User>) -> Result<Sources> {
    let mut maps = Maps {
        outside,
        made: Vec::new(),
    };
    // Without root it is the user of this process, which `check_caller` saw to.
    let caller = run
        .caller
        .clone()
        .or(outside.map(Caller::from))
        .unwrap_or_else(|| run.user.into());
    let base = match &run.rootfs {
        Rootfs::Host => Base::Entries(host()?),
        Rootfs::Directory(dir) => image(dir, &mut maps)?,
    };
    let mut trees = Vec::new();
    for wanted in &run.mounts {
        trees.push(match &wanted.source {
            Source::Path(path) => {
                let open = if outside.is_some() {
                    access::open_as
                } else {
                    access::open
                };
                let tree = copy_of(&open(path, &caller, !wanted.read_only)?, path)?;
                maps.caller(&tree, &caller, path)?;
                tree.restrict(wanted.read_only).on("mount", path.display(), "")?;
                Some(tree)
            }
            Source::Owned(path) => {
                let tree = copy_of(&access::open(path, &caller, !wanted.read_only)?, path)?;
                maps.caller(&tree, &caller, path)?;
                tree.restrict(wanted.read_only).on("mount", path.display(), "")?;
                Some(tree)
            }
            Source::Tmpfs(_) => None,
        });
    }
    Ok(Sources { base, mounts: trees })
}

/// Maps of owners, each made once.
struct Maps {
    outside: Option<User>,
    made: Vec<(Map, OwnedFd)>,
}

impl Maps {
    /// Files of an image, which all belong to whoever unpacked it, are those of the user inside.
    fn image(&mut self, tree: &Tree, path: &Path) -> Result<()> {
        let Some(outside) = self.outside else { return Ok(()) };
        let stat = rustix::fs::fstat(&tree.fd).on("mount", path.display(), "")?;
        let on_disk = User {
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        if on_disk != outside {
            // Where the file system has no maps, what everybody may read can be read without.
            let _unmapped = self.apply(tree, Map::of_owner(on_disk, outside))?;
        }
        Ok(())
    }

    /// The sandbox has the caller's rights there, and what it makes belongs to the caller.
    fn caller(&mut self, tree: &Tree, caller: &Caller, path: &Path) -> Result<()> {
        let Some(outside) = self.outside else { return Ok(()) };
        if *caller == Caller::from(outside) {
            return Ok(());
        }
        let hint = "the file system cannot map owners (ext4, xfs, btrfs and, since Linux 6.3, tmpfs can): the directory \
            must be on another one, or the daemon run as the user whose files these are";
        self.apply(tree, Map::of_caller(caller, outside)?)?
            .on("mount", path.display(), hint)
    }

    /// Fails where the map cannot be made; the inner result tells whether the file system takes it.
    fn apply(&mut self, tree: &Tree, map: Map) -> Result<std::io::Result<()>> {
        let known = self.made.iter().position(|(made, _)| *made == map);
        let at = match known {
            Some(at) => at,
            None => {
                let made = idmap::for_mount(&map)?;
                self.made.push((map, made));
                self.made.len() - 1
            }
        };
        Ok(tree.map_owner(self.made[at].1.as_fd()))
    }
}

fn host() -> Result<Vec<(PathBuf, Entry)>> {
    let mut entries = Vec::new();
    for name in SYSTEM {
        let path = Path::new("/").join(name);
        let entry = match mounts::kind(CWD, &path) {
            Some(FileType::Symlink) => Entry::Link(fs::read_link(&path).on("root", path.display(), "")?),
            Some(FileType::Directory) => {
                let tree = copy(CWD, &path).on("root", path.display(), "")?;
                tree.restrict(true).on("root", path.display(), "")?;
                Entry::Tree(tree)
            }
            _ => continue,
        };
        entries.push((name.into(), entry));
    }
    Ok(entries)
}

fn image(dir: &Path, maps: &mut Maps) -> Result<Base> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, dir, flags, Mode::empty()).on("root", dir.display(), "is the image unpacked?")?;
    if fs::read_dir(dir)
        .on("root", dir.display(), "")?
        .nth(MOST_ENTRIES)
        .is_some()
    {
        let tree = copy_of(&root, dir)?;
        maps.image(&tree, dir)?;
        tree.restrict(true).on("root", dir.display(), "")?;
        return Ok(Base::Whole(tree));
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).on("root", dir.display(), "")? {
        let name = PathBuf::from(entry.on("root", dir.display(), "")?.file_name());
        if OURS.iter().any(|ours| Path::new(ours) == name) {
            continue;
        }
        let entry = match mounts::kind(&root, &name) {
            Some(FileType::Symlink) => Entry::Link(fs::read_link(dir.join(&name)).on("root", name.display(), "")?),
            Some(FileType::Directory | FileType::RegularFile) => {
                let tree = copy(&root, &name).on("root", name.display(), "")?;
                maps.image(&tree, &name)?;
                tree.restrict(true).on("root", name.display(), "")?;
                Entry::Tree(tree)
            }
            _ => continue,
        };
        entries.push((name, entry));
    }
    Ok(Base::Entries(entries))
}

/// Builds it and moves into it. Run by pid 1 as the user inside, with its namespace's capabilities.
pub fn enter(run: &Run, sources: Sources) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    let scratch = Scratch::new(run.limits.scratch)?;
    let (root, covers) = match &sources.base {
        Base::Entries(entries) => (of_entries(run, entries, &scratch)?, Vec::new()),
        Base::Whole(image) => of_overlay(image, &scratch)?,
    };
    for name in ["dev", "proc", "tmp", "run", "var", "home", "etc", "root", "workspace"] {
        if mounts::kind(&root, Path::new(name)).is_none() {
            mkdirat(&root, name, mode).on("root", name, "")?;
        }
    }
    if run.rootfs == Rootfs::Host {
        etc::fill(root.as_fd(), run)?;
    }
    devices(root.as_fd())?;
    for (name, inside) in [
        ("tmp", "/tmp"),
        ("vartmp", "/var/tmp"),
        ("run", "/run"),
        ("shm", "/dev/shm"),
    ] {
        scratch.give(root.as_fd(), name, inside)?;
    }
    let proc = mounts::new("proc", &[], mounts::SAFE | MountAttrFlags::MOUNT_ATTR_NOEXEC);
    proc.step(
        "proc",
        "/proc of the surroundings is masked: in a container, it must run with an unmasked /proc",
    )?
    .attach(&root, Path::new("/proc"))?;
    hide(root.as_fd())?;
    for (wanted, tree) in run.mounts.iter().zip(&sources.mounts) {
        let made;
        let tree = match (tree, &wanted.source) {
            (Some(tree), _) => tree,
            (None, Source::Tmpfs(bytes)) => {
                made = tmpfs(*bytes, "1777").on("mount", wanted.target.display(), "")?;
                made.restrict(wanted.read_only)
                    .on("mount", wanted.target.display(), "")?;
                &made
            }
            (None, Source::Path(path) | Source::Owned(path)) => {
                return Err(failed("mount", format!("{} was not taken", path.display()), ""));
            }
        };
        tree.attach(&root, &wanted.target)?;
    }
    if !run.writable_rootfs {
        for part in std::iter::once(root.as_fd()).chain(covers.iter().map(|cover| cover.fd.as_fd())) {
            mounts::set(part, mounts::SAFE | MountAttrFlags::MOUNT_ATTR_RDONLY, false).step("root", "")?;
        }
    }
    pivot(&root)
}

/// The directory where the new root is put together; what is mounted on it, once something is.
fn stage() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, STAGE, flags, Mode::empty()).on("root", STAGE, "")
}

fn of_entries(run: &Run, entries: &[(PathBuf, Entry)], scratch: &Scratch) -> Result<OwnedFd> {
    let bound = if run.writable_rootfs {
        run.limits.scratch
    } else {
        16 << 20
    };
    let root = tmpfs(bound, "755").step("root", "the kernel must allow tmpfs in user namespaces (5.2 or later)")?;
    root.attach_at(stage()?).step("root", "")?;
    let root = root.fd;
    for (name, entry) in entries {
        match entry {
            Entry::Link(to) => symlinkat(to, &root, name).on("root", name.display(), "")?,
            Entry::Tree(tree) if run.writable_rootfs && tree.is_dir => {
                let target = Path::new(STAGE).join(name);
                rustix::fs::mkdir(&target, Mode::from_raw_mode(0o755)).on("overlay", name.display(), "")?;
                scratch.overlay(name, tree, &target)?;
            }
            Entry::Tree(tree) => tree.attach(&root, &Path::new("/").join(name))?,
        }
    }
    Ok(root)
}

/// The root, and what covers the image's own entries in it that are never taken from one.
fn of_overlay(image: &Tree, scratch: &Scratch) -> Result<(OwnedFd, Vec<Tree>)> {
    scratch.overlay(Path::new("root"), image, Path::new(STAGE))?;
    let root = stage()?;
    let mut covers = Vec::new();
    for name in OURS {
        match mounts::kind(&root, Path::new(name)) {
            None => {}
            Some(FileType::Directory) => {
                let cover = tmpfs(1 << 20, "755").on("root", name, "")?;
                cover.attach_in(&root, name)?;
                covers.push(cover);
            }
            Some(_) => {
                rustix::fs::unlinkat(&root, name, rustix::fs::AtFlags::empty()).on("root", name, "")?;
                mkdirat(&root, name, Mode::from_raw_mode(0o755)).on("root", name, "")?;
            }
        }
    }
    Ok((root, covers))
}

fn pivot(root: &OwnedFd) -> Result<()> {
    rustix::process::fchdir(root).step("pivot", "")?;
    rustix::process::pivot_root(".", ".").step(
        "pivot",
        "the root of the surroundings must be a real mount, not an initramfs",
    )?;
    unmount(".", UnmountFlags::DETACH).step("pivot", "")?;
    rustix::process::chdir("/").step("pivot", "")
}

/// The bounded memory behind everything writable.
struct Scratch {
    dir: OwnedFd,
}

impl Scratch {
    fn new(bytes: u64) -> Result<Scratch> {
        let tree = tmpfs(bytes, "700").step("scratch", "")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = openat(CWD, SCRATCH, flags, Mode::empty()).on("scratch", SCRATCH, "")?;
        tree.attach_at(&place).step("scratch", "")?;
        Ok(Scratch { dir: tree.fd })
    }

    /// One directory of it, at a place inside.
    fn give(&self, root: BorrowedFd<'_>, name: &str, inside: &str) -> Result<()> {
        let target = Path::new(inside);
        mkdirat(&self.dir, name, Mode::from_raw_mode(0o777)).on("scratch", name, "")?;
        rustix::fs::chmodat(
            &self.dir,
            name,
            Mode::from_raw_mode(0o1777),
            rustix::fs::AtFlags::empty(),
        )
        .on("scratch", name, "")?;
        // A link of the image that leads there already (/var/run) needs no second one.
        let tree = copy(&self.dir, Path::new(name)).on("scratch", inside, "")?;
        match tree.attach(root, target) {
            Err(failed) if inside == "/var/tmp" && failed.errno == libc::EROFS => Ok(()),
            other => other,
        }
    }

    /// Mounts at `target` what `lower` has; what is changed there goes into this memory, below `name`.
    fn overlay(&self, name: &Path, lower: &Tree, target: &Path) -> Result<()> {
        let mode = Mode::from_raw_mode(0o755);
        for kind in ["lower", "upper", "work"] {
            if mounts::kind(&self.dir, Path::new(kind)).is_none() {
                mkdirat(&self.dir, kind, mode).on("overlay", kind, "")?;
            }
            mkdirat(&self.dir, Path::new(kind).join(name), mode).on("overlay", name.display(), "")?;
        }
        let dir = Path::new(SCRATCH);
        let at = openat(
            &self.dir,
            Path::new("lower").join(name),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        );
        lower
            .attach_at(at.on("overlay", name.display(), "")?)
            .on("overlay", name.display(), "")?;
        let part = |kind: &str| dir.join(kind).join(name).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},userxattr",
            part("lower"),
            part("upper"),
            part("work")
        );
        let options = std::ffi::CString::new(options)
            .map_err(|_| failed("overlay", format!("{} has a zero byte in its name", name.display()), ""))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let hint = "a writable root, or an image with very many entries in its root, needs overlayfs in user namespaces \
            (Linux 5.11 or later)";
        mount("overlay", target, "overlay", flags, options.as_c_str()).on("overlay", name.display(), hint)
    }
}

/// The devices without which programs do not work, and no others.
fn devices(root: BorrowedFd<'_>) -> Result<()> {
    let dev = openat(
        root,
        "dev",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("dev", "")?;
    for name in ["null", "zero", "full", "random", "urandom"] {
        let tree = copy(CWD, &Path::new("/dev").join(name)).on("dev", name, "")?;
        mounts::set(
            &tree.fd,
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
            true,
        )
        .on("dev", name, "")?;
        mounts::file(&dev, Path::new(name)).on("dev", name, "")?;
        tree.attach_in(&dev, name)?;
    }
    for name in ["shm", "pts"] {
        mkdirat(&dev, name, Mode::from_raw_mode(0o755)).on("dev", name, "")?;
    }
    let options = [("ptmxmode", "0666"), ("mode", "0620")];
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = mounts::new("devpts", &options, flags).step("dev", "")?;
    pts.attach_in(&dev, "pts")?;
    for (name, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlinkat(to, &dev, name).on("dev", name, "")?;
    }
    Ok(())
}

/// What of `/proc` is about the host: some of it is not there, some cannot be written.
fn hide(root: BorrowedFd<'_>) -> Result<()> {
    const FILES: [&str; 8] = [
        "kcore",
        "keys",
        "key-users",
        "latency_stats",
        "timer_list",
        "sched_debug",
        "sysrq-trigger",
        "kallsyms",
    ];
    const FIXED: [&str; 7] = ["acpi", "asound", "scsi", "bus", "fs", "irq", "sys"];
    let dir = openat(
        root,
        "proc",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("proc", "")?;
    for name in FILES {
        if mounts::kind(&dir, Path::new(name)).is_some() {
            let null = copy(root, Path::new("dev/null")).on("proc", name, "")?;
            null.attach_in(&dir, name)?;
        }
    }
    for name in FIXED {
        if mounts::kind(&dir, Path::new(name)).is_some() {
            let same = copy(&dir, Path::new(name)).on("proc", name, "")?;
            same.restrict(true).on("proc", name, "")?;
            same.attach_in(&dir, name)?;
        }
    }
    Ok(())
}
