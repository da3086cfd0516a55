//! Runs, calls, approvals and tools in the shape that `--json` prints.

use nexus_proto::{
    common::v1::{TokenUsage, ToolDefinition},
    llm::v1::{Block, block},
    orchestrator::v1::{Approval, Grant, Run, RunCall, RunStep},
    tool::v1::{ToolExecution, ToolInstance, ToolUsageStats},
};
use serde_json::{Value, json};

use super::{
    approval::{kind, scope},
    time::exact,
    view::word,
};

pub fn usage(usage: Option<&TokenUsage>) -> Value {
    match usage {
        Some(usage) => json!({
            "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }),
        None => Value::Null,
    }
}

pub fn run(run: &Run) -> Value {
    json!({
        "id": run.id, "session_id": run.session_id, "message_id": run.message_id, "answer_id": run.answer_id,
        "state": word(run.state().as_str_name(), "RUN_STATE_"), "end": end(run), "error": run.error,
        "agent_id": run.agent_id, "created_at": exact(run.created_at.as_ref()),
        "started_at": exact(run.started_at.as_ref()), "ended_at": exact(run.ended_at.as_ref()),
        "step_count": run.step_count, "usage": usage(run.usage.as_ref()), "parent_id": run.parent_id,
        "tainted": run.tainted, "work_ns": run.work_ns,
        "steps": run.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

/// `done`, `failed`, `cancelled`, `stopped`; null while it goes on.
pub fn end(run: &Run) -> Option<String> {
    let end = word(run.end().as_str_name(), "RUN_END_");
    (end != "unspecified").then_some(end)
}

pub fn step(step: &RunStep) -> Value {
    json!({
        "number": step.number, "attempt": step.attempt, "provider": step.provider, "model": step.model,
        "started_at": exact(step.started_at.as_ref()), "finished_at": exact(step.finished_at.as_ref()),
        "blocks": blocks(&step.blocks), "usage": usage(step.usage.as_ref()), "stop_reason": step.stop_reason,
        "calls": step.calls.iter().map(call).collect::<Vec<_>>(), "notes": step.notes,
    })
}

pub fn call(call: &RunCall) -> Value {
    // What the model wrote is shown as JSON where it is that.
    let arguments = serde_json::from_str(&call.arguments_json).unwrap_or(Value::String(call.arguments_json.clone()));
    json!({
        "id": call.id, "tool": call.tool, "arguments": arguments,
        "state": word(call.state().as_str_name(), "CALL_STATE_"), "code": call.code, "attempt": call.attempt,
        "approval_id": call.approval_id, "agent_id": call.agent_id,
        "created_at": exact(call.created_at.as_ref()), "started_at": exact(call.started_at.as_ref()),
        "ended_at": exact(call.ended_at.as_ref()), "result": blocks(&call.result), "spill": call.spill,
        "output_bytes": call.output_bytes, "task_id": call.task_id,
    })
}

/// Text in full; of an image and of what only a provider understands, its size.
fn blocks(blocks: &[Block]) -> Vec<Value> {
    let shown = |block: &Block| {
        Some(match block.kind.as_ref()? {
            block::Kind::Text(text) => json!({ "type": "text", "text": text }),
            block::Kind::Image(image) => {
                json!({ "type": "image", "media_type": image.media_type, "bytes": image.data.len() })
            }
            block::Kind::ToolCall(call) => {
                json!({ "type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments })
            }
            block::Kind::ToolResult(result) => {
                json!({ "type": "tool_result", "id": result.tool_call_id, "is_error": result.is_error })
            }
            block::Kind::Opaque(opaque) => {
                json!({ "type": "opaque", "provider": opaque.provider, "bytes": opaque.data.len() })
            }
        })
    };
    blocks.iter().filter_map(shown).collect()
}

pub fn approval(approval: &Approval) -> Value {
    let plan = serde_json::from_str(&approval.plan_json).unwrap_or(Value::String(approval.plan_json.clone()));
    json!({
        "id": approval.id, "run_id": approval.run_id, "call_id": approval.call_id,
        "session_id": approval.session_id, "root_session_id": approval.root_session_id, "tool": approval.tool,
        "plan": plan, "digest": approval.digest, "risks": approval.risks,
        "state": word(approval.state().as_str_name(), "APPROVAL_STATE_"),
        "created_at": exact(approval.created_at.as_ref()), "expires_at": exact(approval.expires_at.as_ref()),
        "decided_by": approval.decided_by, "decided_on": approval.decided_on,
        "decided_at": exact(approval.decided_at.as_ref()), "reason": approval.reason,
        "offers": approval.offers.iter().map(grant).collect::<Vec<_>>(), "grant_id": approval.grant_id,
        "supersedes": approval.supersedes,
    })
}

pub fn grant(grant: &Grant) -> Value {
    json!({
        "id": grant.id, "kind": kind(grant), "scope": scope(grant), "tool": grant.tool,
        "description": grant.description, "pattern": grant.pattern, "definition_digest": grant.definition_digest,
        "run_id": grant.run_id, "session_id": grant.session_id, "created_at": exact(grant.created_at.as_ref()),
        "expires_at": exact(grant.expires_at.as_ref()), "given_by": grant.given_by,
    })
}

pub fn tool(tool: &ToolInstance) -> Value {
    json!({
        "name": tool.name, "display_name": tool.display_name, "enabled": tool.enabled, "version": tool.version,
        "type": word(tool.r#type().as_str_name(), "TOOL_TYPE_"),
        "state": word(tool.state().as_str_name(), "TOOL_STATE_"),
        "registered_at": exact(tool.registered_at.as_ref()), "updated_at": exact(tool.updated_at.as_ref()),
        "last_used_at": exact(tool.last_used_at.as_ref()), "usage": tool.usage_stats.as_ref().map(stats),
        "definition": tool.definition.as_ref().map(definition),
    })
}

fn definition(definition: &ToolDefinition) -> Value {
    json!({
        "description": definition.description, "schema": schema(definition), "timeout_ns": definition.timeout_ns,
        "container_image": definition.container_image, "command": definition.command,
        "metadata": definition.metadata.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "read_only": definition.read_only, "idempotent": definition.idempotent, "parallel": definition.parallel,
        "source": definition.source, "digest": definition.digest,
    })
}

/// The schema of a tool's arguments; made of its parameters where it has none.
pub fn schema(definition: &ToolDefinition) -> Value {
    if let Ok(schema) = serde_json::from_str(&definition.input_schema_json) {
        return schema;
    }
    let properties: serde_json::Map<String, Value> = definition
        .parameters
        .iter()
        .map(|parameter| {
            let kind = word(parameter.r#type().as_str_name(), "PARAMETER_TYPE_");
            let shown = json!({ "type": kind, "description": parameter.description });
            (parameter.name.clone(), shown)
        })
        .collect();
    let required: Vec<&str> = definition
        .parameters
        .iter()
        .filter(|parameter| parameter.required)
        .map(|parameter| parameter.name.as_str())
        .collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

pub fn stats(stats: &ToolUsageStats) -> Value {
    json!({
        "total": stats.total_executions, "successful": stats.successful_executions,
        "failed": stats.failed_executions, "timeout": stats.timeout_executions,
        "cancelled": stats.cancelled_executions, "average_ns": stats.avg_duration_ns,
        "last": exact(stats.last_execution.as_ref()),
    })
}

pub fn execution(execution: &ToolExecution) -> Value {
    let result = execution.result.as_ref();
    json!({
        "id": execution.execution_id, "tool": execution.tool_name, "session_id": execution.session_id,
        "status": word(execution.status().as_str_name(), "TOOL_EXECUTION_STATUS_"),
        "created_at": exact(execution.created_at.as_ref()), "started_at": exact(execution.started_at.as_ref()),
        "completed_at": exact(execution.completed_at.as_ref()), "duration_ns": execution.duration_ns,
        "approval_id": execution.approval_id, "attempt": execution.attempt, "code": execution.code,
        "error": execution.error_message, "spill": execution.spill,
        "exit_code": result.map(|result| result.exit_code),
        "output": result.map(|result| result.output_text.clone()),
    })
}
