//! Random numbers for ids.

use std::cell::RefCell;

/// Numbers that the kernel is asked for at once: a system call for each id would be a good part of storing a message.
const AT_ONCE: usize = 64;

pub(super) fn number() -> u64 {
    thread_local! {
        static LEFT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }
    LEFT.with_borrow_mut(|left| {
        if left.is_empty() {
            let mut bytes = [0; 8 * AT_ONCE];
            getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
            left.extend(bytes.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes)));
        }
        left.pop().expect("it was just filled")
    })
}
