//! Exactly what a call would do, as canonical JSON (RFC 8785), and its digest.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::domain::State;
use crate::domain::call::Call;

/// Version of the plan's form.
const VERSION: u32 = 1;

/// A plan and its two digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub json: String,
    pub digest: String,
    /// Without the call's id.
    pub hash: String,
}

impl State {
    /// The plan of a call as things are now. It is made again when the call is launched.
    pub(super) fn plan(&self, call: &Call) -> Plan {
        let arguments: Value = serde_json::from_str(&call.wire.arguments_json).unwrap_or_default();
        let tool = self.tools.get(&call.wire.tool);
        let definition = tool.map(|tool| &tool.definition);
        let run = call
            .step
            .map(|(n, _)| self.id_of_run(call.session, n).to_string())
            .unwrap_or_default();
        let session = self.sessions.get(call.session);
        let limits = session
            .and_then(|session| session.config.resource_limits)
            .unwrap_or_default();
        let mut plan = json!({
            "version": VERSION,
            "session": &*call.session_id,
            "run": run,
            "tool": call.wire.tool,
            "definition": definition.map_or("", |definition| &definition.digest),
            "arguments": arguments,
            "directory": arguments.get("workdir").cloned().unwrap_or_else(|| "/workspace".into()),
            "environment": {},
            "stdin": arguments.get("stdin").cloned().unwrap_or_default(),
            "program": definition.map(|definition| definition.command.clone()).unwrap_or_default(),
            "user": session.map_or_else(|| call.caller.to_string(), |session| session.creator.to_string()),
            "image": definition.map_or("", |definition| &definition.container_image),
            "mounts": [],
            "network": if self.session_network(call.session) { "session" } else { "none" },
            "limits": {
                "nano_cpus": limits.nano_cpus,
                "memory_bytes": limits.memory_bytes,
                "pids": limits.pids_limit,
                "timeout_ns": call.timeout,
            },
            "files": [],
        });
        let hash = digest(&canonical(&plan));
        plan["call"] = call.wire.id.as_str().into();
        let json = canonical(&plan);
        Plan {
            digest: digest(&json),
            hash,
            json,
        }
    }
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// Canonical JSON: the same value is the same text.
pub(super) fn canonical(value: &Value) -> String {
    nexus_tools::canonical::text(value)
}
