//! The system calls that a command may make, by name and by number: the one source of the filter that the sandbox
//! installs (`helper/filter.rs`) and of the profile that Docker and Podman are given (`profile.rs`).

use std::collections::BTreeMap;

/// A system call of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub name: &'static str,
    /// `None` where this processor, or this system, does not have the call.
    pub number: Option<i64>,
}

/// How a system call is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// As an older kernel would answer.
    Missing,
    Refuse,
    /// Refused unless the low half of this argument is one of these.
    Only(u32, Vec<u32>),
    /// Refused if the low half of this argument is one of these.
    Except(u32, Vec<u32>),
    /// Refused if one of these bits is set in the low half of this argument.
    Without(u32, u32),
    /// Refused if of both arguments one of the bits given with it is set in the low half.
    WithoutBoth((u32, u32), (u32, u32)),
}

/// New namespaces. `clone3` hides its flags from a filter: it is not allowed, and libc falls back.
/// `CLONE_NEWTIME`, `CLONE_NEWNS`, `CLONE_NEWCGROUP`; `CLONE_NEWUTS` to `CLONE_NEWNET`.
const NAMESPACES: u32 = 0x80 | 0x2_0000 | 0x200_0000 | 0x7c00_0000;
/// Bits of a mode: set-user-id and set-group-id; devices of both kinds.
const SET_ID: u32 = 0o6000;
const DEVICE: u32 = 0o2_0000;
/// Flags of `open` that make a file: `O_CREAT`, and the bit of `O_TMPFILE` that it does not share with `O_DIRECTORY`.
const MAKES: u32 = 0o100 | 0o2000_0000;
/// `AF_UNIX`, `AF_INET`, `AF_INET6`, `AF_NETLINK`. Sockets that reach past a network namespace (vsock), or kernel code
/// that few need, are not among these.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];
/// `TIOCSTI`, `TIOCLINUX`: keys typed for another process of a terminal.
const TYPED: [u32; 2] = [0x5412, 0x541c];
/// The usual personalities of Linux; others switch off protections.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];

/// A call that every processor has.
macro_rules! anywhere {
    ($call:ident) => {
        Call {
            name: name(stringify!($call)),
            #[cfg(target_os = "linux")]
            number: Some(libc::$call),
            #[cfg(not(target_os = "linux"))]
            number: None,
        }
    };
}
/// A call that newer processors do without.
macro_rules! old {
    ($call:ident) => {
        Call {
            name: name(stringify!($call)),
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            number: Some(libc::$call),
            #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
            number: None,
        }
    };
}
macro_rules! list {
    ($kind:ident: $($call:ident),* $(,)?) => { &[$($kind!($call)),*] };
}

/// Without the `SYS_` that libc has before it.
const fn name(constant: &'static str) -> &'static str {
    constant.split_at(4).1
}

/// A call that libc does not name everywhere.
const fn numbered(name: &'static str, x86_64: i64, aarch64: i64) -> Call {
    let number = if cfg!(not(target_os = "linux")) {
        None
    } else if cfg!(target_arch = "x86_64") {
        Some(x86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(aarch64)
    } else {
        None
    };
    Call { name, number }
}

/// Every call that has an answer of its own; all others are [`Verdict::Missing`].
///
/// `set_id`: programs may be given the rights of their owner (set-user-id), see `Run::may_set_ids`.
/// It is a matter of arguments; a call that hides them behind a pointer (`openat2`) is not implemented.
pub fn verdicts(set_id: bool) -> Vec<(Call, Verdict)> {
    let set = if set_id { 0 } else { SET_ID };
    let families = || Verdict::Only(0, FAMILIES.to_vec());
    let looked_at = [
        (anywhere!(SYS_clone), Verdict::Without(0, NAMESPACES)),
        (anywhere!(SYS_ioctl), Verdict::Except(1, TYPED.to_vec())),
        (anywhere!(SYS_socket), families()),
        (anywhere!(SYS_socketpair), families()),
        (anywhere!(SYS_personality), Verdict::Only(0, PERSONALITIES.to_vec())),
        (anywhere!(SYS_fchmod), Verdict::Without(1, set)),
        (anywhere!(SYS_fchmodat), Verdict::Without(2, set)),
        (FCHMODAT2, Verdict::Without(2, set)),
        (anywhere!(SYS_mknodat), Verdict::Without(2, set | DEVICE)),
        (anywhere!(SYS_openat), Verdict::WithoutBoth((2, MAKES), (3, set))),
        (old!(SYS_chmod), Verdict::Without(1, set)),
        (old!(SYS_creat), Verdict::Without(1, set)),
        (old!(SYS_mknod), Verdict::Without(1, set | DEVICE)),
        (old!(SYS_open), Verdict::WithoutBoth((1, MAKES), (2, set))),
    ];
    let plain = |calls: &'static [Call], verdict: Verdict| calls.iter().map(move |call| (*call, verdict.clone()));
    let allowed = [ALLOWED, RENUMBERED, OLD]
        .into_iter()
        .flat_map(|calls| plain(calls, Verdict::Allow));
    // In this order: a later one replaces an earlier one.
    let all = allowed.chain(plain(REFUSED, Verdict::Refuse)).chain(looked_at);
    all.collect::<BTreeMap<Call, Verdict>>().into_iter().collect()
}

const FCHMODAT2: Call = numbered("fchmodat2", 452, 452);

/// What ordinary programs use.
#[rustfmt::skip]
pub const ALLOWED: &[Call] = list![anywhere:
    SYS_accept, SYS_accept4, SYS_bind, SYS_brk, SYS_capget, SYS_capset, SYS_chdir, SYS_clock_getres,
    SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone, SYS_close, SYS_close_range, SYS_connect, SYS_copy_file_range,
    SYS_dup, SYS_dup3, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2,
    SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_faccessat, SYS_faccessat2, SYS_fadvise64, SYS_fallocate,
    SYS_fchdir, SYS_fchmod, SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_fcntl, SYS_fdatasync, SYS_fgetxattr,
    SYS_flistxattr, SYS_flock, SYS_fremovexattr, SYS_fsetxattr, SYS_fstat, SYS_fstatfs, SYS_fsync, SYS_ftruncate,
    SYS_futex, SYS_futex_waitv, SYS_get_robust_list, SYS_getcpu, SYS_getcwd, SYS_getdents64, SYS_getegid,
    SYS_geteuid, SYS_getgid, SYS_getgroups, SYS_getitimer, SYS_getpeername, SYS_getpgid, SYS_getpid, SYS_getppid,
    SYS_getpriority, SYS_getrandom, SYS_getresgid, SYS_getresuid, SYS_getrusage, SYS_getsid, SYS_getsockname,
    SYS_getsockopt, SYS_gettid, SYS_gettimeofday, SYS_getuid, SYS_getxattr, SYS_inotify_add_watch,
    SYS_inotify_init1, SYS_inotify_rm_watch, SYS_io_cancel, SYS_io_destroy, SYS_io_getevents, SYS_io_setup,
    SYS_io_submit, SYS_ioctl, SYS_ioprio_get, SYS_ioprio_set, SYS_kill, SYS_landlock_add_rule,
    SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_lgetxattr, SYS_linkat, SYS_listen, SYS_listxattr,
    SYS_llistxattr, SYS_lremovexattr, SYS_lseek, SYS_lsetxattr, SYS_madvise, SYS_membarrier, SYS_memfd_create,
    SYS_mincore, SYS_mkdirat, SYS_mknodat, SYS_mlock, SYS_mlock2, SYS_mlockall, SYS_mmap, SYS_mprotect,
    SYS_mq_getsetattr, SYS_mq_notify, SYS_mq_open, SYS_mq_timedreceive, SYS_mq_timedsend, SYS_mq_unlink, SYS_mremap,
    SYS_msgctl, SYS_msgget, SYS_msgrcv, SYS_msgsnd, SYS_msync, SYS_munlock, SYS_munlockall, SYS_munmap,
    SYS_nanosleep, SYS_newfstatat, SYS_openat, SYS_personality, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_pipe2,
    SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect, SYS_ppoll, SYS_prctl, SYS_pread64, SYS_preadv, SYS_preadv2,
    SYS_prlimit64, SYS_process_madvise, SYS_process_mrelease, SYS_pselect6, SYS_pwrite64, SYS_pwritev, SYS_pwritev2,
    SYS_read, SYS_readahead, SYS_readlinkat, SYS_readv, SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg,
    SYS_remap_file_pages, SYS_removexattr, SYS_renameat2, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction,
    SYS_rt_sigpending, SYS_rt_sigprocmask, SYS_rt_sigqueueinfo, SYS_rt_sigreturn, SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait, SYS_rt_tgsigqueueinfo, SYS_sched_get_priority_max, SYS_sched_get_priority_min,
    SYS_sched_getaffinity, SYS_sched_getattr, SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_rr_get_interval,
    SYS_sched_setaffinity, SYS_sched_setattr, SYS_sched_setparam, SYS_sched_setscheduler, SYS_sched_yield,
    SYS_seccomp, SYS_semctl, SYS_semget, SYS_semop, SYS_semtimedop, SYS_sendfile, SYS_sendmmsg, SYS_sendmsg,
    SYS_sendto, SYS_set_robust_list, SYS_set_tid_address, SYS_setfsgid, SYS_setfsuid, SYS_setgid, SYS_setgroups,
    SYS_setitimer, SYS_setpgid, SYS_setpriority, SYS_setregid, SYS_setresgid, SYS_setresuid, SYS_setreuid,
    SYS_setsid, SYS_setsockopt, SYS_setuid, SYS_setxattr, SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_shmget,
    SYS_shutdown, SYS_sigaltstack, SYS_signalfd4, SYS_socket, SYS_socketpair, SYS_splice, SYS_statfs, SYS_statx,
    SYS_symlinkat, SYS_sync, SYS_syncfs, SYS_sysinfo, SYS_tee, SYS_tgkill, SYS_timer_create, SYS_timer_delete,
    SYS_timer_getoverrun, SYS_timer_gettime, SYS_timer_settime, SYS_timerfd_create, SYS_timerfd_gettime,
    SYS_timerfd_settime, SYS_times, SYS_tkill, SYS_truncate, SYS_umask, SYS_uname, SYS_unlinkat, SYS_utimensat,
    SYS_vmsplice, SYS_wait4, SYS_waitid, SYS_write, SYS_writev,
];

/// What ordinary programs use, under numbers that libc does not have for each processor.
pub const RENUMBERED: &[Call] = &[
    numbered("renameat", 264, 38),
    numbered("sync_file_range", 277, 84),
    numbered("getrlimit", 97, 163),
    numbered("setrlimit", 160, 164),
    FCHMODAT2,
];

/// What newer processors do without.
#[rustfmt::skip]
pub const OLD: &[Call] = list![old:
    SYS_access, SYS_alarm, SYS_arch_prctl, SYS_chmod, SYS_chown, SYS_creat, SYS_dup2, SYS_epoll_create,
    SYS_epoll_wait, SYS_eventfd, SYS_fork, SYS_futimesat, SYS_getdents, SYS_getpgrp, SYS_inotify_init, SYS_lchown,
    SYS_link, SYS_lstat, SYS_mkdir, SYS_mknod, SYS_open, SYS_pause, SYS_pipe, SYS_poll, SYS_readlink, SYS_rename,
    SYS_rmdir, SYS_select, SYS_signalfd, SYS_stat, SYS_symlink, SYS_time, SYS_unlink, SYS_utime, SYS_utimes,
    SYS_vfork,
];

/// What reaches beyond the sandbox, or far into the kernel.
#[rustfmt::skip]
pub const REFUSED: &[Call] = list![anywhere:
    SYS_acct, SYS_add_key, SYS_adjtimex, SYS_bpf, SYS_chroot, SYS_clock_adjtime, SYS_clock_settime,
    SYS_delete_module, SYS_fanotify_init, SYS_finit_module, SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_fspick,
    SYS_get_mempolicy, SYS_init_module, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup, SYS_kcmp,
    SYS_kexec_load, SYS_keyctl, SYS_lookup_dcookie, SYS_mbind, SYS_migrate_pages, SYS_mount, SYS_mount_setattr,
    SYS_move_mount, SYS_move_pages, SYS_name_to_handle_at, SYS_nfsservctl, SYS_open_by_handle_at, SYS_open_tree,
    SYS_perf_event_open, SYS_pidfd_getfd, SYS_pivot_root, SYS_process_vm_readv, SYS_process_vm_writev, SYS_ptrace,
    SYS_quotactl, SYS_quotactl_fd, SYS_reboot, SYS_request_key, SYS_set_mempolicy, SYS_setdomainname,
    SYS_sethostname, SYS_setns, SYS_settimeofday, SYS_swapoff, SYS_swapon, SYS_syslog, SYS_umount2, SYS_unshare,
    SYS_userfaultfd, SYS_vhangup,
];

/// Calls that are not implemented, by name. The filter of the sandbox answers so to every call that it does not know. A
/// profile of Docker or Podman has to name them: it refuses what it does not know, and libc goes on with an older call
/// only where the new one is not implemented.
#[rustfmt::skip]
pub const MISSING: &[&str] = &[
    "_sysctl", "afs_syscall", "cachestat", "clone3", "create_module", "epoll_ctl_old", "epoll_wait_old",
    "fanotify_mark", "file_getattr", "file_setattr", "futex_requeue", "futex_wait", "futex_wake", "get_kernel_syms",
    "get_thread_area", "getpmsg", "getxattrat", "ioperm", "iopl", "kexec_file_load", "listmount", "listns",
    "listxattrat", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "map_shadow_stack", "memfd_secret",
    "modify_ldt", "mseal", "open_tree_attr", "openat2", "putpmsg", "query_module", "removexattrat", "security",
    "set_mempolicy_home_node", "set_thread_area", "setxattrat", "statmount", "sysfs", "tuxcall", "uprobe",
    "uretprobe", "uselib", "ustat", "vserver",
];

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn constants_are_those_of_this_system() {
        let namespaces = [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWCGROUP,
            // CLONE_NEWTIME.
            0x80,
        ];
        assert_eq!(NAMESPACES, namespaces.iter().fold(0, |all, one| all | *one as u32));
        let makes = libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY);
        assert_eq!(MAKES, makes as u32);
        let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        assert_eq!(FAMILIES, families.map(|family| family as u32));
        assert_eq!(TYPED, [libc::TIOCSTI as u32, libc::TIOCLINUX as u32]);
        assert_eq!(SET_ID, libc::S_ISUID | libc::S_ISGID);
        for kind in [libc::S_IFCHR, libc::S_IFBLK] {
            assert_ne!(kind & DEVICE, 0);
        }
    }

    #[test]
    fn a_name_has_one_answer() {
        let mut names: Vec<&str> = verdicts(false).iter().map(|(call, _)| call.name).collect();
        names.extend(MISSING);
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(names.iter().all(|name| !name.starts_with("SYS_")));
        #[cfg(target_arch = "x86_64")]
        for (name, number) in [
            ("renameat", libc::SYS_renameat),
            ("sync_file_range", libc::SYS_sync_file_range),
            ("getrlimit", libc::SYS_getrlimit),
            ("setrlimit", libc::SYS_setrlimit),
            ("fchmodat2", libc::SYS_fchmodat2),
        ] {
            assert!(
                RENUMBERED.contains(&Call {
                    name,
                    number: Some(number)
                }),
                "{name}"
            );
        }
    }
}
