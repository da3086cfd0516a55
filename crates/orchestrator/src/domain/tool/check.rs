//! Checks the arguments of a call, and says what the call will need.

use nexus_proto::common::v1::ToolDefinition;
use serde_json::Value;

use crate::domain::call::{Failure, Lock, plain_path};

const SECOND: i64 = 1_000_000_000;
/// What a call may take that does not say, beside what its worker needs to begin and to report.
const DEFAULT_TIMEOUT: i64 = 120 * SECOND;
/// A command's own time, where it names none.
const EXEC_TIMEOUT: i64 = 600 * SECOND;
/// For the worker to begin and to report; its own limits come first.
const MARGIN: i64 = 60 * SECOND;

/// The arguments of a call as it will be executed, and what it needs.
#[derive(Clone, Debug)]
pub struct Checked {
    pub arguments_json: String,
    pub arguments: Value,
    pub lock: Lock,
    /// It changes one file.
    pub edit: bool,
    /// What ends a task that its worker does not end, in nanoseconds.
    pub timeout: i64,
}

/// Checks a call's arguments against the tool's schema.
pub fn check(tool: &ToolDefinition, arguments: &str) -> Result<Checked, Failure> {
    let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
    let value: Value = serde_json::from_str(arguments)
        .map_err(|e| Failure::new("invalid_arguments", format!("the arguments are not JSON: {e}")))?;
    if !value.is_object() {
        return Err(Failure::new("invalid_arguments", "the arguments have to be a JSON object"));
    }
    let lock = lock(tool, &value);
    Ok(Checked {
        arguments_json: value.to_string(),
        edit: matches!(&lock, Lock::Write(paths) if paths.len() == 1),
        timeout: timeout(tool, &value),
        lock,
        arguments: value,
    })
}

fn lock(tool: &ToolDefinition, arguments: &Value) -> Lock {
    let path = || arguments.get("path").and_then(Value::as_str).map(plain_path);
    match tool.name.as_str() {
        "write_file" | "edit_file" => Lock::Write(path().into_iter().collect()),
        "apply_patch" => Lock::Write(patched(arguments)),
        "exec" | "process" => Lock::Exec,
        "read_file" => Lock::Read(path()),
        _ if tool.read_only => Lock::Read(None),
        _ if tool.parallel => Lock::Exec,
        _ => Lock::Alone,
    }
}

/// Paths that a patch names.
fn patched(arguments: &Value) -> Vec<String> {
    const HEADS: [&str; 4] = ["*** Add File: ", "*** Delete File: ", "*** Update File: ", "*** Move to: "];
    let patch = arguments.get("patch").and_then(Value::as_str).unwrap_or_default();
    let named = patch.lines().filter_map(|line| HEADS.iter().find_map(|head| line.strip_prefix(head)));
    named.map(|path| plain_path(path.trim())).collect()
}

fn timeout(tool: &ToolDefinition, arguments: &Value) -> i64 {
    let seconds = |name: &str| arguments.get(name).and_then(Value::as_f64).map(|s| (s.clamp(0.0, 86_400.0) * 1e9) as i64);
    let own = match tool.name.as_str() {
        "exec" => seconds("timeout_s").unwrap_or(EXEC_TIMEOUT),
        "process" => seconds("wait_s").unwrap_or(300 * SECOND),
        _ if tool.timeout_ns > 0 => tool.timeout_ns,
        _ => DEFAULT_TIMEOUT,
    };
    own.saturating_add(MARGIN)
}
