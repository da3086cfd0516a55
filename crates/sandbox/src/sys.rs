//! The system calls that have no safe wrapper: the only file with `unsafe`.
//!
//! All of them are made by a process with one thread.

#![expect(unsafe_code, reason = "system calls that neither nix nor rustix wraps safely")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SigHandler, Signal, signal};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// `None` in the child.
pub fn fork() -> io::Result<Option<i32>> {
    clone(0, None)
}

/// Forks into new namespaces, and into a control group of version 2. `None` in the child.
pub fn clone(namespaces: i32, group: Option<BorrowedFd<'_>>) -> io::Result<Option<i32>> {
    let pid = match group {
        Some(group) => {
            let arguments = CloneArguments {
                flags: namespaces as u64 | CLONE_INTO_CGROUP,
                exit_signal: libc::SIGCHLD as u64,
                cgroup: group.as_raw_fd() as u64,
                ..CloneArguments::default()
            };
            // SAFETY: as below; the structure is as large as it says, and outlives the call.
            unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) }
        }
        None => {
            let flags = (namespaces | libc::SIGCHLD) as libc::c_ulong;
            // SAFETY: without CLONE_VM and with no stack of its own this is a fork, and there is only this thread.
            unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) }
        }
    };
    let pid = check(pid)?;
    Ok((pid != 0).then_some(pid as i32))
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` up to its third version.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Changes a mount and everything below it, or it alone.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    propagation: u64,
    idmap: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    let attr = MountAttr {
        set: set | if idmap.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 },
        clear: 0,
        propagation,
        userns: idmap.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a string with an end, the structure is as large as it says, both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

/// Whether the effective user of this process may do this with what the handle stands for.
pub fn may(file: BorrowedFd<'_>, access: libc::c_int) -> io::Result<()> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: the path is a string with an end, which the call only reads.
    let result = unsafe { libc::syscall(libc::SYS_faccessat2, file.as_raw_fd(), c"".as_ptr(), access, flags) };
    check(result).map(drop)
}

/// Leaves the caller's keys behind: a new, empty session keyring.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) };
    match check(result) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(drop),
    }
}

/// Brings up the loopback interface of the network namespace that this process is in.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is plain data, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: this request reads one `ifreq`, which is initialised and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// Marks a range of descriptors to be closed on exec, or closes them now.
pub fn close_range(first: RawFd, last: u32, on_exec: bool) -> io::Result<()> {
    let flags = if on_exec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: closing touches no memory; callers pass ranges in which this process holds nothing that it uses later.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// Takes over a descriptor that was given by number when this process was executed.
pub fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the number comes from the command line; the caller who executed us gave the descriptor away.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// All signals as a new program expects them.
pub fn default_signals() {
    for number in Signal::iterator() {
        // SAFETY: the default disposition runs no code of this process. Those that cannot be set stay as they are.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
    // SAFETY: as above, for the signals without a name.
    for number in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// The version of Landlock that this kernel has; zero: none.
pub fn landlock_version() -> u32 {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag a null attribute of size zero is what the call expects.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// Whether the kernel takes system call filters at all.
pub fn has_seccomp() -> bool {
    const GET_ACTION_AVAIL: libc::c_ulong = 2;
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the call reads one u32, which outlives it.
    unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Runs a program in place of this one. Returns only if that failed.
pub fn execute(path: &str, arguments: &[CString], environment: &[CString]) -> io::Error {
    let Ok(path) = CString::new(path) else {
        return io::Error::from_raw_os_error(libc::EINVAL);
    };
    match nix::unistd::execve(&path, arguments, environment) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;

    /// Where there is a hierarchy of version 2 in which this user may make a group, whatever controllers it has.
    #[test]
    fn a_process_is_made_in_a_group() {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let Some(group) = mounts.iter().find_map(|mount| {
            let group = format!("{mount}/{own}/nexus-test-{}", std::process::id());
            fs::metadata(format!("{mount}/cgroup.controllers")).ok()?;
            fs::create_dir(&group).ok()?;
            Some(group)
        }) else {
            return;
        };
        let directory = fs::File::open(&group).expect("it was just made");
        match clone(0, Some(directory.as_fd())) {
            Ok(None) => {
                // Only what a process with one thread may do after a fork of one with many.
                // SAFETY: it touches no memory.
                unsafe { libc::pause() };
                unsafe { libc::_exit(0) }
            }
            Ok(Some(pid)) => {
                let inside = fs::read_to_string(format!("{group}/cgroup.procs")).expect("it can be read");
                let child = nix::unistd::Pid::from_raw(pid);
                nix::sys::signal::kill(child, Signal::SIGKILL).expect("it is ours");
                nix::sys::wait::waitpid(child, None).expect("it is ours");
                fs::remove_dir(&group).expect("it is empty");
                assert_eq!(inside.trim(), pid.to_string());
            }
            Err(error) => {
                fs::remove_dir(&group).expect("it is empty");
                panic!("{error}");
            }
        }
    }
}
