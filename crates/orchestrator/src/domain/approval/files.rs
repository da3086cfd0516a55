//! The files that a call names: hashed before somebody is asked, and again when the call is launched.

use nexus_proto::orchestrator::v1::CallState;
use nexus_tools::plan::MAX_FILES;
use serde_json::Value;

use crate::domain::call::{Call, LOOK_PATIENCE};
use crate::domain::timers::Timer;
use crate::domain::{Effect, Fact, State, Step};

/// Names that are looked up for one call.
const NAMED: usize = 4 * MAX_FILES;

impl State {
    /// Has the files hashed that a call names, and asks for it then. A call that names none is asked for at once.
    pub(in crate::domain) fn hash_then_ask(&mut self, step: &mut Step<'_>, key: u64, risks: Vec<String>) {
        let call = self.calls.get(key).expect("the caller looked it up");
        if call.hashed || call.named_files().is_empty() {
            return self.ask_for_call(step, key, risks, None);
        }
        step.fact(Fact::Call(key));
        self.hash_files(step, key);
    }

    pub(in crate::domain) fn hash_files(&mut self, step: &mut Step<'_>, key: u64) {
        let due = step.now.saturating_add(LOOK_PATIENCE);
        self.calls.waiting.remove(&key);
        let call = self.calls.get_mut(key).expect("the caller looked it up");
        call.hashing = true;
        call.due = Some(due);
        self.timers.set(due, Timer::Call(key));
        step.effect(Effect::HashFiles { call: key });
    }

    /// The hashes of the files that a call names, by their paths, and those that are too many or too large.
    pub fn files_found(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        files: Vec<(String, String)>,
        not_covered: Vec<String>,
    ) {
        let Some(call) = self.calls.get_mut(key).filter(|call| call.hashing && !call.is_over()) else {
            return;
        };
        call.files = files;
        call.not_covered = not_covered;
        call.hashing = false;
        call.hashed = true;
        let (session, of, state) = (call.session, call.step, call.state());
        if state == CallState::Proposed {
            let tool = self.tools.get(&call.wire.tool).cloned();
            match tool {
                Some(tool) => self.decide_call(step, key, &tool),
                None => self.cancel_call(step, key, "its tool was removed"),
            }
            self.call_moved(step, key);
        }
        self.start_calls(step, session);
        if let Some((n, _)) = of {
            self.step_may_go_on(step, session, n);
        }
    }
}

impl Call {
    /// Words of the call that may be names of files; whether there are such files is found by whoever opens them.
    pub fn named_files(&self) -> Vec<String> {
        let arguments: Value = serde_json::from_str(&self.wire.arguments_json).unwrap_or_default();
        if let Some(command) = arguments.get("command").and_then(Value::as_str) {
            return nexus_tools::grant::named_files(command, NAMED);
        }
        let texts = arguments
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, value)| value.as_str());
        let short = texts.filter(|text| !text.is_empty() && text.len() <= 4096 && !text.contains('\n'));
        short.take(NAMED).map(str::to_owned).collect()
    }
}
