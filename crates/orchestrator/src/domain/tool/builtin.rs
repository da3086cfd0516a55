//! The tools that come with Nexus, as the registry holds them.

use nexus_proto::common::v1::{ToolDefinition, ToolType};

use super::BUILTIN;

/// Tools that are off until an administrator enables them: they need a backend, a model that was trained on them, or a
/// part that this daemon does not have.
const OFF: [&str; 6] = ["apply_patch", "ask_user", "delegate", "message", "skill", "web_search"];

/// Their definitions, sorted by name.
pub fn builtin_tools() -> Vec<ToolDefinition> {
    let definition = |tool: &nexus_tools::Definition| ToolDefinition {
        name: tool.name().to_owned(),
        display_name: tool.name().to_owned(),
        r#type: kind(tool.name()).into(),
        description: tool.description().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        enabled: !OFF.contains(&tool.name()),
        input_schema_json: nexus_tools::canonical::text(tool.schema()),
        read_only: tool.read_only(),
        idempotent: tool.idempotent(),
        source: BUILTIN.to_owned(),
        digest: tool.digest().to_owned(),
        parallel: tool.parallel(),
        ..ToolDefinition::default()
    };
    nexus_tools::builtins().iter().map(definition).collect()
}

fn kind(name: &str) -> ToolType {
    match name {
        "exec" | "process" => ToolType::Shell,
        "web_fetch" | "web_search" => ToolType::Web,
        "message" | "ask_user" => ToolType::Message,
        "delegate" | "skill" => ToolType::Custom,
        _ => ToolType::File,
    }
}
