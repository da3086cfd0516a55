//! Exactly what a call would do, and its digest.

use std::collections::BTreeMap;

use nexus_tools::plan::{FileHash, Plan as Form, VERSION};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::grants::directory;
use crate::domain::State;
use crate::domain::call::Call;

/// A plan and its two digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub json: String,
    pub digest: String,
    /// Without the call's id: another call with the same plan is known by it.
    pub hash: String,
}

impl State {
    /// The plan of a call as things are now. It is made again when the call is launched.
    pub(super) fn plan(&self, call: &Call) -> Plan {
        let arguments: Value = serde_json::from_str(&call.wire.arguments_json).unwrap_or_default();
        let definition = self.tools.get(&call.wire.tool).map(|tool| &tool.definition);
        let session = self.sessions.get(call.session);
        let limits = session.and_then(|session| session.config.resource_limits);
        let limits = limits.unwrap_or_default();
        let limits = [
            ("nano_cpus", limits.nano_cpus),
            ("memory_bytes", limits.memory_bytes),
            ("pids", limits.pids_limit),
            ("timeout_ns", call.timeout),
        ];
        let limits = limits.into_iter().filter_map(|(name, limit)| {
            let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0)?;
            Some((name.to_owned(), limit))
        });
        let command = definition.map(|definition| definition.command.join(" "));
        let image = definition.map(|definition| definition.container_image.clone());
        let environment = [("NEXUS_TOOL_COMMAND", command), ("NEXUS_TOOL_IMAGE", image)];
        let environment = environment.into_iter().filter_map(|(name, value)| {
            let value = value.filter(|value| !value.is_empty())?;
            Some((name.to_owned(), value))
        });
        let stdin = arguments.get("stdin").and_then(Value::as_str);
        let mut form = Form {
            version: VERSION,
            session: call.session_id.to_string(),
            run: call
                .step
                .map(|(n, _)| self.id_of_run(call.session, n).to_string())
                .unwrap_or_default(),
            call: String::new(),
            tool: call.wire.tool.clone(),
            definition_digest: definition
                .map(|definition| definition.digest.clone())
                .unwrap_or_default(),
            working_directory: Some(directory(&arguments).to_owned()),
            environment: environment.collect::<BTreeMap<_, _>>(),
            stdin: stdin.map(|stdin| hex::encode(Sha256::digest(stdin.as_bytes()))),
            program: None,
            user: session.map(|session| session.creator.to_string()),
            image_digest: None,
            mounts: Vec::new(),
            network: if self.session_network(call.session) {
                "session"
            } else {
                "none"
            }
            .to_owned(),
            limits: limits.collect(),
            files: call
                .files
                .iter()
                .map(|(path, sha256)| FileHash {
                    path: path.clone(),
                    sha256: sha256.clone(),
                })
                .collect(),
            not_covered: call.not_covered.clone(),
            arguments,
        };
        let hash = form.digest();
        form.call.clone_from(&call.wire.id);
        Plan {
            digest: form.digest(),
            json: form.canonical(),
            hash,
        }
    }
}
