//! Adds, changes and removes tools.

use nexus_daemon::Caller;
use nexus_proto::common::v1::{ToolDefinition, ToolState};
use nexus_proto::llm::v1::Tool as Told;
use nexus_proto::tool::v1::{ToolInstance, ToolUsageStats};
use nexus_proto::words;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::check::compiled;
use super::{BUILTIN, MAX_TOOLS, Tool, Tools, USER};
use crate::domain::event::{self, About, timestamp};
use crate::domain::{Error, Fact, State, Step, Time};

const SCHEMA_BYTES: usize = 64 << 10;

impl Tools {
    pub fn get(&self, name: &str) -> Option<&Tool> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Tool> {
        self.by_name.values()
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The enabled tools as models are told of them, sorted by name.
    pub fn told(&self) -> Vec<Told> {
        self.iter()
            .filter(|tool| tool.definition.enabled)
            .map(Tool::told)
            .collect()
    }

    /// Of the enabled tools: it changes when a model has to be told of other tools.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Takes in a tool, a new one or one from disk.
    pub fn insert(&mut self, tool: Tool) {
        self.by_name.insert(tool.definition.name.clone(), tool);
        self.renew_digest();
    }

    /// Brings the tools that come with Nexus up to this version. One that was disabled stays so.
    pub fn load_builtins(&mut self, definitions: Vec<ToolDefinition>, now: Time) {
        self.by_name
            .retain(|name, tool| !tool.is_builtin() || definitions.iter().any(|definition| definition.name == *name));
        for mut definition in definitions {
            definition.source = BUILTIN.into();
            match self.by_name.get_mut(&definition.name) {
                Some(known) => {
                    definition.enabled = known.definition.enabled;
                    known.definition = definition;
                }
                None => drop(self.by_name.insert(
                    definition.name.clone(),
                    Tool {
                        definition,
                        owner: "".into(),
                        registered: now,
                        updated: now,
                        stats: ToolUsageStats::default(),
                    },
                )),
            }
        }
        self.renew_digest();
    }

    /// For the store: the numbers of a tool.
    pub fn load_stats(&mut self, name: &str, stats: ToolUsageStats) {
        self.set_stats(name, stats);
    }

    pub(in crate::domain) fn set_stats(&mut self, name: &str, stats: ToolUsageStats) {
        if let Some(tool) = self.by_name.get_mut(name) {
            tool.stats = stats;
        }
    }

    fn renew_digest(&mut self) {
        let mut hash = Sha256::new();
        for tool in self.by_name.values().filter(|tool| tool.definition.enabled) {
            hash.update(tool.definition.name.as_bytes());
            hash.update([0]);
            hash.update(tool.definition.digest.as_bytes());
        }
        self.digest = hex::encode(hash.finalize()).into();
    }
}

/// SHA-256 of a definition, without what says how it is used now.
pub fn digest_of(definition: &ToolDefinition) -> String {
    let mut fixed = definition.clone();
    fixed.enabled = false;
    fixed.digest.clear();
    // Maps have no order of their own.
    let mut metadata: Vec<_> = std::mem::take(&mut fixed.metadata).into_iter().collect();
    metadata.sort();
    let mut hash = Sha256::new();
    hash.update(fixed.encode_to_vec());
    for (name, value) in metadata {
        for part in [name, value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
    }
    hex::encode(hash.finalize())
}

fn check_definition(definition: &ToolDefinition) -> Result<(), Error> {
    let name = &definition.name;
    if name.is_empty() {
        return Err(Error::Required("definition.name"));
    }
    if !nexus_tools::valid_name(name) {
        return Err(Error::Invalid(format!(
            "definition.name has to be 1 to {} of a-z, A-Z, 0-9, _ and -",
            nexus_tools::MAX_NAME_BYTES
        )));
    }
    if definition.input_schema_json.len() > SCHEMA_BYTES {
        return Err(Error::Invalid(format!(
            "definition.input_schema_json is longer than {SCHEMA_BYTES} bytes"
        )));
    }
    compiled(definition).map_err(|error| Error::Invalid(format!("definition: {}", error.what)))?;
    if definition.timeout_ns < 0 {
        return Err(Error::Invalid("definition.timeout_ns must not be negative".into()));
    }
    if definition.command.is_empty() && definition.container_image.is_empty() {
        return Err(Error::Invalid(
            "definition needs a command or a container_image to run".into(),
        ));
    }
    Ok(())
}

impl State {
    pub fn tool(&self, name: &str) -> Result<&Tool, Error> {
        if name.is_empty() {
            return Err(Error::Required("name"));
        }
        self.tools.get(name).ok_or_else(|| Error::ToolNotFound(name.into()))
    }

    pub fn register_tool(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        mut definition: ToolDefinition,
        force: bool,
    ) -> Result<(), Error> {
        check_definition(&definition)?;
        let name = definition.name.clone();
        if let Some(known) = self.tools.get(&name) {
            if known.is_builtin() {
                return Err(Error::BuiltinTool(name));
            }
            if !force {
                return Err(Error::ToolExists(name));
            }
        } else if self.tools.len() >= MAX_TOOLS {
            return Err(Error::TooManyTools(MAX_TOOLS));
        }
        definition.source = USER.into();
        definition.digest = digest_of(&definition);
        let r#type = definition.r#type().as_str_name();
        let stats = self.tools.get(&name).map(|tool| tool.stats).unwrap_or_default();
        self.tools.insert(Tool {
            definition,
            owner: caller.principal.clone(),
            registered: step.now,
            updated: step.now,
            stats,
        });
        tool_event(
            step,
            words::event::TOOL_REGISTERED,
            &[("tool_name", &name), ("type", r#type)],
        );
        step.fact(Fact::Tool(name));
        Ok(())
    }

    /// Replaces a definition. The name, and whether it is enabled, stay.
    pub fn update_tool(
        &mut self,
        step: &mut Step<'_>,
        name: &str,
        mut definition: ToolDefinition,
    ) -> Result<(), Error> {
        let known = self.tool(name)?;
        if known.is_builtin() {
            return Err(Error::BuiltinTool(name.into()));
        }
        definition.name = name.into();
        check_definition(&definition)?;
        let mut tool = known.clone();
        definition.source = USER.into();
        definition.enabled = tool.definition.enabled;
        definition.digest = digest_of(&definition);
        tool.definition = definition;
        tool.updated = step.now;
        self.tools.insert(tool);
        step.fact(Fact::Tool(name.into()));
        Ok(())
    }

    /// Enables or disables a tool. Returns how many of its calls were cancelled by that.
    pub fn enable_tool(
        &mut self,
        step: &mut Step<'_>,
        name: &str,
        enabled: bool,
        cancel_calls: bool,
    ) -> Result<i32, Error> {
        let mut tool = self.tool(name)?.clone();
        if tool.definition.enabled != enabled {
            tool.definition.enabled = enabled;
            tool.updated = step.now;
            self.tools.insert(tool);
            step.fact(Fact::Tool(name.into()));
        }
        Ok(if cancel_calls {
            self.cancel_calls_of(step, name, "the tool was disabled")
        } else {
            0
        })
    }

    pub fn unregister_tool(&mut self, step: &mut Step<'_>, name: &str, force: bool) -> Result<(), Error> {
        if self.tool(name)?.is_builtin() {
            return Err(Error::BuiltinTool(name.into()));
        }
        let runs = self.calls.iter().any(|call| call.wire.tool == name && !call.is_over());
        if runs && !force {
            return Err(Error::ToolInUse(name.into()));
        }
        self.cancel_calls_of(step, name, "the tool was removed");
        self.tools.by_name.remove(name);
        self.tools.renew_digest();
        tool_event(step, words::event::TOOL_UNREGISTERED, &[("tool_name", name)]);
        step.fact(Fact::ToolGone(name.into()));
        Ok(())
    }

    fn cancel_calls_of(&mut self, step: &mut Step<'_>, name: &str, why: &str) -> i32 {
        let calls = self
            .calls
            .iter()
            .filter(|call| call.wire.tool == name && !call.is_over());
        let keys: Vec<u64> = calls.map(|call| call.key).collect();
        let count = i32::try_from(keys.len()).unwrap_or(i32::MAX);
        keys.into_iter().for_each(|key| self.cancel_call(step, key, why));
        count
    }

    /// A tool as clients see it.
    pub fn tool_instance(&self, tool: &Tool) -> ToolInstance {
        let definition = &tool.definition;
        let busy = self
            .calls
            .iter()
            .any(|call| call.wire.tool == definition.name && call.is_out());
        let state = match (definition.enabled, busy) {
            (false, _) if tool.updated == tool.registered => ToolState::Registered,
            (false, _) => ToolState::Disabled,
            (true, true) => ToolState::Busy,
            (true, false) => ToolState::Available,
        };
        ToolInstance {
            name: definition.name.clone(),
            display_name: definition.display_name.clone(),
            r#type: definition.r#type,
            state: state.into(),
            status: nexus_proto::common::v1::Status::Running.into(),
            registered_at: Some(timestamp(tool.registered)),
            updated_at: Some(timestamp(tool.updated)),
            last_used_at: tool.stats.last_execution,
            definition: Some(definition.clone()),
            usage_stats: Some(tool.stats),
            enabled: definition.enabled,
            version: definition.version.clone(),
        }
    }
}

fn tool_event(step: &mut Step<'_>, name: &str, data: &[(&str, &str)]) {
    let event = event::build(step, name, event::TOOL, About::default(), data);
    step.fact(Fact::Event { session: 0, event });
}
