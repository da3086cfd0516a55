//! User namespaces and their maps: who is who inside and on disk.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::spec::User;
use crate::sys;

use super::step::{Result, Step, USERNS_HINT};
use super::wire;

/// One user inside is one user outside, and there are no others.
pub fn write(pid: i32, inside: User, outside: User, privileged: bool) -> Result<()> {
    let dir = Path::new("/proc").join(pid.to_string());
    let put = |name: &str, text: String| fs::write(dir.join(name), text).on("user-namespace", name, USERNS_HINT);
    if !privileged {
        put("setgroups", "deny".into())?;
    }
    put("gid_map", format!("{} {} 1\n", inside.gid, outside.gid))?;
    put("uid_map", format!("{} {} 1\n", inside.uid, outside.uid))
}

/// A user namespace that is only a map for a mount: `on_disk` is seen as `outside`. Needs root.
pub fn for_mount(on_disk: User, outside: User) -> Result<OwnedFd> {
    let (ours, theirs) = wire::pair().step("id-map", "")?;
    let Some(pid) = sys::clone(libc::CLONE_NEWUSER, None).step("id-map", USERNS_HINT)? else {
        drop(ours);
        // Ends when the other side is closed, also by the death of its owner.
        let _ = wire::wait_for_go(&theirs);
        std::process::exit(0);
    };
    drop(theirs);
    let made =
        write(pid, on_disk, outside, true).and_then(|()| File::open(format!("/proc/{pid}/ns/user")).step("id-map", ""));
    drop(ours);
    let child = Pid::from_raw(pid);
    let _ = rustix::io::retry_on_intr(|| waitpid(child, WaitOptions::empty()));
    Ok(made?.into())
}
