//! Whether a call may run: the first that speaks wins.
//!
//! stop, tool disabled, deny rules, the session's `require_approval`, untrusted content, grants, and last where the call's
//! effect stays: in the session's sandbox and workspace without network it is allowed, anything else is asked.

use nexus_tools::Code;
use serde_json::Value;

use super::propose::shown;
use super::{Call, Failure};
use crate::domain::tool::{Tool, effects};
use crate::domain::{State, Time};

/// What the policy says of a call.
#[derive(Clone, Debug)]
pub(super) enum Decision {
    Allow,
    /// What it may do, in words.
    Ask(Vec<String>),
    Refuse(Failure),
}

impl State {
    pub(super) fn policy(&self, call: &Call, tool: &Tool, now: Time) -> Decision {
        if let Some(stopped) = self.stops.covers(self.driver_of(call)) {
            return Decision::Refuse(Failure::new(Code::Cancelled, stopped));
        }
        if !tool.definition.enabled {
            return Decision::Refuse(Failure::new(
                Code::NotAllowed,
                format!("the tool {} is disabled", call.wire.tool),
            ));
        }
        let arguments: Value = serde_json::from_str(&call.wire.arguments_json).unwrap_or_default();
        if let Some(failure) = self.denied_by_rule(call, tool, &arguments) {
            return Decision::Refuse(failure);
        }
        let risks = self.risks(call, tool, &arguments);
        let session = self.sessions.get(call.session);
        let policy = session.and_then(|session| session.config.policy.as_ref());
        if policy.is_some_and(|policy| policy.require_approval) && !(tool.is_builtin() && tool.definition.read_only) {
            let mut risks = risks;
            risks.push("the session wants every call approved".into());
            return Decision::Ask(risks);
        }
        if risks.is_empty() {
            return Decision::Allow;
        }
        let tainted = self.is_tainted(call);
        if self.granted(call, &arguments, tainted, now) {
            return Decision::Allow;
        }
        Decision::Ask(risks)
    }

    /// Rules of the tool's definition that refuse a call.
    fn denied_by_rule(&self, call: &Call, tool: &Tool, arguments: &Value) -> Option<Failure> {
        let rules = tool.definition.security_policy.as_ref()?;
        let creator = self
            .sessions
            .get(call.session)
            .map_or(&call.caller, |session| &session.creator);
        if !rules.allowed_users.is_empty() && !rules.allowed_users.iter().any(|user| **user == **creator) {
            return Some(Failure::new(
                Code::NotAllowed,
                format!("the tool {} is not for this user", call.wire.tool),
            ));
        }
        let command = arguments.get("command").and_then(Value::as_str).unwrap_or_default();
        let blocked = rules.blocked_commands.iter().find(|blocked| {
            command
                .split(|c: char| !c.is_ascii_alphanumeric() && !"_-./".contains(c))
                .any(|word| word == **blocked)
        });
        blocked.map(|blocked| {
            Failure::new(
                Code::NotAllowed,
                format!("the command {blocked} is blocked for this tool"),
            )
        })
    }

    /// What of a call's effect leaves the session's sandbox and workspace, in words; empty: nothing.
    fn risks(&self, call: &Call, tool: &Tool, arguments: &Value) -> Vec<String> {
        let mut risks = Vec::new();
        let word = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
        let effects = effects(&tool.definition, arguments);
        let own = *word("to") == *call.session_id;
        if effects.people && !own {
            risks.push(format!("sends a message to {}", shown(word("to"))));
        }
        if effects.network {
            risks.push(match word("url") {
                "" => "sends something over the network".into(),
                url => format!("fetches {} from the network", shown(url)),
            });
        }
        if !effects.sandboxed && !effects.people && !effects.network {
            risks.push("may have an effect outside of the session's sandbox".into());
        }
        if tool.definition.source.starts_with("mcp:") {
            risks.push(format!("{} is not part of Nexus", tool.definition.source));
        }
        let runs = tool.is_builtin() && matches!(call.wire.tool.as_str(), "exec" | "process");
        if runs && self.session_network(call.session) && self.is_tainted(call) {
            risks.push("runs with network access after reading untrusted content".into());
        }
        risks
    }

    /// Whether the session lets its commands use the network.
    pub(in crate::domain) fn session_network(&self, session: u64) -> bool {
        let session = self.sessions.get(session);
        session
            .and_then(|session| session.config.policy.as_ref())
            .is_some_and(|policy| policy.allow_network)
    }

    /// Whether the call's run read content that is not to be trusted.
    pub(super) fn is_tainted(&self, call: &Call) -> bool {
        let run = call.step.and_then(|(n, _)| self.runs.get(call.session, n));
        run.is_some_and(|run| run.wire.tainted)
    }

    /// The assistant that asked for a call, by its id.
    fn driver_of(&self, call: &Call) -> &str {
        let run = call.step.and_then(|(n, _)| self.runs.get(call.session, n));
        run.map_or("", |run| &run.wire.agent_id)
    }
}
