//! The seccomp filter: the system calls that a command may make.
//!
//! What ordinary programs use is allowed; what would reach beyond the sandbox is "not permitted", so that programs see a
//! reason; everything else is "not implemented", as an older kernel would say.

use std::collections::BTreeMap;

use seccompiler::BpfProgram;

use super::program::{Range, assemble};
use super::step::{Result, failed};
use crate::calls::{self, Verdict};

// Of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCH: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCH: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: Option<u32> = None;

/// `set_id`: see [`calls::verdicts`].
pub fn install(set_id: bool) -> Result<()> {
    let arch = ARCH.ok_or_else(|| failed("seccomp", "no filter for this processor", "x86-64 or aarch64 is needed"))?;
    let program: BpfProgram = assemble(arch, &ranges(set_id));
    let hint = "the kernel must be built with CONFIG_SECCOMP_FILTER";
    seccompiler::apply_filter(&program).map_err(|error| failed("seccomp", error.to_string(), hint))
}

fn ranges(set_id: bool) -> Vec<Range> {
    let mut ranges: Vec<Range> = vec![(0, Verdict::Missing)];
    let mut next = 0;
    let mut put = |first: u32, verdict: Verdict| match ranges.last_mut() {
        Some(last) if last.1 == verdict => {}
        Some(last) if last.0 == first => last.1 = verdict,
        _ => ranges.push((first, verdict)),
    };
    let verdicts = calls::verdicts(set_id).into_iter();
    let by_number: BTreeMap<i64, Verdict> = verdicts
        .filter_map(|(call, verdict)| Some((call.number?, verdict)))
        .collect();
    for (number, verdict) in by_number {
        let number = number as u32;
        if number > next {
            put(next, Verdict::Missing);
        }
        put(number, verdict);
        next = number + 1;
    }
    put(next, Verdict::Missing);
    ranges
}

#[cfg(test)]
mod tests {
    use super::super::program;
    use super::*;
    use crate::calls::{ALLOWED, Call, OLD, REFUSED, RENUMBERED};

    /// As in linux/sched.h, with `CLONE_NEWTIME`.
    const NAMESPACES: i32 = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | 0x80;

    const THIS: u32 = 0xc000_003e;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    fn asked(number: i64, arguments: [u64; 6]) -> u32 {
        program::run(&assemble(THIS, &ranges(false)), THIS, number as u32, arguments)
    }

    #[test]
    fn every_number_has_the_answer_of_its_list() {
        let program = assemble(THIS, &ranges(false));
        let with_conditions = [
            libc::SYS_clone,
            libc::SYS_ioctl,
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_personality,
        ];
        let has = |list: &[Call], number: i64| list.iter().any(|call| call.number == Some(number));
        assert!(!has(ALLOWED, libc::SYS_openat2), "its mode cannot be seen");
        for number in (0..2000).chain([0x4000_0000, 0x4000_0001, 0xffff_ffff]) {
            if with_conditions.contains(&number) {
                continue;
            }
            let expected = if has(REFUSED, number) {
                REFUSE
            } else if [ALLOWED, RENUMBERED, OLD].into_iter().any(|list| has(list, number)) {
                ALLOW
            } else {
                MISSING
            };
            assert_eq!(
                program::run(&program, THIS, number as u32, [0; 6]),
                expected,
                "{number}"
            );
        }
    }

    #[test]
    fn some_are_asked_for_what() {
        let first = |value: u64| [value, 0, 0, 0, 0, 0];
        assert_eq!(asked(libc::SYS_clone, first(libc::SIGCHLD as u64)), ALLOW);
        for bit in (0..32).filter(|bit| NAMESPACES as u32 & (1 << bit) != 0) {
            assert_eq!(asked(libc::SYS_clone, first(1 << bit)), REFUSE);
        }
        for socket in [libc::SYS_socket, libc::SYS_socketpair] {
            for family in 0..64 {
                let usual = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].contains(&family);
                assert_eq!(asked(socket, first(family as u64)), if usual { ALLOW } else { REFUSE });
            }
        }
        let second = |value: u64| [0, value, 0, 0, 0, 0];
        assert_eq!(asked(libc::SYS_ioctl, second(0x5401)), ALLOW);
        assert_eq!(asked(libc::SYS_ioctl, second(libc::TIOCSTI)), REFUSE);
        // The kernel looks at the low half alone.
        assert_eq!(asked(libc::SYS_ioctl, second(libc::TIOCLINUX | 1 << 32)), REFUSE);
        assert_eq!(asked(libc::SYS_personality, first(0xffff_ffff)), ALLOW);
        assert_eq!(asked(libc::SYS_personality, first(0x0040_0000)), REFUSE);
    }

    #[test]
    fn set_id_and_devices_are_seen_wherever_a_mode_is() {
        let program = |set_id| assemble(THIS, &ranges(set_id));
        let (strict, lenient) = (program(false), program(true));
        let at = |index: usize, mode: u64| {
            let mut arguments = [0; 6];
            arguments[index] = mode;
            arguments
        };
        let calls = [
            (libc::SYS_chmod, 1),
            (libc::SYS_fchmod, 1),
            (libc::SYS_fchmodat, 2),
            (libc::SYS_fchmodat2, 2),
            (libc::SYS_creat, 1),
            (libc::SYS_mknod, 1),
            (libc::SYS_mknodat, 2),
        ];
        let run = |program: &BpfProgram, number: i64, arguments| program::run(program, THIS, number as u32, arguments);
        for (number, index) in calls {
            for mode in [0o4755, 0o2755, 0o6000, 0o10_4755] {
                assert_eq!(run(&strict, number, at(index, mode)), REFUSE, "{number} {mode:o}");
                assert_eq!(run(&lenient, number, at(index, mode)), ALLOW, "{number} {mode:o}");
            }
            assert_eq!(run(&strict, number, at(index, 0o1777)), ALLOW, "{number}");
        }
        for (number, index) in [(libc::SYS_mknod, 1), (libc::SYS_mknodat, 2)] {
            for (kind, answer) in [
                (0o2_0000, REFUSE),
                (0o6_0000, REFUSE),
                (0o1_0000, ALLOW),
                (0o14_0000, ALLOW),
            ] {
                assert_eq!(run(&lenient, number, at(index, kind | 0o644)), answer, "{kind:o}");
            }
        }
        for (number, flags) in [(libc::SYS_open, 1), (libc::SYS_openat, 2)] {
            for making in [libc::O_CREAT, libc::O_TMPFILE, libc::O_CREAT | libc::O_WRONLY] {
                let mut arguments = at(flags, making as u64);
                arguments[flags + 1] = 0o4755;
                assert_eq!(run(&strict, number, arguments), REFUSE);
                assert_eq!(run(&lenient, number, arguments), ALLOW);
            }
            // Without a file to make the mode is whatever lay around.
            let mut arguments = at(flags, (libc::O_RDONLY | libc::O_DIRECTORY) as u64);
            arguments[flags + 1] = 0o7777;
            assert_eq!(run(&strict, number, arguments), ALLOW);
        }
    }

    #[test]
    fn another_abi_is_death() {
        let program = assemble(THIS, &ranges(false));
        for other in [0x4000_0003, 0xc000_00b7, 0] {
            assert_eq!(program::run(&program, other, 1, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        }
    }

    #[test]
    fn it_is_short() {
        let program = assemble(THIS, &ranges(false));
        assert!(program.len() < 300, "{} instructions", program.len());
    }
}
