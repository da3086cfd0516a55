//! `/etc` for the host's programs: what they need to find libraries, users, zones and certificates, and nothing that is
//! about this host or its people.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, openat};

use crate::spec::{Network, Run};

use super::mounts::{self, copy};
use super::step::{Result, Step};

/// Taken from the host where it has them.
const TAKEN: [&str; 9] = [
    "alternatives",
    "ld.so.cache",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls",
    "pki/ca-trust",
    "localtime",
    "os-release",
    "services",
];

pub fn fill(root: BorrowedFd<'_>, run: &Run) -> Result<()> {
    let host = openat(
        CWD,
        "/etc",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("etc", "")?;
    for name in TAKEN {
        let path = Path::new(name);
        let target = Path::new("/etc").join(name);
        match mounts::kind(&host, path) {
            Some(FileType::Symlink) => link(root, &host, path)?,
            Some(FileType::Directory | FileType::RegularFile) => {
                // One that this user may not see is one that its programs do without.
                let Ok(tree) = copy(&host, path) else { continue };
                tree.restrict(true).on("etc", name, "")?;
                tree.attach(root, &target)?;
            }
            _ => {}
        }
    }
    let user = run.user;
    let mut passwd = String::from("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n");
    let mut group = String::from("root:x:0:\nnogroup:x:65534:\n");
    if user.uid != 0 && user.uid != 65534 {
        passwd += &format!("sandbox:x:{}:{}:sandbox:/tmp:/bin/sh\n", user.uid, user.gid);
    }
    if user.gid != 0 && user.gid != 65534 {
        group += &format!("sandbox:x:{}:\n", user.gid);
    }
    let etc = openat(root, "etc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step("etc", "")?;
    write(&etc, "passwd", &passwd)?;
    write(&etc, "group", &group)?;
    write(&etc, "hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
    write(&etc, "hostname", &format!("{}\n", hostname(run)))?;
    write(&etc, "nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
    let resolver = match run.network {
        Network::None => String::new(),
        Network::HostUnsafe => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    write(&etc, "resolv.conf", &resolver)
}

pub fn hostname(run: &Run) -> &str {
    if run.hostname.is_empty() {
        "sandbox"
    } else {
        &run.hostname
    }
}

fn link(root: BorrowedFd<'_>, host: impl AsFd, path: &Path) -> Result<()> {
    let to = rustix::fs::readlinkat(host, path, Vec::new()).on("etc", path.display(), "")?;
    let target = Path::new("etc").join(path);
    if let Some(parent) = target.parent() {
        mounts::place(root, &Path::new("/").join(parent), true)?;
    }
    rustix::fs::symlinkat(to, root, &target).on("etc", path.display(), "")
}

fn write(etc: &OwnedFd, name: &str, text: &str) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(etc, name, flags, Mode::from_raw_mode(0o644)).on("etc", name, "")?;
    std::io::Write::write_all(&mut std::fs::File::from(file), text.as_bytes()).on("etc", name, "")
}
