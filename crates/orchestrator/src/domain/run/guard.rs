//! Ends loops: the same call with the same result over and over, and the same mistake over and over.

use std::collections::BTreeMap;

use nexus_proto::llm::v1::block::Kind;
use sha2::{Digest as _, Sha256};

use super::Run;
use crate::domain::State;
use crate::domain::call::{Call, Lock};

/// The same call with the same result for the third time: the model is told.
const TOLD: u32 = 3;
/// For the fifth time it is refused.
const REFUSED: u32 = 4;
/// The sixth ends the run.
const ENDED: u32 = 6;
/// Arguments that were wrong, or tools that do not exist, in a row.
const MISTAKES: u32 = 3;
/// Different calls that are remembered of a run.
const REMEMBERED: usize = 256;

/// What a run did again and again since something was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// By the hash of tool and arguments: the hash of the last result, and how often it came in a row.
    pub same: BTreeMap<u64, (u64, u32)>,
    /// The tool that was called wrongly, and how often in a row.
    pub mistakes: (String, u32),
}

fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let bytes: [u8; 32] = hash.finalize().into();
    u64::from_be_bytes(bytes[..8].try_into().expect("eight of thirty-two bytes"))
}

fn hash_of(tool: &str, arguments: &str) -> u64 {
    hash(&[tool.as_bytes(), arguments.as_bytes()])
}

fn result_hash(call: &Call) -> u64 {
    let texts = call.wire.result.iter().map(|block| match &block.kind {
        Some(Kind::Text(text)) => untimed(text).to_owned(),
        other => format!("{other:?}"),
    });
    let texts = texts.collect::<String>();
    hash(&[&call.wire.state.to_be_bytes(), texts.as_bytes()])
}

/// The result of a command without how long it took, which is never twice the same.
fn untimed(text: &str) -> &str {
    match text.trim_end().rsplit_once(" after ") {
        Some((untimed, time)) if time.ends_with(" s]") && time.len() < 24 => untimed,
        _ => text,
    }
}

impl Guard {
    /// Whether a call may not run: it came to the same so often.
    pub fn refuses(&self, tool: &str, arguments: &str) -> bool {
        self.same
            .get(&hash_of(tool, arguments))
            .is_some_and(|(_, times)| *times >= REFUSED)
    }

    /// Takes in a call that ended. Returns how often it came to the same result now.
    fn count(&mut self, call: &Call) -> u32 {
        let wrong = matches!(call.wire.code.as_str(), "invalid_arguments" | "unknown_tool");
        if wrong && self.mistakes.0 == call.wire.tool {
            self.mistakes.1 += 1;
        } else if wrong {
            self.mistakes = (call.wire.tool.clone(), 1);
        } else {
            self.mistakes = Default::default();
        }
        let wrote = matches!(call.lock, Lock::Write(_)) && call.wire.code.is_empty();
        if wrote {
            self.same.clear();
        }
        if call.wire.tool == "process" {
            return 0; // looking at what runs again and again is what it is for
        }
        let (key, result) = (hash_of(&call.wire.tool, &call.wire.arguments_json), result_hash(call));
        if self.same.len() >= REMEMBERED && !self.same.contains_key(&key) {
            self.same.clear();
        }
        let (before, times) = self.same.entry(key).or_insert((result, 0));
        // A refusal for its repetition is no new result.
        if *before == result || (call.wire.code == "not_allowed" && *times >= REFUSED) {
            *times += 1;
        } else {
            (*before, *times) = (result, 1);
        }
        *times
    }
}

impl State {
    /// Looks at the calls of a finished step. Returns why the run has to end, if so.
    pub(super) fn finish_guard(&mut self, key: u64, n: u64) -> Option<String> {
        let run: &mut Run = self.runs.get_mut(key, n)?;
        let mut end = None;
        for call in run.calls.iter().filter_map(|call| self.calls.get(*call)) {
            let times = run.guard.count(call);
            if times >= ENDED {
                end = Some(format!(
                    "loop: {} was called {times} times with the same result",
                    call.wire.tool
                ));
            } else if times >= TOLD {
                run.step.notes.push(format!(
                    "{} was called {times} times with the same arguments and the same result, and nothing was written \
                     between: try something else, or report what you found.",
                    call.wire.tool
                ));
            }
            if run.guard.mistakes.1 >= MISTAKES {
                end = Some(format!(
                    "{}: {} was called {MISTAKES} times in a row in a way that cannot work",
                    call.wire.code, call.wire.tool
                ));
            }
        }
        end
    }
}
