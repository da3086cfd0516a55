//! A filter of system calls as a program for the kernel: numbers with the same answer next to each other are one range,
//! and the ranges are searched by halves.
//!
//! `seccompiler` compares one number after the other. The kernel compiles the program, and runs it once for each number
//! that there is, when it is installed: with hundreds of them that took longer than everything else in a sandbox's lock.

use seccompiler::sock_filter;

use crate::calls::Verdict;

/// The first number that a verdict is for; it goes up to the next.
pub type Range = (u32, Verdict);

// Of linux/bpf_common.h and linux/seccomp.h.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `arch`: the only one that is answered; another one's call ends the process. `ranges` are sorted and begin with zero.
pub fn assemble(arch: u32, ranges: &[Range]) -> Vec<sock_filter> {
    let mut program = vec![
        load(ARCH),
        jump(IF_EQUAL, arch, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    program.extend(search(ranges));
    program
}

fn search(ranges: &[Range]) -> Vec<sock_filter> {
    if let [(_, verdict)] = ranges {
        return leaf(verdict);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let first_high = high[0].0;
    let (low, high) = (search(low), search(high));
    // Jumps on a condition are short, others are not.
    let mut program = match u8::try_from(low.len()) {
        Ok(over) => vec![jump(IF_AT_LEAST, first_high, over, 0)],
        Err(_) => vec![
            jump(IF_AT_LEAST, first_high, 0, 1),
            instruction(JUMP, 0, 0, low.len() as u32),
        ],
    };
    program.extend(low);
    program.extend(high);
    program
}

fn leaf(verdict: &Verdict) -> Vec<sock_filter> {
    let refuse = || answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let allow = || answer(libc::SECCOMP_RET_ALLOW);
    let one_of = |argument: &u32, values: &[u32], then: sock_filter, otherwise: sock_filter| {
        let tests = values.iter().enumerate().map(|(at, value)| {
            let to_then = values.len() - at;
            jump(IF_EQUAL, *value, to_then as u8, 0)
        });
        let mut program = vec![load(ARGUMENTS + 8 * argument)];
        program.extend(tests);
        program.extend([otherwise, then]);
        program
    };
    match verdict {
        Verdict::Allow => vec![allow()],
        Verdict::Missing => vec![answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32)],
        Verdict::Refuse => vec![refuse()],
        Verdict::Only(argument, values) => one_of(argument, values, allow(), refuse()),
        Verdict::Except(argument, values) => one_of(argument, values, refuse(), allow()),
        Verdict::Without(argument, bits) => vec![
            load(ARGUMENTS + 8 * argument),
            jump(IF_ANY_BIT, *bits, 1, 0),
            allow(),
            refuse(),
        ],
        Verdict::WithoutBoth((first, some), (second, more)) => vec![
            load(ARGUMENTS + 8 * first),
            jump(IF_ANY_BIT, *some, 0, 2),
            load(ARGUMENTS + 8 * second),
            jump(IF_ANY_BIT, *more, 1, 0),
            allow(),
            refuse(),
        ],
    }
}

/// The halves of an argument are in the order of the processor's bytes; ours have the low one first.
fn load(offset: u32) -> sock_filter {
    instruction(LOAD, 0, 0, offset)
}

fn jump(condition: u16, value: u32, then: u8, otherwise: u8) -> sock_filter {
    instruction(condition, then, otherwise, value)
}

fn answer(value: u32) -> sock_filter {
    instruction(RETURN, 0, 0, value)
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// As the kernel runs it.
#[cfg(test)]
pub fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let (mut at, mut value) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let branch = |yes: bool| usize::from(if yes { jt } else { jf });
        match code {
            LOAD => {
                value = match k {
                    NUMBER => number,
                    ARCH => arch,
                    _ => arguments[(k - ARGUMENTS) as usize / 8] as u32,
                }
            }
            JUMP => at += k as usize,
            IF_EQUAL => at += branch(value == k),
            IF_AT_LEAST => at += branch(value >= k),
            IF_ANY_BIT => at += branch(value & k != 0),
            RETURN => return k,
            other => panic!("no such instruction: {other:#x}"),
        }
    }
}
