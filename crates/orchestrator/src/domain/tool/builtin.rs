//! The tools that come with Nexus.

use nexus_proto::common::v1::{ToolDefinition, ToolType};
use serde_json::json;

/// Their definitions, sorted by name.
pub fn builtin_tools() -> Vec<ToolDefinition> {
    let tool = |name: &str, r#type: ToolType, reads: bool, description: &str, schema: serde_json::Value| ToolDefinition {
        name: name.into(),
        display_name: name.into(),
        r#type: r#type.into(),
        description: description.into(),
        version: "1".into(),
        enabled: true,
        input_schema_json: schema.to_string(),
        read_only: reads,
        idempotent: reads,
        parallel: name == "exec",
        ..ToolDefinition::default()
    };
    vec![
        tool(
            "exec",
            ToolType::Shell,
            false,
            "Run a shell command in the workspace.",
            json!({"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}),
        ),
        tool(
            "read_file",
            ToolType::File,
            true,
            "Read a file of the workspace.",
            json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}),
        ),
    ]
}
