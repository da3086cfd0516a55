//! `ExecuteTool`: a call without a run. It is checked, approved, locked and executed as any other.

use nexus_daemon::Caller;
use nexus_proto::common::v1::ResourceLimits;
use nexus_proto::orchestrator::v1::{CallState, RunCall};

use super::Call;
use crate::domain::event::timestamp;
use crate::domain::tool::check;
use crate::domain::{Error, State, Step};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct ExecuteCall {
    pub tool: String,
    pub arguments_json: String,
    /// 0: none.
    pub session: u64,
    pub session_id: String,
    pub timeout_ns: i64,
    pub correlation_id: String,
    pub limits: Option<ResourceLimits>,
}

/// Longest argument text of one call.
const ARGUMENT_BYTES: usize = 4 << 20;
/// Calls that are not over, of all sessions.
const OPEN: usize = 10_000;

impl State {
    /// Takes a call. Returns its key.
    pub fn execute_call(&mut self, step: &mut Step<'_>, caller: &Caller, wanted: ExecuteCall) -> Result<u64, Error> {
        self.sweep();
        if wanted.tool.is_empty() {
            return Err(Error::Required("tool_name"));
        }
        let tool = self.tool(&wanted.tool)?.clone();
        if !tool.definition.enabled {
            return Err(Error::ToolDisabled(wanted.tool));
        }
        if wanted.arguments_json.len() > ARGUMENT_BYTES {
            return Err(Error::Invalid(format!(
                "the arguments are longer than {ARGUMENT_BYTES} bytes"
            )));
        }
        if wanted.timeout_ns < 0 {
            return Err(Error::Invalid("timeout_ns must not be negative".into()));
        }
        if self.calls.count_open() >= OPEN {
            return Err(Error::TooManyCalls(OPEN));
        }
        if let Some(session) = self.sessions.get(wanted.session).filter(|session| session.is_closed()) {
            return Err(Error::SessionNotActive {
                id: session.id.to_string(),
                state: session.state_name(),
            });
        }
        let checked = check(&tool.definition, &wanted.arguments_json)
            .map_err(|failure| Error::Invalid(failure.text().to_owned()))?;
        let (key, id) = step.ids.keyed(step.now);
        let mut call = Call {
            session: wanted.session,
            session_id: wanted.session_id.into(),
            wire: RunCall {
                id,
                tool: wanted.tool,
                state: CallState::Proposed.into(),
                created_at: Some(timestamp(step.now)),
                ..RunCall::default()
            },
            caller: caller.principal.clone(),
            correlation_id: wanted.correlation_id,
            ..Call::empty(key)
        };
        call.prepare(&tool, checked);
        if wanted.timeout_ns > 0 {
            call.timeout = wanted.timeout_ns;
        }
        let session = call.session;
        self.calls.insert(call);
        self.decide_call(step, key, &tool);
        if self.calls.get(key).is_some_and(Call::is_over) {
            self.calls.retire(key);
        }
        self.call_moved(step, key);
        self.start_calls(step, session);
        Ok(key)
    }
}
