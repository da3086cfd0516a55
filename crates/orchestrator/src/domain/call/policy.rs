//! Whether a call may run: the first that speaks wins.
//!
//! stop, tool disabled, deny rules, the session's `require_approval`, untrusted content, grants, and last where the call's
//! effect stays: in the session's sandbox and workspace without network it is allowed, anything else is asked.

use nexus_tools::Code;
use serde_json::Value;

use super::{Call, Failure};
use crate::domain::tool::{Tool, compiled, effects};
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
        let leaves = self.leaves_sandbox(call, tool, &arguments);
        let tainted = self.is_tainted(call);
        let session = self.sessions.get(call.session);
        let policy = session.and_then(|session| session.config.policy.as_ref());
        let always = policy.is_some_and(|policy| policy.require_approval);
        if always && !(tool.is_builtin() && tool.definition.read_only) {
            let mut risks = risks(tool, &arguments, tainted);
            risks.push("The session wants every call approved.".into());
            return Decision::Ask(risks);
        }
        if !leaves || self.granted(call, &arguments, tainted, now) {
            return Decision::Allow;
        }
        Decision::Ask(risks(tool, &arguments, tainted))
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

    /// Whether a call has an effect outside of the session's sandbox and workspace, or uses the network.
    fn leaves_sandbox(&self, call: &Call, tool: &Tool, arguments: &Value) -> bool {
        let effects = effects(&tool.definition, arguments);
        let own = arguments.get("to").and_then(Value::as_str).unwrap_or_default() == &*call.session_id;
        let people = effects.people && !own;
        let foreign = tool.definition.source.starts_with("mcp:");
        // What untrusted content asked for may leave by the network that the session has.
        let runs = tool.is_builtin() && matches!(call.wire.tool.as_str(), "exec" | "process");
        let sends = runs && self.session_network(call.session) && self.is_tainted(call);
        people || effects.network || (!effects.sandboxed && !effects.people) || foreign || sends
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

/// What a call may do, in words, for whoever decides about it.
fn risks(tool: &Tool, arguments: &Value, tainted: bool) -> Vec<String> {
    match compiled(&tool.definition) {
        Ok(definition) => nexus_tools::risks(&definition, arguments, tainted),
        Err(error) => vec![format!("The tool's definition cannot be read: {}.", error.what)],
    }
}
