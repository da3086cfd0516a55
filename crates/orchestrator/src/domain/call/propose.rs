//! The calls that a model asked for: checked, decided, and put in order.

use nexus_proto::llm::v1::{Block, ToolCall, block};
use nexus_proto::orchestrator::v1::{CallState, RunCall};
use nexus_proto::words;
use nexus_tools::Code;

use super::policy::Decision;
use super::{Call, Failure, IN_STEP, Lock, WORKER_PATIENCE, text_block};
use crate::domain::event::{self, timestamp};
use crate::domain::sessions::about;
use crate::domain::timers::Timer;
use crate::domain::tool::{Checked, Tool, check};
use crate::domain::{Fact, State, Step};

impl State {
    /// Decides the calls of a step in their order. Those that may run are ALLOWED when this returns, or ASKED.
    pub(in crate::domain) fn propose_calls(
        &mut self,
        step: &mut Step<'_>,
        session: u64,
        n: u64,
        blocks: &[Block],
        stop_reason: &str,
    ) {
        let wanted: Vec<&ToolCall> = blocks.iter().filter_map(tool_call).collect();
        let count = wanted.len();
        for (place, wanted) in wanted.into_iter().enumerate() {
            let cut = stop_reason == "length" && place + 1 == count;
            let early = if cut {
                Some(Failure::new(
                    Code::InvalidArguments,
                    "your answer reached its length limit inside this call, so it was not run; ask for less at once",
                ))
            } else if place >= IN_STEP {
                Some(Failure::new(
                    Code::TooLarge,
                    format!("more than {IN_STEP} calls in one answer"),
                ))
            } else {
                None
            };
            self.propose_call(step, session, n, wanted, early);
        }
    }

    fn propose_call(&mut self, step: &mut Step<'_>, session: u64, n: u64, wanted: &ToolCall, early: Option<Failure>) {
        let (key, id) = step.ids.keyed(step.now);
        let run = self.runs.get_mut(session, n).expect("the caller looked it up");
        run.calls.push(key);
        let (session_id, number) = (run.wire.session_id.clone(), run.step.number);
        let checked = match early {
            Some(failure) => Err(failure),
            None => self.check_call(session, n, wanted),
        };
        let mut call = Call {
            key,
            session,
            session_id: session_id.into(),
            step: Some((n, number)),
            wire: RunCall {
                id,
                tool_call_id: wanted.id.clone(),
                tool: wanted.name.clone(),
                arguments_json: wanted.arguments.clone(),
                state: CallState::Proposed.into(),
                created_at: Some(timestamp(step.now)),
                ..RunCall::default()
            },
            ..Call::empty(key)
        };
        match checked {
            Ok((tool, mut checked)) => {
                let run = self.runs.get_mut(session, n).expect("it was here a line ago");
                run.step.notes.append(&mut checked.notes);
                call.prepare(&tool, checked);
                self.calls.insert(call);
                self.decide_call(step, key, &tool);
            }
            Err(failure) => {
                self.calls.insert(call);
                self.refuse_call(step, key, &failure);
            }
        }
        self.call_moved(step, key);
    }

    fn check_call(&self, session: u64, n: u64, wanted: &ToolCall) -> Result<(Tool, Checked), Failure> {
        let tool = self
            .tools
            .get(&wanted.name)
            .ok_or_else(|| self.unknown_tool(&wanted.name))?;
        if wanted.malformed {
            return Err(Failure::new(
                Code::InvalidArguments,
                format!("the arguments are not valid JSON: {}", shown(&wanted.arguments)),
            ));
        }
        let checked = check(&tool.definition, &wanted.arguments)?;
        let guard = self.runs.get(session, n).map(|run| &run.guard);
        if guard.is_some_and(|guard| guard.refuses(&wanted.name, &checked.arguments_json)) {
            return Err(Failure::new(
                Code::NotAllowed,
                "this call came to the same result each time before, and nothing was written between; it was not run \
                 again. Do something else, or report",
            ));
        }
        Ok((tool.clone(), checked))
    }

    pub(super) fn unknown_tool(&self, name: &str) -> Failure {
        let known = self.tools.iter().filter(|tool| tool.definition.enabled);
        nexus_tools::unknown_tool(name, known.map(|tool| tool.definition.name.as_str())).into()
    }

    /// Applies the policy to a call that was checked.
    pub(in crate::domain) fn decide_call(&mut self, step: &mut Step<'_>, key: u64, tool: &Tool) {
        let call = self.calls.get(key).expect("it was just inserted");
        match self.policy(call, tool, step.now) {
            Decision::Allow => self.allow_call(step, key),
            Decision::Ask(risks) => self.hash_then_ask(step, key, risks),
            Decision::Refuse(failure) => self.refuse_call(step, key, &failure),
        }
    }

    /// The call may run as soon as its locks and a worker are there.
    pub(in crate::domain) fn allow_call(&mut self, step: &mut Step<'_>, key: u64) {
        let call = self.calls.get_mut(key).expect("the caller looked it up");
        call.wire.set_state(CallState::Allowed);
        let due = step.now.saturating_add(WORKER_PATIENCE);
        call.due = Some(due);
        self.timers.set(due, Timer::Call(key));
        step.fact(Fact::Call(key));
    }

    /// The call is not run, and the model is told why.
    pub(in crate::domain) fn refuse_call(&mut self, step: &mut Step<'_>, key: u64, failure: &Failure) {
        let call = self.calls.get_mut(key).expect("the caller looked it up");
        call.wire.set_state(CallState::Refused);
        failure.code.clone_into(&mut call.wire.code);
        call.wire.result = vec![text_block(failure.text())];
        call.wire.ended_at = Some(timestamp(step.now));
        call.due = None;
        let session = call.session;
        self.calls.closed(key, session);
        self.count_call(step, key);
        step.fact(Fact::Call(key));
        self.call_event(step, key, words::event::CALL_FINISHED);
    }

    /// Puts an event of a call into its session's log.
    pub(in crate::domain) fn call_event(&self, step: &mut Step<'_>, key: u64, name: &str) {
        let Some(call) = self.calls.get(key) else { return };
        let run = call
            .step
            .map(|(n, _)| self.id_of_run(call.session, n))
            .unwrap_or_default();
        let attempt = call.wire.attempt.to_string();
        let data = [
            ("call_id", &*call.wire.id),
            ("run_id", &*run),
            ("session_id", &*call.session_id),
            ("tool", &*call.wire.tool),
            ("state", call.wire.state().as_str_name()),
            ("attempt", &*attempt),
            ("code", &*call.wire.code),
            ("approval_id", &*call.wire.approval_id),
        ];
        let about = self.sessions.get(call.session).map(about).unwrap_or_default();
        let event = event::build(step, name, event::TOOL, about, &data);
        let session = if self.sessions.get(call.session).is_some() {
            call.session
        } else {
            0
        };
        step.fact(Fact::Event { session, event });
    }
}

impl Call {
    pub fn empty(key: u64) -> Call {
        Call {
            key,
            session: 0,
            session_id: "".into(),
            step: None,
            wire: RunCall::default(),
            lock: Lock::Alone,
            idempotent: false,
            edit: false,
            hashes: None,
            definition_digest: String::new(),
            timeout: 0,
            task: None,
            cancelled: None,
            due: None,
            lost: false,
            looked_at: false,
            approved: None,
            files: Vec::new(),
            not_covered: Vec::new(),
            hashing: false,
            hashed: false,
            caller: "".into(),
            correlation_id: String::new(),
            tail: Vec::new(),
            written: 0,
        }
    }

    /// Takes in what was found out about its arguments.
    pub(super) fn prepare(&mut self, tool: &Tool, checked: Checked) {
        self.wire.arguments_json = checked.arguments_json;
        self.lock = checked.lock;
        self.edit = checked.edit;
        self.timeout = checked.timeout;
        self.idempotent = tool.definition.idempotent;
        self.definition_digest.clone_from(&tool.definition.digest);
    }
}

fn tool_call(block: &Block) -> Option<&ToolCall> {
    match &block.kind {
        Some(block::Kind::ToolCall(call)) => Some(call),
        _ => None,
    }
}

/// A model's words in an error: short, and without control characters.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(200).collect();
    format!("{short:?}")
}
