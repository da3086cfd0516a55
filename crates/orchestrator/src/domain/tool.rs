//! The registry of tools: built-in ones and those that users define.

mod builtin;
mod check;
mod registry;

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_proto::common::v1::ToolDefinition;
use nexus_proto::llm::v1::Tool as Told;
use nexus_proto::tool::v1::ToolUsageStats;

use super::Time;

pub use builtin::builtin_tools;
pub(super) use check::compiled;
pub use check::{Checked, check, effects};

/// What `ToolDefinition.source` says of a tool that comes with Nexus.
pub const BUILTIN: &str = "builtin";
/// And of one that a caller of `RegisterTool` defined.
pub const USER: &str = "user";
/// Tools that may be registered.
pub const MAX_TOOLS: usize = 4_096;

#[derive(Clone, Debug)]
pub struct Tool {
    pub definition: ToolDefinition,
    /// Who defined it; empty for one that comes with Nexus.
    pub owner: Arc<str>,
    pub registered: Time,
    pub updated: Time,
    pub stats: ToolUsageStats,
}

/// Every tool by its name, in the order of the names: the front of each prompt.
#[derive(Debug, Default)]
pub struct Tools {
    by_name: BTreeMap<String, Tool>,
    /// Of the enabled tools, as models are told of them.
    digest: Arc<str>,
}

impl Tool {
    pub fn is_builtin(&self) -> bool {
        self.definition.source == BUILTIN
    }

    /// The tool as a model is told of it.
    pub fn told(&self) -> Told {
        Told {
            name: self.definition.name.clone(),
            description: self.definition.description.clone(),
            input_schema: None,
            input_schema_json: match self.definition.input_schema_json.as_str() {
                "" => check::schema(&self.definition).to_string(),
                json => json.to_owned(),
            },
        }
    }
}
