//! Which calls of a session may run beside each other.
//!
//! Locks are granted in the order of the calls. A call starts once it conflicts with no call before it that is granted or
//! waits: so an edit and the command after it never change places, and eight commands run at once.

/// What one call holds while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    /// Nothing.
    Nothing,
    /// The session, with others.
    Read,
    /// The session, with others, and these files. Their real paths, if a caller knows more than the arguments say.
    Write(Vec<String>),
    /// The session, with other commands and with readers.
    Exec,
    /// The session, alone.
    Alone,
}

impl Lock {
    /// Whether a call with this lock has to wait for an earlier one with `earlier`.
    pub fn waits_for(&self, earlier: &Lock) -> bool {
        match (self, earlier) {
            (Lock::Nothing, _) | (_, Lock::Nothing) => false,
            (Lock::Alone, _) | (_, Lock::Alone) => true,
            (Lock::Write(mine), Lock::Write(theirs)) => mine.iter().any(|path| theirs.contains(path)),
            (Lock::Write(_), Lock::Exec) | (Lock::Exec, Lock::Write(_)) => true,
            (Lock::Read, Lock::Read | Lock::Write(_) | Lock::Exec) | (Lock::Write(_) | Lock::Exec, Lock::Read) => false,
            (Lock::Exec, Lock::Exec) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lock;

    #[test]
    fn who_waits_for_whom() {
        let write = |path: &str| Lock::Write(vec![path.to_owned()]);
        let locks = [
            Lock::Nothing,
            Lock::Read,
            write("a"),
            write("b"),
            Lock::Exec,
            Lock::Alone,
        ];
        // Rows: the later call. Columns: the earlier one.
        let expected = [
            [false, false, false, false, false, false],
            [false, false, false, false, false, true],
            [false, false, true, false, true, true],
            [false, false, false, true, true, true],
            [false, false, true, true, false, true],
            [false, true, true, true, true, true],
        ];
        for (later, row) in locks.iter().zip(expected) {
            for (earlier, waits) in locks.iter().zip(row) {
                assert_eq!(later.waits_for(earlier), waits, "{later:?} after {earlier:?}");
            }
        }
    }
}
