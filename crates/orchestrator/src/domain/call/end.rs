//! How calls end: by their worker's result, by a cancel, or without anybody knowing.

use std::collections::HashMap;

use nexus_proto::agent::v1::{TaskError, TaskResult, TaskState};
use nexus_proto::llm::v1::{Block, Image, block};
use nexus_proto::orchestrator::v1::{ApprovalState, CallState};
use nexus_proto::words;
use nexus_tools::Code;

use super::{CANCEL_PATIENCE, Failure, text_block};
use crate::domain::event::{time, timestamp};
use crate::domain::task::Note;
use crate::domain::timers::Timer;
use crate::domain::tool::effects;
use crate::domain::{Effect, Fact, State, Step};

/// Longest result in bytes that is stored as text; workers cut at 32 KiB.
const RESULT_BYTES: usize = 64 << 10;
const IMAGE_BYTES: usize = 6 << 20;

/// What came of a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub state: CallState,
    pub code: String,
    pub result: Vec<Block>,
    pub spill: String,
    pub output_bytes: u64,
    /// The background process that goes on after the call.
    pub process: String,
}

impl Outcome {
    pub(super) fn failed(state: CallState, failure: &Failure) -> Self {
        Outcome {
            state,
            code: failure.code.into(),
            result: vec![text_block(failure.text())],
            ..Outcome::default()
        }
    }
}

impl State {
    /// The task of a call's present attempt is over.
    pub(in crate::domain) fn call_task_ended(
        &mut self,
        step: &mut Step<'_>,
        task: u64,
        to: TaskState,
        result: Option<TaskResult>,
        error: Option<TaskError>,
    ) {
        let Some(key) = self.tasks.get(task).and_then(|task| task.call) else {
            return;
        };
        let Some(call) = self
            .calls
            .get(key)
            .filter(|call| call.task == Some(task) && !call.is_over())
        else {
            return; // an older attempt: recorded with its task, and used for nothing
        };
        let cancelled = call.cancelled.is_some();
        let mut outcome = match (to, result, error) {
            (TaskState::Completed, result, _) => completed(result.unwrap_or_default()),
            (TaskState::Cancelled, result, _) => Outcome {
                state: CallState::Cancelled,
                code: "cancelled".into(),
                ..result.map(completed).unwrap_or_default()
            },
            (TaskState::Timeout, ..) => Outcome::failed(
                CallState::Timeout,
                &Failure::new(Code::Timeout, "the call took too long and was ended"),
            ),
            (_, _, error) => failed(&error.unwrap_or_default()),
        };
        if cancelled {
            outcome.state = CallState::Cancelled;
            outcome.code = "cancelled".into();
        }
        if outcome.state == CallState::Cancelled {
            let so_far = std::mem::take(&mut outcome.result);
            outcome.result = vec![text_block("error cancelled: the call was cancelled while it ran")];
            outcome.result.extend(so_far);
        }
        self.finish_call(step, key, outcome);
    }

    /// Stores how a call ended, gives its locks to others, and lets its run go on.
    pub(super) fn finish_call(&mut self, step: &mut Step<'_>, key: u64, outcome: Outcome) {
        let Some(call) = self.calls.get_mut(key).filter(|call| !call.is_over()) else {
            return;
        };
        step.grows = false;
        call.wire.set_state(outcome.state);
        call.wire.code = outcome.code;
        call.wire.result = outcome.result;
        call.wire.spill = outcome.spill;
        call.wire.output_bytes = outcome.output_bytes;
        call.wire.ended_at = Some(timestamp(step.now));
        call.due = None;
        call.tail = Vec::new();
        let (session, of) = (call.session, call.step);
        if !outcome.process.is_empty() {
            self.processes.entry(session).or_default().insert(outcome.process);
        }
        self.taint(step, key);
        self.calls.closed(key, session);
        if of.is_none() {
            self.calls.retire(key);
        }
        self.withdraw_approval(step, key, ApprovalState::Withdrawn);
        self.count_call(step, key);
        step.fact(Fact::Call(key));
        self.call_event(step, key, words::event::CALL_FINISHED);
        self.call_moved(step, key);
        self.start_calls(step, session);
        self.start_waiting_calls(step);
        if let Some((n, _)) = of {
            self.step_may_go_on(step, session, n);
        }
    }

    /// What came over the network, or from a server that is not ours, is not to be trusted: its run is tainted for good.
    fn taint(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(call) = self.calls.get(key) else { return };
        let Some((n, _)) = call.step.filter(|_| call.state() == CallState::Done) else {
            return;
        };
        let session = call.session;
        let foreign = self.tools.get(&call.wire.tool).is_some_and(|tool| {
            let arguments = serde_json::from_str(&call.wire.arguments_json).unwrap_or_default();
            tool.definition.source.starts_with("mcp:") || effects(&tool.definition, &arguments).network
        });
        if let Some(run) = self.runs.get_mut(session, n).filter(|run| foreign && !run.wire.tainted) {
            run.wire.tainted = true;
            step.fact(Fact::Run { session, n });
        }
    }

    /// Ends a call: one that no worker has confirmed at once, one that runs when its worker has killed it.
    pub fn cancel_call(&mut self, step: &mut Step<'_>, key: u64, reason: &str) {
        let Some(call) = self.calls.get_mut(key).filter(|call| !call.is_over()) else {
            return;
        };
        let running = call.state() == CallState::Running && !call.lost;
        let started = call.is_out().then_some(call.task).flatten();
        call.cancelled = Some(reason.to_owned());
        if running {
            let due = step.now.saturating_add(CANCEL_PATIENCE);
            call.due = Some(due);
            self.timers.set(due, Timer::Call(key));
            step.fact(Fact::Call(key));
            if let Some(task) = started {
                step.effect(cancel_note(task, reason));
            }
            return;
        }
        if let Some(task) = started {
            self.end_call_task(step, task, reason);
        }
        let failure = Failure::new(Code::Cancelled, "the call was cancelled before it ran");
        self.finish_call(step, key, Outcome::failed(CallState::Cancelled, &failure));
    }

    /// Ends a call whose run is over, without waiting for its worker.
    pub(in crate::domain) fn abandon_call(&mut self, step: &mut Step<'_>, key: u64, why: &str) {
        let Some(call) = self.calls.get(key).filter(|call| !call.is_over()) else {
            return;
        };
        if let Some(task) = call.task.filter(|_| call.is_out()) {
            step.effect(cancel_note(task, why));
            self.end_call_task(step, task, why);
        }
        let failure = Failure::new(Code::Cancelled, why);
        self.finish_call(step, key, Outcome::failed(CallState::Cancelled, &failure));
    }

    /// Ends the task of an attempt that counts no more.
    pub(super) fn end_call_task(&mut self, step: &mut Step<'_>, task: u64, why: &str) {
        if self.tasks.get(task).is_none_or(|task| task.is_over()) {
            return;
        }
        if let Some(call) = self.tasks.get(task).and_then(|task| task.call)
            && let Some(call) = self.calls.get_mut(call)
            && call.task == Some(task)
        {
            call.task = None;
        }
        let error = TaskError {
            code: "CANCELLED".into(),
            message: why.into(),
            occurred_at: Some(timestamp(step.now)),
            ..TaskError::default()
        };
        self.end_task(step, task, TaskState::Cancelled, Some(error));
    }

    /// Adds a call that ended to the numbers of its tool.
    pub(super) fn count_call(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(call) = self.calls.get(key) else { return };
        let state = call.state();
        let name = call.wire.tool.clone();
        let took = match (&call.wire.started_at, &call.wire.ended_at) {
            (Some(started), Some(ended)) => time(ended).saturating_sub(time(started)).max(0),
            _ => 0,
        };
        let Some(tool) = self.tools.get(&name) else { return };
        let mut stats = tool.stats;
        stats.total_executions += 1;
        match state {
            CallState::Done => stats.successful_executions += 1,
            CallState::Timeout => stats.timeout_executions += 1,
            CallState::Cancelled => stats.cancelled_executions += 1,
            _ => stats.failed_executions += 1,
        }
        stats.total_duration_ns = stats.total_duration_ns.saturating_add(took);
        stats.avg_duration_ns = stats.total_duration_ns / stats.total_executions.max(1);
        stats.last_execution = Some(timestamp(step.now));
        self.tools.set_stats(&name, stats);
        step.fact(Fact::ToolStats(name));
    }
}

fn cancel_note(task: u64, reason: &str) -> Effect {
    Effect::Task {
        task,
        note: Note::Cancel {
            reason: reason.into(),
            force: false,
        },
    }
}

fn completed(result: TaskResult) -> Outcome {
    let mut metadata = result.metadata;
    let mut take = |name: &str| metadata.remove(name).unwrap_or_default();
    let (code, spill, media_type) = (take("code"), take("spill"), take("media_type"));
    let process = take("process_id");
    let output_bytes = take("output_bytes").parse().unwrap_or(result.output_text.len() as u64);
    let state = match code.as_str() {
        "" => CallState::Done,
        "timeout" => CallState::Timeout,
        "cancelled" => CallState::Cancelled,
        _ => CallState::Failed,
    };
    let mut blocks = Vec::new();
    let mut text = if result.output_text.is_empty() {
        result.error_text
    } else {
        result.output_text
    };
    cut(&mut text);
    let image = media_type.starts_with("image/") && !result.output_data.is_empty();
    if !text.is_empty() || !image {
        blocks.push(text_block(text));
    }
    if image && result.output_data.len() <= IMAGE_BYTES {
        blocks.push(Block {
            kind: Some(block::Kind::Image(Image {
                media_type,
                data: result.output_data,
            })),
        });
    }
    Outcome {
        state,
        code: if code.is_empty() { code } else { known(&code).into() },
        result: blocks,
        spill,
        output_bytes,
        process,
    }
}

fn failed(error: &TaskError) -> Outcome {
    let code = known(&error.code.to_lowercase());
    let what = if error.message.is_empty() {
        "the worker failed"
    } else {
        &error.message
    };
    let mut text = what.to_owned();
    cut(&mut text);
    let text = if text.starts_with("error ") {
        text
    } else {
        format!("error {code}: {text}")
    };
    Outcome {
        state: if code == "timeout" {
            CallState::Timeout
        } else {
            CallState::Failed
        },
        code: code.into(),
        result: vec![text_block(text)],
        ..Outcome::default()
    }
}

fn known(code: &str) -> &'static str {
    Code::from_name(code).unwrap_or(Code::Interrupted).as_str()
}

/// Workers cut results by the rules; what one sends beyond any of them is cut here.
fn cut(text: &mut String) {
    if text.len() > RESULT_BYTES {
        text.truncate(text.floor_char_boundary(RESULT_BYTES));
        text.push_str("\n[cut: the worker sent more than it may]");
    }
}

/// What a worker says of a file that it is about to write: the hashes before and after, from the message of its RUNNING.
pub(super) fn hashes(message: &str) -> Option<(String, String)> {
    let said: HashMap<String, String> = serde_json::from_str(message).ok()?;
    let hash = |name: &str| {
        let value = said.get(name)?;
        let hex = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
        (hex || value.is_empty()).then(|| value.clone())
    };
    Some((hash("hash_before")?, hash("hash_after")?))
}
