//! Gives allowed calls to workers: each attempt is a task, pushed to the worker's open stream.

use std::collections::{BTreeSet, HashMap};

use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, AgentType, MessageType, Task as WireTask, TaskConfig, TaskMessage, TaskOutput,
    TaskPriority, TaskState, TaskType, agent_message,
};
use nexus_proto::orchestrator::v1::{CallOutput, CallState, run_event::Kind};
use nexus_proto::words;

use super::{CONFIRM_PATIENCE, Call, WORKER_PATIENCE};
use crate::domain::agent::Agent;
use crate::domain::event::timestamp;
use crate::domain::run::run_event;
use crate::domain::task::{Task, is_able};
use crate::domain::timers::Timer;
use crate::domain::{Effect, Fact, State, Step};

/// Calls that a worker takes at once that does not say.
const DEFAULT_AT_ONCE: usize = 8;
/// The tool under which a worker says that it runs what users define.
const CUSTOM: &str = "custom";

impl State {
    /// Starts every call of a session that may start now, in the order in which they were asked for.
    pub(in crate::domain) fn start_calls(&mut self, step: &mut Step<'_>, session: u64) {
        let allowed = self
            .calls
            .open_of(session)
            .filter(|call| call.state() == CallState::Allowed);
        let keys: Vec<u64> = allowed.map(|call| call.key).collect();
        for key in keys {
            let Some(call) = self.calls.get(key) else { continue };
            let ending = call
                .step
                .and_then(|(n, _)| self.runs.get(session, n))
                .is_some_and(|run| run.ending.is_some());
            if ending || !self.calls.may_start(call) {
                continue;
            }
            let Some(agent) = self.pick_call_worker(call) else {
                self.wait_for_worker(step, key);
                continue;
            };
            if self.launch_is_approved(step, key) {
                self.start_call(step, key, agent);
            }
        }
    }

    fn wait_for_worker(&mut self, step: &mut Step<'_>, key: u64) {
        if self.calls.waiting.insert(key) {
            let due = step.now.saturating_add(WORKER_PATIENCE);
            let call = self.calls.get_mut(key).expect("the caller looked it up");
            call.due = Some(due);
            self.timers.set(due, Timer::Call(key));
        }
    }

    /// A worker came, or has room again.
    pub(in crate::domain) fn start_waiting_calls(&mut self, step: &mut Step<'_>) {
        let waiting = self.calls.waiting.iter().filter_map(|key| self.calls.get(*key));
        let sessions: BTreeSet<u64> = waiting.map(|call| call.session).collect();
        sessions.into_iter().for_each(|session| self.start_calls(step, session));
    }

    /// The worker with the fewest calls that can execute this one and has room; one that holds its stream comes first.
    fn pick_call_worker(&self, call: &Call) -> Option<u64> {
        let builtin = self.tools.get(&call.wire.tool).is_some_and(|tool| tool.is_builtin());
        let tool = if builtin { call.wire.tool.as_str() } else { CUSTOM };
        let loads_of = self.tasks.loads();
        let able = self
            .agents
            .iter()
            .filter(|agent| agent.trusted || self.rules.workers.contains(&*agent.owner))
            .filter(|agent| is_able(agent, TaskType::ToolExecution) && runs_tool(agent, tool));
        let loads = able.filter_map(|agent| {
            let load = loads_of.get(&agent.key).copied().unwrap_or(0);
            let most = agent
                .request
                .capabilities
                .as_ref()
                .map_or(0, |c| c.max_concurrent_tasks);
            let most = usize::try_from(most)
                .ok()
                .filter(|most| *most > 0)
                .unwrap_or(DEFAULT_AT_ONCE);
            (load < most).then_some((agent.link.is_none(), load, agent.key))
        });
        loads.min().map(|(_, _, key)| key)
    }

    /// The next attempt of a call: its task is made, and pushed once this is on disk.
    fn start_call(&mut self, step: &mut Step<'_>, key: u64, agent: u64) {
        self.calls.waiting.remove(&key);
        let agent_id = self
            .agents
            .get(agent)
            .map(|agent| agent.id.to_string())
            .unwrap_or_default();
        let (task_key, task_id) = step.ids.keyed(step.now);
        let due = step.now.saturating_add(CONFIRM_PATIENCE);
        let call = self.calls.get_mut(key).expect("the caller looked it up");
        call.wire.attempt += 1;
        call.wire.set_state(CallState::Started);
        call.wire.agent_id.clone_from(&agent_id);
        call.wire.task_id.clone_from(&task_id);
        call.wire.started_at = Some(timestamp(step.now));
        call.task = Some(task_key);
        call.due = Some(due);
        call.lost = false;
        call.looked_at = false;
        call.tail.clear();
        call.written = 0;
        let (timeout, session_id) = (call.timeout, call.session_id.to_string());
        let priority = TaskPriority::High;
        let config = self.task_config(key);
        let call = self.calls.get(key).expect("it was here a line ago");
        let expires = step.now.saturating_add(timeout).saturating_add(CONFIRM_PATIENCE);
        let wire = WireTask {
            id: task_id.clone(),
            name: call.wire.tool.clone(),
            session_id,
            r#type: TaskType::ToolExecution.into(),
            state: TaskState::Pending.into(),
            priority: priority.into(),
            created_at: Some(timestamp(step.now)),
            expires_at: Some(timestamp(expires)),
            config: Some(config),
            agent_id,
            run_id: call
                .step
                .map(|(n, _)| self.id_of_run(call.session, n).to_string())
                .unwrap_or_default(),
            call_id: call.wire.id.clone(),
            ..WireTask::default()
        };
        self.tasks.insert(Task {
            key: task_key,
            id: task_id.into(),
            agent: Some(agent),
            bound: true,
            giver: None,
            attempt: 1,
            started: None,
            expires,
            call: Some(key),
            wire,
        });
        self.timers.set(expires, Timer::Task(task_key));
        self.timers.set(due, Timer::Call(key));
        step.fact(Fact::Call(key));
        step.fact(Fact::Task(task_key));
        step.fact(Fact::TaskMade(task_key));
        self.call_event(step, key, words::event::CALL_STARTED);
        self.call_moved(step, key);
        self.push_task(step, task_key);
    }

    /// What the worker is told of a call.
    fn task_config(&self, key: u64) -> TaskConfig {
        let call = self.calls.get(key).expect("the caller looked it up");
        let tool = self.tools.get(&call.wire.tool);
        let network = if self.session_network(call.session) {
            "session"
        } else {
            "none"
        };
        let mut parameters = HashMap::from([
            ("network".to_owned(), network.to_owned()),
            ("tool".to_owned(), call.wire.tool.clone()),
            ("attempt".to_owned(), call.wire.attempt.to_string()),
        ]);
        if !call.session_id.is_empty() && !self.rules.workspaces.is_empty() {
            parameters.insert(
                "workspace".into(),
                format!("{}/{}", self.rules.workspaces, call.session_id),
            );
        }
        if let Some(session) = self.sessions.get(call.session) {
            parameters.insert("owner".into(), session.creator.to_string());
        }
        if call.approved.is_some() && !call.files.is_empty() {
            let files = call
                .files
                .iter()
                .map(|(path, sha256)| serde_json::json!({ "path": path, "sha256": sha256 }));
            parameters.insert("files".into(), serde_json::Value::from_iter(files).to_string());
        }
        if let Some((before, after)) = &call.hashes {
            parameters.insert("hash_before".into(), before.clone());
            parameters.insert("hash_after".into(), after.clone());
        }
        let user_tool = tool.filter(|tool| !tool.is_builtin());
        if let Some(image) = user_tool
            .map(|tool| &tool.definition.container_image)
            .filter(|image| !image.is_empty())
        {
            parameters.insert("image".into(), image.clone());
        }
        TaskConfig {
            command: if user_tool.is_some() {
                CUSTOM.into()
            } else {
                call.wire.tool.clone()
            },
            arguments: user_tool
                .map(|tool| tool.definition.command.clone())
                .unwrap_or_default(),
            timeout_ns: call.timeout,
            input_data: call.wire.arguments_json.clone().into(),
            parameters,
            ..TaskConfig::default()
        }
    }

    /// Hands a task to its worker's open stream; one without a stream is told with its next heartbeat.
    pub(in crate::domain) fn push_task(&self, step: &mut Step<'_>, key: u64) {
        let Some(task) = self.tasks.get(key) else { return };
        let linked = task.agent.and_then(|agent| self.agents.get(agent));
        let Some(agent) = linked.filter(|agent| agent.link.is_some() && takes_tasks(agent)) else {
            return;
        };
        step.effect(Effect::Deliver {
            agent: agent.key,
            message: Box::new(AgentMessage {
                id: format!("{}-{}", task.id, task.attempt),
                r#type: MessageType::TaskRequest.into(),
                timestamp: Some(timestamp(step.now)),
                source_id: "orchestrator".into(),
                target_id: agent.id.to_string(),
                metadata: Some(AgentMessageMetadata {
                    correlation_id: task.id.to_string(),
                    session_id: task.wire.session_id.clone(),
                    ..AgentMessageMetadata::default()
                }),
                payload: Some(agent_message::Payload::TaskMessage(TaskMessage {
                    task_id: task.id.to_string(),
                    session_id: task.wire.session_id.clone(),
                    state: task.wire.state,
                    task: Some(task.wire.clone()),
                    ..TaskMessage::default()
                })),
            }),
            mail: false,
        });
    }

    /// A piece of a call's output: shown to those who watch, and its end is kept.
    pub(in crate::domain) fn call_output(&mut self, step: &mut Step<'_>, key: u64, output: &TaskOutput) {
        let data = if output.data.is_empty() {
            output.text.clone().into()
        } else {
            output.data.clone()
        };
        self.call_wrote(key, &data);
        let Some(call) = self.calls.get_mut(key) else { return };
        let offset = call.written;
        call.written += data.len() as u64;
        let session = call.session;
        let said = CallOutput {
            call_id: call.wire.id.clone(),
            stream: if output.stream_type.is_empty() {
                "stdout".into()
            } else {
                output.stream_type.clone()
            },
            data,
            offset,
        };
        let call = self.calls.get(key).expect("it was here a line ago");
        let run = call.step.map(|(n, _)| self.id_of_run(session, n)).unwrap_or_default();
        let event = run_event(step.now, &call.session_id, &run, Kind::Output(said));
        step.effect(Effect::Run {
            session,
            event: Box::new(event),
        });
    }

    /// A worker took the task of a call: it may begin.
    pub(in crate::domain) fn call_confirmed(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(call) = self
            .calls
            .get_mut(key)
            .filter(|call| call.state() == CallState::Started)
        else {
            return;
        };
        call.wire.set_state(CallState::Running);
        call.due = None;
        step.fact(Fact::Call(key));
        self.call_moved(step, key);
    }
}

fn runs_tool(agent: &Agent, tool: &str) -> bool {
    let tools = agent
        .request
        .capabilities
        .as_ref()
        .map(|c| c.supported_tools.as_slice());
    tools.is_some_and(|tools| tools.iter().any(|known| known == tool))
}

/// Whether tasks are pushed to the agent: it does work, and answers no users.
pub(in crate::domain) fn takes_tasks(agent: &Agent) -> bool {
    agent.request.r#type == i32::from(AgentType::Worker) && !agent.is_assistant()
}
