//! The system calls that a command may make.
//!
//! Two filters: the first knows what ordinary programs use, and answers "not implemented" to everything else, as an
//! older kernel would; the second answers "not permitted" to what would reach beyond the sandbox, so that programs see a
//! reason. The kernel asks both, and the stricter answer counts.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::calls::{ALLOWED, ALLOWED_HERE, REFUSED};
use super::step::{Result, failed};

pub fn install() -> Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH);
    let arch = arch.map_err(|_| failed("seccomp", "no filter for this processor", "x86-64 or aarch64 is needed"))?;
    for filter in [allowed(arch), refused(arch)] {
        let program = filter.and_then(BpfProgram::try_from);
        let applied = program
            .map_err(seccompiler::Error::from)
            .and_then(|program| seccompiler::apply_filter(&program));
        let hint = "the kernel must be built with CONFIG_SECCOMP_FILTER";
        applied.map_err(|error| failed("seccomp", error.to_string(), hint))?;
    }
    Ok(())
}

type Filter = std::result::Result<SeccompFilter, seccompiler::BackendError>;
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn allowed(arch: TargetArch) -> Filter {
    let numbers = ALLOWED.iter().chain(ALLOWED_HERE);
    let rules: Rules = numbers.map(|number| (*number, Vec::new())).collect();
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::ENOSYS as u32),
        SeccompAction::Allow,
        arch,
    )
}

fn refused(arch: TargetArch) -> Filter {
    let mut rules: Rules = REFUSED.iter().map(|number| (*number, Vec::new())).collect();
    // New namespaces. `clone3` hides its flags from a filter: it is not in the first list, and libc falls back.
    let namespaces = (libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | 0x80) as u64;
    let mut one_of = Vec::new();
    for bit in (0..64).map(|bit| 1u64 << bit).filter(|bit| namespaces & bit != 0) {
        one_of.push(rule(Condition::new(0, Len::Qword, Op::MaskedEq(bit), bit))?);
    }
    rules.insert(libc::SYS_clone, one_of);
    // Keys typed for another process of a terminal.
    let ioctl = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| Condition::new(1, Len::Dword, Op::Eq, request));
    rules.insert(
        libc::SYS_ioctl,
        ioctl.into_iter().map(rule).collect::<std::result::Result<_, _>>()?,
    );
    // Sockets that reach past a network namespace (vsock), or kernel code that few need.
    let mut other = Vec::new();
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
        other.push(Condition::new(0, Len::Dword, Op::Ne, family as u64)?);
    }
    let other = vec![SeccompRule::new(other)?];
    rules.insert(libc::SYS_socket, other.clone());
    rules.insert(libc::SYS_socketpair, other);
    // Only the usual personalities of Linux: others switch off protections.
    let mut odd = Vec::new();
    for usual in [0, 8, 0x20000, 0x20008, 0xffff_ffff] {
        odd.push(Condition::new(0, Len::Dword, Op::Ne, usual)?);
    }
    rules.insert(libc::SYS_personality, vec![SeccompRule::new(odd)?]);
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        arch,
    )
}

fn rule(
    condition: std::result::Result<Condition, seccompiler::BackendError>,
) -> std::result::Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![condition?])
}
