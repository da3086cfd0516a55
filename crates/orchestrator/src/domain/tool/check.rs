//! Checks the arguments of a call, and says what the call will need.

use std::borrow::Cow;

use nexus_proto::common::v1::{ParameterType, ToolDefinition};
use nexus_tools::lock::Lock;
use nexus_tools::{Definition, Effects, Foreign, LockKind, Source};
use serde_json::{Map, Value, json};

use super::BUILTIN;
use crate::domain::call::Failure;

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
    pub lock: Lock,
    /// It changes one file.
    pub edit: bool,
    /// What ends a task that its worker does not end, in nanoseconds.
    pub timeout: i64,
    /// What was changed in the arguments, for the model.
    pub notes: Vec<String>,
}

/// Checks a call's arguments against the tool's schema.
pub fn check(tool: &ToolDefinition, arguments: &str) -> Result<Checked, Failure> {
    let definition = compiled(tool)?;
    let checked = definition.check(arguments)?;
    let lock = nexus_tools::lock_of(&definition, &checked.arguments);
    Ok(Checked {
        arguments_json: nexus_tools::canonical::text(&checked.arguments),
        edit: matches!(&lock, Lock::Write(paths) if paths.len() == 1),
        timeout: timeout(tool, &checked.arguments),
        lock,
        notes: checked.notes,
    })
}

/// What a call may have an effect on.
pub fn effects(tool: &ToolDefinition, arguments: &Value) -> Effects {
    match compiled(tool) {
        Ok(definition) => nexus_tools::effects_of(&definition, arguments),
        Err(_) => Effects::default(),
    }
}

/// The definition in the form that checks calls. The error says what is wrong with one that a user wrote.
pub(in crate::domain) fn compiled(tool: &ToolDefinition) -> Result<Cow<'static, Definition>, nexus_tools::Error> {
    if tool.source == BUILTIN
        && let Some(builtin) = nexus_tools::builtin(&tool.name)
    {
        return Ok(Cow::Borrowed(builtin));
    }
    let policy = tool.security_policy.clone().unwrap_or_default();
    let lock = match (tool.read_only, tool.parallel) {
        (true, _) => LockKind::Read,
        (false, true) => LockKind::Exec,
        (false, false) => LockKind::Alone,
    };
    let definition = Definition::new(Foreign {
        name: tool.name.clone(),
        description: tool.description.clone(),
        schema: schema(tool),
        source: Source::from_name(&tool.source).unwrap_or(Source::User),
        read_only: tool.read_only,
        idempotent: tool.idempotent,
        effects: Effects {
            sandboxed: !policy.allow_filesystem || policy.allowed_paths.is_empty(),
            network: policy.allow_network,
            people: false,
        },
        lock,
    })?;
    Ok(Cow::Owned(definition))
}

/// The schema of a tool: as it is given, or made of its parameters.
pub(super) fn schema(tool: &ToolDefinition) -> Value {
    if !tool.input_schema_json.is_empty() {
        return serde_json::from_str(&tool.input_schema_json).unwrap_or_default();
    }
    let mut properties = Map::new();
    for parameter in &tool.parameters {
        let kind = match parameter.r#type() {
            ParameterType::Integer => "integer",
            ParameterType::Float => "number",
            ParameterType::Boolean => "boolean",
            ParameterType::Array => "array",
            ParameterType::Object => "object",
            _ => "string",
        };
        let mut one = json!({ "type": kind, "description": parameter.description });
        if !parameter.allowed_values.is_empty() {
            one["enum"] = parameter.allowed_values.clone().into();
        }
        properties.insert(parameter.name.clone(), one);
    }
    let required: Vec<&str> = tool
        .parameters
        .iter()
        .filter(|parameter| parameter.required && parameter.default_value.is_empty())
        .map(|parameter| parameter.name.as_str())
        .collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn timeout(tool: &ToolDefinition, arguments: &Value) -> i64 {
    let seconds = |name: &str| {
        let named = arguments.get(name).and_then(Value::as_f64);
        named.map(|s| (s.clamp(0.0, 86_400.0) * 1e9) as i64)
    };
    let own = match tool.name.as_str() {
        "exec" => seconds("timeout_s").unwrap_or(EXEC_TIMEOUT),
        "process" => seconds("wait_s").unwrap_or(300 * SECOND),
        _ if tool.timeout_ns > 0 => tool.timeout_ns,
        _ => DEFAULT_TIMEOUT,
    };
    own.saturating_add(MARGIN)
}
