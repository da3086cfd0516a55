//! One line for a tool call: the tool, what it is about, and how it ended.

use std::time::{Duration, SystemTime};

use nexus_proto::{
    llm::v1::{Block, block},
    orchestrator::v1::{CallState, RunCall},
};
use serde_json::Value;

use super::{
    table::{cut, one_line},
    view::word,
};

/// Characters of what a call is about.
const ABOUT: usize = 100;

/// What a call does, as `exec cargo test`.
pub fn title(tool: &str, arguments_json: &str) -> String {
    let about = about(tool, arguments_json);
    match about.is_empty() {
        true => one_line(tool),
        false => format!("{} {}", one_line(tool), cut(&about, ABOUT)),
    }
}

/// The arguments that tell one call of a tool from another.
fn about(tool: &str, arguments_json: &str) -> String {
    let arguments: Value = match serde_json::from_str(arguments_json) {
        Ok(arguments) => arguments,
        Err(_) => return arguments_json.to_owned(),
    };
    let word = |name: &str| arguments.get(name).and_then(Value::as_str);
    let of = |names: &[&str]| names.iter().find_map(|name| word(name)).map(str::to_owned);
    let known = match tool {
        "exec" => of(&["command"]),
        "process" => Some(format!(
            "{} {}",
            word("action").unwrap_or_default(),
            word("id").unwrap_or_default()
        )),
        "grep" => word("pattern").map(|pattern| match word("path") {
            Some(path) => format!("{pattern} in {path}"),
            None => pattern.to_owned(),
        }),
        "apply_patch" => word("patch").map(patched),
        "message" => Some(match word("to") {
            Some(to) => format!("to {to}: {}", word("text").unwrap_or_default()),
            None => word("text").unwrap_or_default().to_owned(),
        }),
        _ => of(&["path", "url", "query", "glob", "task", "question", "name"]),
    };
    match (known, arguments.as_object()) {
        (Some(known), _) => known,
        (None, Some(members)) if members.is_empty() => String::new(),
        (None, _) => arguments.to_string(),
    }
}

/// The files that a patch names.
fn patched(patch: &str) -> String {
    let files = patch.lines().filter_map(|line| {
        let (_, name) = line.strip_prefix("*** ")?.split_once(" File: ")?;
        Some(name.trim().to_owned())
    });
    files.collect::<Vec<_>>().join(" ")
}

/// `done`, `failed: timeout`.
pub fn state(call: &RunCall) -> String {
    let state = word(call.state().as_str_name(), "CALL_STATE_");
    match call.code.as_str() {
        "" => state,
        code if code == state => state,
        code => format!("{state}: {}", one_line(code)),
    }
}

/// No further change will come.
pub fn is_over(state: CallState) -> bool {
    matches!(
        state,
        CallState::Refused
            | CallState::Done
            | CallState::Failed
            | CallState::Timeout
            | CallState::Cancelled
            | CallState::Unknown
    )
}

/// How long it ran; `None` if it never started.
pub fn took(call: &RunCall) -> Option<Duration> {
    let started = SystemTime::try_from(call.started_at?).ok()?;
    let ended = match call.ended_at {
        Some(ended) => SystemTime::try_from(ended).ok()?,
        None => SystemTime::now(),
    };
    Some(ended.duration_since(started).unwrap_or_default())
}

/// `0.42 s`, `12 s`, `3 min`.
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.2} s", time.as_secs_f64()),
        10..120 => format!("{} s", time.as_secs()),
        more => format!("{} min", more / 60),
    }
}

/// What the model is told of a call, without images.
pub fn text(result: &[Block]) -> String {
    let texts = result.iter().filter_map(|block| match &block.kind {
        Some(block::Kind::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// The lines of a difference between two versions of a file, if the result of a call has them: from the first line that
/// says where they are.
pub fn difference(tool: &str, told: &str) -> Vec<String> {
    if !matches!(tool, "edit_file" | "apply_patch" | "write_file") {
        return Vec::new();
    }
    let part_of = |line: &&str| line.starts_with(['+', '-', ' ', '@', '\\']) || line.is_empty();
    let lines = told
        .lines()
        .skip_while(|line| !line.starts_with("@@") && !line.starts_with("--- "));
    lines.take_while(part_of).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_by_what_it_is_about() {
        let cases = [
            (
                "exec",
                r#"{"command":"cargo test\n -q","tty":true}"#,
                "exec cargo test -q",
            ),
            (
                "read_file",
                r#"{"path":"src/main.rs","limit":5}"#,
                "read_file src/main.rs",
            ),
            ("grep", r#"{"pattern":"fn main","path":"src"}"#, "grep fn main in src"),
            ("process", r#"{"id":"p1","action":"kill"}"#, "process kill p1"),
            ("weather", r#"{"city":"Bern"}"#, r#"weather {"city":"Bern"}"#),
            ("list_dir", "{}", "list_dir"),
            ("exec", "{broken", "exec {broken"),
            ("exec", "{\"command\":\"a\u{1b}[2J\"}", "exec a␛[2J"),
        ];
        for (tool, arguments, told) in cases {
            // JSON text as a model sends it has control characters as escapes.
            let arguments = arguments.replace('\u{1b}', "\\u001b").replace('\n', "\\n");
            assert_eq!(title(tool, &arguments), told);
        }
        let patch = serde_json::json!({"patch": "*** Begin Patch\n*** Add File: a\n+x\n*** Update File: b\n"});
        assert_eq!(title("apply_patch", &patch.to_string()), "apply_patch a b");
    }

    #[test]
    fn only_the_lines_of_the_difference_are_taken() {
        let told = "[a.py: 1 replaced, sha256 12]\n--- a.py\n+++ a.py\n@@ -1,2 +1,2 @@\n one\n-two\n+three\nnote: x\n";
        assert_eq!(difference("edit_file", told).len(), 6);
        assert!(difference("exec", told).is_empty());
        assert!(difference("edit_file", "error no_match: nothing").is_empty());
    }

    #[test]
    fn a_code_is_told_once() {
        let mut call = RunCall {
            state: CallState::Timeout.into(),
            code: "timeout".into(),
            ..RunCall::default()
        };
        assert_eq!(state(&call), "timeout");
        call.set_state(CallState::Failed);
        call.code = "no_match".into();
        assert_eq!(state(&call), "failed: no_match");
    }
}
