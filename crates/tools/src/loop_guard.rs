//! Notices an agent that goes in a circle: the same call with the same result again and again, or one tool that it keeps
//! calling wrongly. Pure: it is told what happened and says what to do.

use std::collections::{HashMap, HashSet};

use sha2::{Digest as _, Sha256};

use crate::error::Code;

/// The time of the same call and result at which the model gets a note.
pub const NOTE_AT: u32 = 3;
/// The time at which the call is refused.
pub const REFUSE_AT: u32 = 5;
/// The time at which the run ends.
pub const END_AT: u32 = 6;
/// Errors about the name or the arguments of one tool, in a row, that end the run.
pub const INVALID_IN_A_ROW: u32 = 3;
/// Calls that are remembered. A circle that is longer is found by the limit of steps.
const REMEMBERED: usize = 4096;

/// What to do about a call before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it may start.
    Go,
    /// It may start, and the model is told that it made the same call with the same result before.
    Note {
        /// Which time it is, from 1.
        time: u32,
    },
    /// It is refused; the model is told why.
    Refuse {
        /// Which time it is, from 1.
        time: u32,
    },
    /// The run ends.
    End {
        /// Which time it is, from 1.
        time: u32,
    },
}

/// What a run did so far, as far as circles go.
#[derive(Debug, Clone, Default)]
pub struct LoopGuard {
    /// By the digest of name and arguments: its last result and how often in a row it came.
    calls: HashMap<[u8; 32], Seen>,
    /// By tool: errors about name or arguments since its last good call.
    invalid: HashMap<String, u32>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    result: [u8; 32],
    times: u32,
}

impl LoopGuard {
    /// Whether a call may start. `arguments` is their canonical text, or the text the model sent if it is not valid.
    /// A refused call counts: [`LoopGuard::refused`] has to be told.
    pub fn before(&self, tool: &str, arguments: &str) -> Verdict {
        let time = self.calls.get(&key(tool, arguments)).map_or(0, |seen| seen.times) + 1;
        match time {
            time if time >= END_AT => Verdict::End { time },
            time if time >= REFUSE_AT => Verdict::Refuse { time },
            time if time >= NOTE_AT => Verdict::Note { time },
            _ => Verdict::Go,
        }
    }

    /// A call was refused by [`LoopGuard::before`].
    pub fn refused(&mut self, tool: &str, arguments: &str) {
        if let Some(seen) = self.calls.get_mut(&key(tool, arguments)) {
            seen.times += 1;
        }
    }

    /// A call has ended with this text for the model. `wrote`: it changed something, so that the same call may have
    /// another result now; a test after an edit is no circle.
    pub fn after(&mut self, tool: &str, arguments: &str, result: &str, wrote: bool) {
        self.invalid.remove(tool);
        if wrote {
            self.calls.clear();
        }
        self.count(tool, arguments, result);
    }

    /// A call was answered with an error before it could start. True: the run ends, since it is the third in a row about
    /// the name or the arguments of this tool.
    pub fn failed_early(&mut self, tool: &str, arguments: &str, code: Code, result: &str) -> bool {
        self.count(tool, arguments, result);
        if !matches!(code, Code::InvalidArguments | Code::UnknownTool) {
            return false;
        }
        if self.invalid.len() >= REMEMBERED {
            self.invalid.clear();
        }
        let times = self.invalid.entry(tool.to_owned()).or_default();
        *times += 1;
        *times >= INVALID_IN_A_ROW
    }

    /// Tools that were called wrongly, and how often in a row.
    pub fn invalid(&self) -> HashSet<(&str, u32)> {
        self.invalid
            .iter()
            .map(|(tool, times)| (tool.as_str(), *times))
            .collect()
    }

    fn count(&mut self, tool: &str, arguments: &str, result: &str) {
        if self.calls.len() >= REMEMBERED {
            self.calls.clear();
        }
        let result = digest(&[result]);
        let seen = self
            .calls
            .entry(key(tool, arguments))
            .or_insert(Seen { result, times: 0 });
        if seen.result != result {
            *seen = Seen { result, times: 0 };
        }
        seen.times += 1;
    }
}

fn key(tool: &str, arguments: &str) -> [u8; 32] {
    digest(&[tool, arguments])
}

fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::{LoopGuard, Verdict};
    use crate::error::Code;

    /// One round: asks, and tells what follows from the answer.
    fn round(guard: &mut LoopGuard, result: &str, wrote: bool) -> Verdict {
        let verdict = guard.before("exec", "{\"command\":\"make\"}");
        match verdict {
            Verdict::Go | Verdict::Note { .. } => guard.after("exec", "{\"command\":\"make\"}", result, wrote),
            Verdict::Refuse { .. } => guard.refused("exec", "{\"command\":\"make\"}"),
            Verdict::End { .. } => {}
        }
        verdict
    }

    #[test]
    fn the_third_time_is_noted_the_fifth_refused_the_sixth_ends() {
        let mut guard = LoopGuard::default();
        let verdicts: Vec<Verdict> = (0..6).map(|_| round(&mut guard, "error", false)).collect();
        let expected = [
            Verdict::Go,
            Verdict::Go,
            Verdict::Note { time: 3 },
            Verdict::Note { time: 4 },
            Verdict::Refuse { time: 5 },
            Verdict::End { time: 6 },
        ];
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn another_result_or_something_written_between_begins_anew() {
        let mut guard = LoopGuard::default();
        for n in 0..20 {
            assert_eq!(round(&mut guard, &format!("run {n}"), false), Verdict::Go);
        }
        let mut guard = LoopGuard::default();
        for _ in 0..20 {
            assert_eq!(round(&mut guard, "1 test failed", false), Verdict::Go);
            guard.after("edit_file", "{}", "done", true);
        }
    }

    #[test]
    fn calls_are_told_apart_by_name_and_arguments() {
        let mut guard = LoopGuard::default();
        for n in 0..20 {
            let arguments = format!("{{\"path\":\"{n}\"}}");
            assert_eq!(guard.before("read_file", &arguments), Verdict::Go);
            guard.after("read_file", &arguments, "same", false);
        }
        // Two calls by turns are a circle too.
        for _ in 0..2 {
            guard.after("read_file", "a", "x", false);
            guard.after("grep", "b", "y", false);
        }
        assert_eq!(guard.before("read_file", "a"), Verdict::Note { time: 3 });
        assert_eq!(guard.before("grep", "b"), Verdict::Note { time: 3 });
    }

    #[test]
    fn three_wrong_calls_of_one_tool_in_a_row_end_the_run() {
        let mut guard = LoopGuard::default();
        assert!(!guard.failed_early("exec", "1", Code::InvalidArguments, "a"));
        assert!(!guard.failed_early("exec", "2", Code::InvalidArguments, "b"));
        guard.after("exec", "3", "good", false);
        assert!(!guard.failed_early("exec", "4", Code::InvalidArguments, "c"));
        assert!(!guard.failed_early("grep", "5", Code::InvalidArguments, "d"));
        assert!(!guard.failed_early("exec", "6", Code::Denied, "e"));
        assert!(!guard.failed_early("exec", "7", Code::InvalidArguments, "f"));
        assert!(guard.failed_early("exec", "8", Code::InvalidArguments, "g"));
        let mut guard = LoopGuard::default();
        assert!(!guard.failed_early("raed", "{}", Code::UnknownTool, "a"));
        assert!(!guard.failed_early("raed", "{}", Code::UnknownTool, "a"));
        assert!(guard.failed_early("raed", "{}", Code::UnknownTool, "a"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut guard = LoopGuard::default();
        for n in 0..20_000 {
            guard.after("exec", &n.to_string(), "x", false);
            guard.failed_early(&n.to_string(), "", Code::UnknownTool, "x");
        }
        assert!(guard.calls.len() <= super::REMEMBERED && guard.invalid().len() <= super::REMEMBERED);
    }
}
