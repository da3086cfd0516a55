//! The calls of `tool.v1`: the registry, and executions.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nexus_daemon::{Caller, Role};
use nexus_proto::agent::v1::TaskInput;
use nexus_proto::common::v1::{ToolDefinition, ToolExecutionResult, ToolExecutionStatus, ToolState};
use nexus_proto::orchestrator::v1::{CallState, RunEvent, run_event::Kind};
use nexus_proto::tool::v1::*;
use nexus_proto::{llm::v1::block, orchestrator::v1::RunCall};

use super::run_watch::{RunWatcher, Shown};
use super::{Engine, Once};
use crate::domain::access::role_refused;
use crate::domain::call::{Call, ExecuteCall, not_found};
use crate::domain::event::{time, timestamp};
use crate::domain::sessions::View;
use crate::domain::{Error, State, ids};

/// Executions that one listing looks at before it gives a page.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;

impl Engine {
    /// A change of the registry: administrators only, since every session's models are told of its tools.
    pub(crate) async fn change_tools<R: prost::Message + Default>(
        &self,
        once: Option<Once>,
        caller: &Caller,
        f: impl FnOnce(&mut State, &mut crate::domain::Step<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if !caller.is_admin() {
            return Err(role_refused(caller, "change tools"));
        }
        self.room()?;
        self.once(once, |parts, step| {
            parts.state.sweep();
            f(parts.state, step)
        })
        .await
    }

    pub async fn register_tool(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: RegisterToolRequest,
    ) -> Result<RegisterToolResponse, Error> {
        let definition = request.definition.ok_or(Error::Required("definition"))?;
        let name = definition.name.clone();
        self.change_tools(once, caller, |state, step| {
            state.register_tool(step, caller, definition, request.force)?;
            let tool = Some(state.tool_instance(state.tool(&name)?));
            Ok(RegisterToolResponse { name, tool })
        })
        .await
    }

    pub fn tools_matching(&self, filter: &ToolFilter) -> Vec<ToolInstance> {
        self.look(|ledger| {
            let tools = ledger.state.tools.iter();
            let instances = tools.map(|tool| ledger.state.tool_instance(tool));
            instances.filter(|tool| matches_tool(tool, filter)).collect()
        })
    }

    pub fn tool(&self, name: &str) -> Result<ToolInstance, Error> {
        self.look(|ledger| Ok(ledger.state.tool_instance(ledger.state.tool(name)?)))
    }

    /// Takes an execution. The same `call_id` from the same caller is the same execution.
    pub async fn execute_tool(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: ExecuteToolRequest,
    ) -> Result<ExecuteToolResponse, Error> {
        self.room()?;
        let session = match request.session_id.as_str() {
            "" => return Err(Error::Required("session_id")),
            id => self.open_session(id, self.executing_view(id, caller)?).await?,
        };
        let once = match (&once, request.call_id.as_str()) {
            (None, id) if !id.is_empty() => Some(Once::new(&caller.principal, "ExecuteTool", id, &request)?),
            _ => once,
        };
        let arguments_json = self.look(|ledger| arguments(&ledger.state, &request));
        let wanted = ExecuteCall {
            tool: request.tool_name,
            arguments_json,
            session,
            session_id: request.session_id,
            timeout_ns: request.timeout_ns,
            correlation_id: request.correlation_id,
            limits: request.resource_limits,
        };
        self.once(once, |parts, step| {
            let key = parts.state.execute_call(step, caller, wanted)?;
            let call = parts.state.calls.get(key).expect("it was just taken");
            Ok(ExecuteToolResponse {
                execution_id: call.wire.id.clone(),
                execution: Some(execution(call)),
            })
        })
        .await
    }

    /// The sessions that a caller may execute tools in: its own, and for an agent those that it drives.
    fn executing_view<'a>(&self, id: &str, caller: &'a Caller) -> Result<View<'a>, Error> {
        match caller.role {
            Role::Agent if self.look(|ledger| ledger.state.drives_session(id, caller)) => Ok(View::All),
            Role::Agent => Err(Error::SessionNotFound(id.into())),
            _ => View::of(caller, "execute tools"),
        }
    }

    /// An execution, if this caller may see it.
    pub async fn execution(&self, id: &str, caller: &Caller) -> Result<ToolExecution, Error> {
        Ok(execution(&self.call_of(id, caller).await?))
    }

    async fn call_of(&self, id: &str, caller: &Caller) -> Result<Call, Error> {
        if id.is_empty() {
            return Err(Error::Required("execution_id"));
        }
        self.settled(self.look(|ledger| ledger.tx)).await?;
        let open = self.look(|ledger| ledger.state.calls.find(id).cloned());
        let call = match open {
            Some(call) => Some(call),
            None => match ids::number(id) {
                Some(key) => self.shared.stored.call(key).await?.filter(|call| call.wire.id == id),
                None => None,
            },
        };
        let call = call.ok_or_else(|| not_found(id))?;
        if self.sees_call(&call, caller).await? {
            Ok(call)
        } else {
            Err(not_found(id))
        }
    }

    async fn sees_call(&self, call: &Call, caller: &Caller) -> Result<bool, Error> {
        if caller.is_admin() || (!call.caller.is_empty() && *call.caller == *caller.principal) {
            return Ok(true);
        }
        if caller.role == Role::Agent {
            return Ok(self.look(|ledger| ledger.state.drives_session(&call.session_id, caller)));
        }
        let session = self.session_by_key(call.session).await?;
        Ok(session.is_some_and(|(_, _, creator)| *creator == *caller.principal))
    }

    /// Executions that match, oldest first.
    pub async fn executions(
        &self,
        caller: &Caller,
        request: ListExecutionsRequest,
    ) -> Result<ListExecutionsResponse, Error> {
        let filter = request.filter.unwrap_or_default();
        let session = match filter.session_id.as_str() {
            "" => None,
            id => Some(self.open_session(id, self.executing_view(id, caller)?).await?),
        };
        let size = usize::try_from(request.page_size)
            .ok()
            .filter(|size| *size > 0)
            .unwrap_or(PAGE);
        let size = size.min(LARGEST_PAGE);
        let mut after = match request.page_token.as_str() {
            "" => None,
            token => Some(super::approvals::page_place(token)?),
        };
        self.settled(self.look(|ledger| ledger.tx)).await?;
        let mut found = Vec::new();
        loop {
            let (page, last) = self.shared.stored.calls(session, after, size).await?;
            for call in page {
                let shown = execution(&call);
                if matches_execution(&shown, &filter) && self.sees_call(&call, caller).await? {
                    found.push(((call.session, call.key), shown));
                }
            }
            after = last;
            if after.is_none() || found.len() >= size {
                break;
            }
        }
        let more = found.len() > size || after.is_some();
        found.truncate(size);
        let next = found
            .last()
            .filter(|_| more)
            .map(|((session, key), _)| format!("{session:x}.{key:x}"));
        let executions: Vec<ToolExecution> = found.into_iter().map(|(_, shown)| shown).collect();
        Ok(ListExecutionsResponse {
            total_count: i32::try_from(executions.len()).unwrap_or(i32::MAX),
            executions,
            next_page_token: next.unwrap_or_default(),
        })
    }

    pub async fn cancel_execution(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: CancelExecutionRequest,
    ) -> Result<CancelExecutionResponse, Error> {
        let call = self.call_of(&request.execution_id, caller).await?;
        let reason = if request.reason.is_empty() {
            "cancelled by its caller"
        } else {
            &request.reason
        };
        self.once(once, |parts, step| {
            parts.state.sweep();
            let open = parts.state.calls.get(call.key).is_some_and(|call| !call.is_over());
            parts.state.cancel_call(step, call.key, reason);
            let now = parts.state.calls.get(call.key).unwrap_or(&call);
            let status = if open {
                ToolExecutionStatus::Cancelled
            } else {
                status(now.state())
            };
            Ok(CancelExecutionResponse {
                execution_id: request.execution_id,
                status: status.into(),
                cancelled: open,
            })
        })
        .await
    }

    /// Follows an execution: what is known of it, then its news.
    pub async fn follow_execution(
        &self,
        id: &str,
        caller: &Caller,
    ) -> Result<(VecDeque<StreamToolResponse>, Arc<RunWatcher>), Error> {
        let call = self.call_of(id, caller).await?;
        let watcher = self.watch_runs(Some(call.session), Shown::Call(id.to_owned()));
        // It may have moved on before the watch began.
        let now = self.call_of(id, caller).await?;
        let first = ended_frames(&now.wire, now.wire.ended_at).into_iter();
        let first = first.map(|payload| StreamToolResponse { payload: Some(payload) });
        Ok((first.collect(), watcher))
    }

    /// Bytes for a running execution.
    pub async fn execution_input(&self, id: &str, caller: &Caller, input: ToolInput) -> Result<(), Error> {
        let call = self.call_of(id, caller).await?;
        let Some(task) = call.task.filter(|_| !call.is_over()) else {
            return Ok(());
        };
        let input = TaskInput {
            data: input.data,
            metadata: input.metadata,
        };
        self.look_mut(|ledger| ledger.input_of_task(task, input))
    }

    pub fn tool_stats(&self, name: &str) -> Result<GetStatsResponse, Error> {
        self.look(|ledger| {
            let state = &ledger.state;
            if !name.is_empty() {
                state.tool(name)?;
            }
            let wanted = state
                .tools
                .iter()
                .filter(|tool| name.is_empty() || tool.definition.name == name);
            let mut service = ToolServiceStats {
                active_executions: i64::try_from(state.calls.count_open()).unwrap_or(i64::MAX),
                started_at: Some(timestamp(super::since_epoch(self.started()))),
                ..ToolServiceStats::default()
            };
            let tool_stats: Vec<ToolStats> = wanted
                .map(|tool| {
                    service.total_executions += tool.stats.total_executions;
                    service.successful_executions += tool.stats.successful_executions;
                    service.failed_executions += tool.stats.failed_executions + tool.stats.timeout_executions;
                    ToolStats {
                        tool_name: tool.definition.name.clone(),
                        usage_stats: Some(tool.stats),
                    }
                })
                .collect();
            Ok(GetStatsResponse {
                service_stats: Some(service),
                tool_stats,
            })
        })
    }

    /// How many tools there are, how many are enabled, and how many executions are not over.
    pub fn tool_counts(&self) -> (usize, usize, usize) {
        self.look(|ledger| {
            let enabled = ledger.state.tools.iter().filter(|tool| tool.definition.enabled).count();
            (ledger.state.tools.len(), enabled, ledger.state.calls.count_open())
        })
    }
}

/// The arguments as one JSON object: as given, or made of the map of texts by the types of the definition.
fn arguments(state: &State, request: &ExecuteToolRequest) -> String {
    if !request.arguments_json.is_empty() {
        return request.arguments_json.clone();
    }
    let defined = state.tools.get(&request.tool_name).map(|tool| &tool.definition);
    let mut object = serde_json::Map::new();
    for parameter in defined.iter().flat_map(|definition| &definition.parameters) {
        if !parameter.default_value.is_empty() {
            object.insert(parameter.name.clone(), typed(&parameter.default_value));
        }
    }
    let strings = string_arguments(defined);
    for (name, value) in &request.parameters {
        let value = if strings.contains(name) {
            value.as_str().into()
        } else {
            typed(value)
        };
        object.insert(name.clone(), value);
    }
    serde_json::Value::Object(object).to_string()
}

/// Arguments that the schema says are texts: they are never read as JSON.
fn string_arguments(definition: Option<&ToolDefinition>) -> Vec<String> {
    let Some(definition) = definition else {
        return Vec::new();
    };
    let schema: serde_json::Value = serde_json::from_str(&definition.input_schema_json).unwrap_or_default();
    let properties = schema.get("properties").and_then(|properties| properties.as_object());
    let texts = properties
        .into_iter()
        .flatten()
        .filter(|(_, schema)| schema["type"] == "string");
    let named = texts.map(|(name, _)| name.clone());
    let declared = definition.parameters.iter().filter(|parameter| {
        use nexus_proto::common::v1::ParameterType;
        matches!(parameter.r#type(), ParameterType::String | ParameterType::Unspecified)
    });
    named.chain(declared.map(|parameter| parameter.name.clone())).collect()
}

fn typed(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

fn matches_tool(tool: &ToolInstance, filter: &ToolFilter) -> bool {
    let definition = tool.definition.as_ref();
    let labels =
        |name: &String, value: &String| definition.and_then(|definition| definition.metadata.get(name)) == Some(value);
    (filter.r#type == 0 || filter.r#type == tool.r#type)
        && (filter.state == i32::from(ToolState::Unspecified) || filter.state == tool.state)
        && (!filter.enabled || tool.enabled)
        && (filter.name_pattern.is_empty() || glob(filter.name_pattern.as_bytes(), tool.name.as_bytes()))
        && filter.labels.iter().all(|(name, value)| labels(name, value))
}

/// A name with `*` and `?` as wildcards, without recursion.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => (p, n) = (p + 1, n + 1),
            Some(c) if *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

fn matches_execution(execution: &ToolExecution, filter: &ExecutionFilter) -> bool {
    let created = execution.created_at.as_ref().map_or(0, time);
    (filter.tool_name.is_empty() || filter.tool_name == execution.tool_name)
        && (filter.status == 0 || filter.status == execution.status)
        && (filter.session_id.is_empty() || filter.session_id == execution.session_id)
        && filter.created_after.as_ref().is_none_or(|after| created > time(after))
        && filter
            .created_before
            .as_ref()
            .is_none_or(|before| created < time(before))
}

/// A call's state in the words of `tool.v1`.
pub(crate) fn status(state: CallState) -> ToolExecutionStatus {
    match state {
        CallState::Unspecified => ToolExecutionStatus::Unspecified,
        CallState::Proposed | CallState::Asked | CallState::Allowed => ToolExecutionStatus::Pending,
        CallState::Started | CallState::Running => ToolExecutionStatus::Running,
        CallState::Done => ToolExecutionStatus::Completed,
        CallState::Refused | CallState::Failed | CallState::Unknown => ToolExecutionStatus::Failed,
        CallState::Timeout => ToolExecutionStatus::Timeout,
        CallState::Cancelled => ToolExecutionStatus::Cancelled,
    }
}

/// A call as `tool.v1` shows it.
pub(crate) fn execution(call: &Call) -> ToolExecution {
    let mut shown = execution_of(&call.wire, &call.session_id);
    shown.correlation_id.clone_from(&call.correlation_id);
    if let Some(started) = &call.wire.created_at {
        shown.expires_at = Some(timestamp(time(started).saturating_add(call.timeout)));
    }
    shown
}

pub(crate) fn execution_of(call: &RunCall, session_id: &str) -> ToolExecution {
    let took = match (&call.started_at, &call.ended_at) {
        (Some(started), Some(ended)) => time(ended).saturating_sub(time(started)),
        _ => 0,
    };
    let over = call.ended_at.is_some();
    let text = text_of(call);
    let failed = over && !call.code.is_empty();
    ToolExecution {
        execution_id: call.id.clone(),
        tool_name: call.tool.clone(),
        session_id: session_id.into(),
        status: status(call.state()).into(),
        created_at: call.created_at,
        started_at: call.started_at,
        completed_at: call.ended_at,
        parameters: parameters(&call.arguments_json),
        result: over.then(|| result(call, &text, took)),
        duration_ns: took,
        error_message: if failed { text } else { String::new() },
        approval_id: call.approval_id.clone(),
        attempt: call.attempt,
        code: call.code.clone(),
        spill: call.spill.clone(),
        ..ToolExecution::default()
    }
}

fn result(call: &RunCall, text: &str, took: i64) -> ToolExecutionResult {
    let image = call.result.iter().find_map(|block| match &block.kind {
        Some(block::Kind::Image(image)) => Some(image),
        _ => None,
    });
    let mut metadata = HashMap::new();
    if let Some(image) = image {
        metadata.insert("media_type".to_owned(), image.media_type.clone());
    }
    ToolExecutionResult {
        execution_id: call.id.clone(),
        tool_name: call.tool.clone(),
        status: status(call.state()).into(),
        output_data: image.map(|image| image.data.clone()).unwrap_or_default(),
        output_text: text.into(),
        metadata,
        duration_ns: took,
        completed_at: call.ended_at,
        ..ToolExecutionResult::default()
    }
}

fn text_of(call: &RunCall) -> String {
    let texts = call.result.iter().filter_map(|block| match &block.kind {
        Some(block::Kind::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

fn parameters(arguments: &str) -> HashMap<String, String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(arguments).unwrap_or_default();
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    object.into_iter().map(|(name, value)| (name, text(value))).collect()
}

/// The frames that a piece of news of a call is for those who follow it; the last one ends their stream.
pub(crate) fn frames(event: RunEvent) -> Vec<StreamToolResponse> {
    use stream_tool_response::Payload;
    let payloads = match event.kind {
        Some(Kind::Output(output)) => vec![Payload::Output(ToolOutput {
            text: String::from_utf8(output.data.to_vec()).unwrap_or_default(),
            data: output.data,
            stream_type: output.stream,
            timestamp: event.timestamp,
        })],
        Some(Kind::Call(update)) => update
            .call
            .map(|call| ended_frames(&call, event.timestamp))
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    payloads
        .into_iter()
        .map(|payload| StreamToolResponse { payload: Some(payload) })
        .collect()
}

/// A call's state, and how it ended if it did.
pub(crate) fn ended_frames(call: &RunCall, at: Option<nexus_proto::Timestamp>) -> Vec<stream_tool_response::Payload> {
    use stream_tool_response::Payload;
    let state = call.state();
    let mut payloads = vec![Payload::Status(ToolExecutionStatusUpdate {
        status: status(state).into(),
        message: call.code.clone(),
        timestamp: at,
    })];
    let text = text_of(call);
    match state {
        CallState::Done | CallState::Cancelled => payloads.push(Payload::Complete(ToolExecutionComplete {
            execution_id: call.id.clone(),
            result: execution_of(call, "").result,
            completed_at: call.ended_at,
        })),
        CallState::Refused | CallState::Failed | CallState::Timeout | CallState::Unknown => {
            payloads.push(Payload::Error(ToolExecutionError {
                code: call.code.clone(),
                message: text,
                details: Vec::new(),
                occurred_at: call.ended_at,
            }));
        }
        _ => {}
    }
    payloads
}

/// Whether a frame is the last of its stream.
pub(crate) fn is_last(frame: &StreamToolResponse) -> bool {
    use stream_tool_response::Payload;
    matches!(frame.payload, Some(Payload::Complete(_) | Payload::Error(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_names() {
        for (pattern, name, matches) in [
            ("read_*", "read_file", true),
            ("*_file", "read_file", true),
            ("?ead*e", "read_file", true),
            ("read", "read_file", false),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), matches, "{pattern} {name}");
        }
    }
}
