//! A call whose worker died. What happens next depends on how far it came, and on whether it may run twice.

use nexus_proto::agent::v1::TaskState;
use nexus_proto::orchestrator::v1::CallState;
use nexus_tools::Code;

use super::end::{Outcome, hashes};
use super::{ATTEMPTS, Call, Failure, LOOK_PATIENCE, TAIL, UNCONFIRMED_ATTEMPTS, WORKER_PATIENCE, text_block};
use crate::domain::event::time;
use crate::domain::task::Task;
use crate::domain::timers::Timer;
use crate::domain::{Effect, Fact, State, Step, Time};

impl State {
    /// The stream of a worker ended: calls that it never confirmed go to another one at once.
    pub(in crate::domain) fn worker_unlinked(&mut self, step: &mut Step<'_>, agent: u64) {
        for key in self.calls_of_worker(agent) {
            if self
                .calls
                .get(key)
                .is_some_and(|call| call.state() == CallState::Started)
            {
                self.next_attempt(step, key, "its worker left before it confirmed the call");
            }
        }
        self.start_waiting_calls(step);
    }

    /// A worker opened its stream: what it was offered and has not taken is pushed, and calls that waited for one start.
    pub(in crate::domain) fn worker_linked(&mut self, step: &mut Step<'_>, agent: u64) {
        self.sweep();
        let offered = |task: &&Task| task.agent == Some(agent) && task.state() == TaskState::Pending;
        let pending: Vec<u64> = self.tasks.iter().filter(offered).map(|task| task.key).collect();
        pending.into_iter().for_each(|task| self.push_task(step, task));
        self.start_waiting_calls(step);
    }

    /// A worker's process started anew under its old registration. What it ran before is lost, unless it says otherwise.
    pub(in crate::domain) fn worker_restarted(&mut self, step: &mut Step<'_>, agent: u64) {
        let due = step.now.saturating_add(self.rules.agent_ttl);
        for key in self.calls_of_worker(agent) {
            let call = self.calls.get_mut(key).expect("it was just listed");
            if call.state() == CallState::Running {
                call.lost = true;
                call.due = Some(due);
                self.timers.set(due, Timer::Call(key));
            }
        }
    }

    /// The lease of a worker is over. A call that it ran is given one more period to be heard of; `for_good`: the worker
    /// is gone and will not come back.
    pub(in crate::domain) fn calls_of_lost(&mut self, step: &mut Step<'_>, agent: u64, for_good: bool) {
        self.worker_unlinked(step, agent);
        for key in self.calls_of_worker(agent) {
            if for_good {
                self.resolve_lost(step, key);
            } else {
                let due = step.now.saturating_add(self.rules.agent_ttl);
                let call = self.calls.get_mut(key).expect("it was just listed");
                call.lost = true;
                call.due = Some(due);
                self.timers.set(due, Timer::Call(key));
            }
        }
        self.start_waiting_calls(step);
    }

    /// A worker said which tasks it works on, after it came back or took its predecessor's place: of the calls that it,
    /// or a predecessor without a stream, ran, the others have no record and are lost.
    pub(in crate::domain) fn worker_reported(&mut self, step: &mut Step<'_>, agent: u64, active: &[String]) {
        if self.calls.count_open() == 0 {
            return;
        }
        let Some(worker) = self.agents.get(agent) else { return };
        let same = |other: &&crate::domain::agent::Agent| {
            other.key == agent
                || (other.link.is_none()
                    && (other.silent || !other.is_alive())
                    && other.owner == worker.owner
                    && other.request.name == worker.request.name)
        };
        let before: Vec<u64> = self.agents.iter().filter(same).map(|agent| agent.key).collect();
        let held: Vec<u64> = before
            .into_iter()
            .flat_map(|agent| self.calls_of_worker(agent))
            .collect();
        for key in held {
            let Some(call) = self.calls.get(key).filter(|call| call.state() == CallState::Running) else {
                continue;
            };
            let task = call.wire.task_id.clone();
            if active.contains(&task) {
                self.inherit_task(step, agent, &task);
            } else if self
                .calls
                .get(key)
                .is_some_and(|call| call.lost || call.wire.agent_id != worker_id(self, agent))
            {
                self.resolve_lost(step, key);
            }
        }
    }

    /// Gives a call's task to the worker that holds its process now: the same attempt, another agent.
    pub fn inherit_task(&mut self, step: &mut Step<'_>, agent: u64, id: &str) {
        let Ok(task) = self.tasks.find(id) else { return };
        let (task_key, before, Some(call)) = (task.key, task.agent, task.call) else {
            return;
        };
        let free = before.and_then(|before| self.agents.get(before)).is_none_or(|held| {
            let to = self.agents.get(agent).map(|to| &to.owner);
            held.link.is_none() && to == Some(&held.owner)
        });
        if before == Some(agent) || !free {
            if before == Some(agent)
                && let Some(call) = self.calls.get_mut(call)
            {
                call.lost = false;
            }
            return;
        }
        let agent_id = worker_id(self, agent);
        self.move_task_to(step, task_key, agent, &agent_id);
        if let Some(call) = self.calls.get_mut(call) {
            call.wire.agent_id = agent_id;
            call.lost = false;
            call.due = None;
            step.fact(Fact::Call(call.key));
        }
    }

    fn calls_of_worker(&self, agent: u64) -> Vec<u64> {
        let tasks = self
            .tasks
            .iter()
            .filter(|task| task.agent == Some(agent) && !task.is_over());
        tasks
            .filter_map(|task| task.call)
            .filter(|call| self.calls.get(*call).is_some_and(Call::is_out))
            .collect()
    }

    /// Looks at a call whose timer came due.
    pub fn call_due(&mut self, step: &mut Step<'_>, key: u64) {
        self.sweep();
        let Some(call) = self.calls.get(key).filter(|call| !call.is_over()) else {
            return;
        };
        let Some(due) = call.due else {
            return self.approval_due(step, key);
        };
        if due > step.now {
            return self.timers.set(due, Timer::Call(key));
        }
        match call.state() {
            CallState::Asked => self.approval_due(step, key),
            CallState::Proposed => {
                // Nothing was heard of its files.
                let named = call.named_files();
                if let Some(call) = self.calls.get_mut(key) {
                    call.hashing = true;
                }
                self.files_found(step, key, Vec::new(), named);
            }
            CallState::Allowed if self.calls.waiting.contains(&key) => {
                let tool = call.wire.tool.clone();
                let failure = Failure::new(
                    Code::Unavailable,
                    format!("no worker that can execute {tool} is connected"),
                );
                self.finish_call(step, key, Outcome::failed(CallState::Failed, &failure));
            }
            CallState::Allowed => {
                let session_of = call.session;
                if let Some(call) = self.calls.get_mut(key) {
                    call.hashing = false; // looked at again
                }
                // It waits for its turn with others, which have timers of their own.
                let again = step.now.saturating_add(WORKER_PATIENCE);
                if let Some(call) = self.calls.get_mut(key) {
                    call.due = Some(again);
                }
                self.timers.set(again, Timer::Call(key));
                self.start_calls(step, session_of);
            }
            CallState::Started => {
                self.next_attempt(step, key, "its worker did not confirm the call in time");
                self.start_waiting_calls(step);
            }
            CallState::Running if call.cancelled.is_some() => self.give_up_cancelled(step, key),
            CallState::Running if call.lost => self.resolve_lost(step, key),
            _ => {}
        }
    }

    /// The worker did not say that it ended the call that it was told to end.
    fn give_up_cancelled(&mut self, step: &mut Step<'_>, key: u64) {
        let task = self.calls.get(key).and_then(|call| call.task);
        let call = self.calls.get(key).expect("the caller looked it up");
        let text = format!(
            "error cancelled: the call was cancelled; its worker has not said that it ended{}",
            last_output(call)
        );
        if let Some(task) = task {
            self.end_call_task(step, task, "cancelled");
        }
        let outcome = Outcome {
            state: CallState::Cancelled,
            code: "cancelled".into(),
            result: vec![text_block(text)],
            ..Outcome::default()
        };
        self.finish_call(step, key, outcome);
    }

    /// Nobody knows what became of a call that ran: it is run again if that is safe, else the model has to look.
    pub(in crate::domain) fn resolve_lost(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(call) = self.calls.get(key).filter(|call| call.is_out()) else {
            return;
        };
        if call.state() == CallState::Started {
            return self.next_attempt(step, key, "its worker is gone");
        }
        if call.cancelled.is_none() && call.wire.attempt < ATTEMPTS {
            if call.idempotent {
                self.next_attempt(step, key, "its worker is gone");
                return self.start_waiting_calls(step);
            }
            if call.edited_path().is_some() && call.hashes.is_some() && !call.looked_at {
                return self.look_at_edit(step, key);
            }
        }
        self.end_unknown(step, key);
    }

    fn look_at_edit(&mut self, step: &mut Step<'_>, key: u64) {
        let due = step.now.saturating_add(LOOK_PATIENCE);
        let call = self.calls.get_mut(key).expect("the caller looked it up");
        call.looked_at = true;
        call.lost = true;
        call.due = Some(due);
        self.timers.set(due, Timer::Call(key));
        step.effect(Effect::LookAtEdit { call: key });
    }

    /// The hash of the file of an edit whose worker was lost: empty if there is no file, `None` if it cannot be read.
    pub fn edit_found(&mut self, step: &mut Step<'_>, key: u64, found: Option<&str>) {
        let Some(call) = self
            .calls
            .get(key)
            .filter(|call| call.is_out() && call.lost && call.looked_at)
        else {
            return;
        };
        let (before, after) = call.hashes.clone().unwrap_or_default();
        match found {
            Some(hash) if hash == after => {
                if let Some(task) = call.task {
                    self.end_call_task(step, task, "its worker is gone");
                }
                let outcome = Outcome {
                    state: CallState::Done,
                    result: vec![text_block(format!(
                        "[done: the file has the content of the edit, sha256 {after}; its worker was lost after it wrote it]"
                    ))],
                    ..Outcome::default()
                };
                self.finish_call(step, key, outcome);
            }
            Some(hash) if hash == before => {
                self.next_attempt(step, key, "its worker is gone");
                self.start_waiting_calls(step);
            }
            _ => self.end_unknown(step, key),
        }
    }

    /// Nobody knows how the call ended, and it is not run again.
    fn end_unknown(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(call) = self.calls.get(key) else { return };
        let outcome = unknown(call, step.now);
        if let Some(task) = call.task {
            self.end_call_task(step, task, "its worker is gone");
        }
        self.finish_call(step, key, outcome);
    }

    /// Ends the present attempt. The call waits for its next one.
    fn next_attempt(&mut self, step: &mut Step<'_>, key: u64, why: &str) {
        let Some(call) = self.calls.get(key) else { return };
        let (session, attempt) = (call.session, call.wire.attempt);
        if let Some(task) = call.task {
            self.end_call_task(step, task, why);
        }
        if attempt >= UNCONFIRMED_ATTEMPTS {
            let failure = Failure::new(
                Code::Unavailable,
                format!("{attempt} workers did not execute it: {why}"),
            );
            return self.finish_call(step, key, Outcome::failed(CallState::Failed, &failure));
        }
        self.allow_call(step, key);
        if let Some(call) = self.calls.get_mut(key) {
            call.lost = false;
            call.wire.agent_id.clear();
        }
        self.call_moved(step, key);
        self.start_calls(step, session);
    }

    /// A worker says that it runs a call, and of an edit what the file will be.
    pub(in crate::domain) fn call_reported(&mut self, step: &mut Step<'_>, key: u64, message: &str) {
        let Some(call) = self.calls.get_mut(key) else { return };
        if let Some(found) = hashes(message).filter(|_| call.edit)
            && call.hashes.as_ref() != Some(&found)
        {
            call.hashes = Some(found);
            step.fact(Fact::Call(key));
        }
    }

    /// Keeps the end of a call's output, for the case that nothing else is heard of it.
    pub(in crate::domain) fn call_wrote(&mut self, key: u64, data: &[u8]) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let data = &data[data.len().saturating_sub(TAIL)..];
        call.tail.extend_from_slice(data);
        let over = call.tail.len().saturating_sub(TAIL);
        call.tail.drain(..over);
    }
}

fn worker_id(state: &State, agent: u64) -> String {
    state
        .agents
        .get(agent)
        .map(|agent| agent.id.to_string())
        .unwrap_or_default()
}

fn unknown(call: &Call, now: Time) -> Outcome {
    let started = call.wire.started_at.as_ref().map_or(now, time);
    let ago = now.saturating_sub(started) / 1_000_000_000;
    let text = format!(
        "error interrupted: the worker was lost while the call ran; it started {ago} s ago. Outcome unknown, look before \
         repeating it.{}",
        last_output(call)
    );
    Outcome {
        state: CallState::Unknown,
        code: "interrupted".into(),
        result: vec![text_block(text)],
        ..Outcome::default()
    }
}

fn last_output(call: &Call) -> String {
    if call.tail.is_empty() {
        return String::new();
    }
    format!("\nLast output:\n{}", String::from_utf8_lossy(&call.tail))
}
