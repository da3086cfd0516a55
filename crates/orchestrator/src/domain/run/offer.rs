//! The next step of a run: started when every call has its result, and offered to an assistant that drives runs.

use std::collections::HashMap;

use nexus_proto::agent::v1::{AgentMessage, AgentMessageMetadata, MessageType, agent_message};
use nexus_proto::orchestrator::v1::{CallState, RunEnd, RunState, RunStep, StepOffer};

use super::{ASSISTANT_PATIENCE, MAX_STEPS, MAX_WORK, Run, run_id};
use crate::domain::event::timestamp;
use crate::domain::turn::{FOLLOWED_BY, Phase, Turn};
use crate::domain::{Fact, State, Step, Time};

impl State {
    /// Starts the next step of a run whose calls all have their results, or ends the run where that was decided.
    pub(in crate::domain) fn step_may_go_on(&mut self, step: &mut Step<'_>, key: u64, n: u64) {
        let Some(run) = self.runs.get(key, n) else { return };
        if run.next.is_some() || run.wire.state() == RunState::Ended {
            return;
        }
        let calls = run.calls.iter().filter_map(|call| self.calls.get(*call));
        let open: Vec<CallState> = calls.filter(|call| !call.is_over()).map(|call| call.state()).collect();
        if !open.is_empty() {
            let waits = open.iter().all(|state| *state == CallState::Asked);
            return self.show_waiting(step, key, n, waits);
        }
        if let Some(ending) = run.ending.clone() {
            return self.end_after_calls(step, key, n, &ending);
        }
        let last = self.finish_guard(key, n);
        if let Some(error) = last {
            self.stop_working(key, n, step.now);
            return self.fail_turn(step, key, &error);
        }
        self.stop_working(key, n, step.now);
        let run = self.runs.get_mut(key, n).expect("it was here a line ago");
        run.next = Some(step.now);
        run.wire.set_state(RunState::Queued);
        run.wire.step_count = run.step.number + 1;
        let number = run.step.number + 1;
        let turn = self.front(key);
        turn.step = number;
        turn.attempt = 1;
        turn.began = None;
        turn.phase = Phase::Waiting {
            grace: Some(step.now.saturating_add(ASSISTANT_PATIENCE)),
        };
        step.fact(Fact::RunStep { session: key, n });
        step.fact(Fact::Run { session: key, n });
        step.fact(Fact::Turn { session: key, n });
        self.dispatch(step, key, n);
        self.run_moved(step, key, n);
    }

    /// WAITING while every unfinished call waits for a person, else TOOLS. Only work counts as work time.
    fn show_waiting(&mut self, step: &mut Step<'_>, key: u64, n: u64, waits: bool) {
        let run = self.runs.get_mut(key, n).expect("the caller looked it up");
        let state = if waits { RunState::Waiting } else { RunState::Tools };
        if run.wire.state() == state {
            return;
        }
        run.wire.set_state(state);
        if waits {
            self.stop_working(key, n, step.now);
        } else {
            run.working = Some(step.now);
        }
        step.fact(Fact::Run { session: key, n });
        self.run_moved(step, key, n);
    }

    pub(super) fn stop_working(&mut self, key: u64, n: u64, now: Time) {
        if let Some(run) = self.runs.get_mut(key, n)
            && let Some(since) = run.working.take()
        {
            run.wire.work_ns += now.saturating_sub(since);
        }
    }

    /// Whether the step is the last: the model is asked to report, without tools.
    pub(super) fn is_last(run: &Run) -> bool {
        run.step.number >= MAX_STEPS || run.wire.work_ns >= MAX_WORK
    }

    /// The step as it is offered, with the step before it and its results.
    pub(in crate::domain) fn step_offer(&self, key: u64, turn: &Turn, agent: u64, now: Time) -> Option<AgentMessage> {
        let run = self.runs.get(key, turn.n)?;
        let session = self.sessions.get(key)?;
        let offer = StepOffer {
            run_id: run_id(key, turn),
            session_id: session.id.to_string(),
            step: turn.step,
            attempt: i32::try_from(turn.attempt).unwrap_or(i32::MAX),
            answer_id: turn.answer_id.to_string(),
            previous: Some(self.step_with_calls(run)),
            tools_digest: self.tools.digest().to_owned(),
            last: Self::is_last(run),
        };
        let mut headers = HashMap::from([
            ("answer_id".to_owned(), turn.answer_id.to_string()),
            ("attempt".to_owned(), turn.attempt.to_string()),
            (FOLLOWED_BY.to_owned(), turn.followed_by.to_string()),
        ]);
        if let Some(model) = &turn.model {
            headers.insert("model".into(), model.clone());
        }
        Some(AgentMessage {
            id: format!("{}-step-{}", turn.answer_id, turn.step),
            r#type: MessageType::TaskUpdate.into(),
            timestamp: Some(timestamp(now)),
            source_id: "orchestrator".into(),
            target_id: self.agents.get(agent).map(|a| a.id.to_string()).unwrap_or_default(),
            metadata: Some(AgentMessageMetadata {
                correlation_id: turn.correlation(),
                session_id: session.id.to_string(),
                headers,
                priority: 0,
            }),
            payload: Some(agent_message::Payload::Step(offer)),
        })
    }

    /// A run's last finished step with its calls and their results.
    pub fn step_with_calls(&self, run: &Run) -> RunStep {
        let calls = run.calls.iter().filter_map(|call| self.calls.get(*call));
        RunStep {
            calls: calls.map(|call| call.wire.clone()).collect(),
            ..run.step.clone()
        }
    }

    /// What a first offer says beside the message, to an assistant that drives runs.
    pub(in crate::domain) fn run_headers(&self, key: u64, turn: &Turn, headers: &mut HashMap<String, String>) {
        headers.insert("run_id".into(), run_id(key, turn));
        headers.insert("step".into(), "1".into());
        headers.insert("step_attempt".into(), turn.attempt.to_string());
        headers.insert("tools_digest".into(), self.tools.digest().to_owned());
        if let Some(note) = self.notes.get(&key) {
            headers.insert("note".into(), note.clone());
        }
    }

    /// The turn and its run end after their calls were killed.
    fn end_after_calls(&mut self, step: &mut Step<'_>, key: u64, n: u64, ending: &super::Ending) {
        self.stop_working(key, n, step.now);
        let text = self
            .runs
            .get(key, n)
            .map(|run| super::finish::text_of(&run.step.blocks))
            .unwrap_or_default();
        step.fact(Fact::RunStep { session: key, n });
        let stopped = ending.end == RunEnd::Stopped;
        if ending.end == RunEnd::Failed || text.is_empty() {
            let error = match ending.end {
                RunEnd::Failed => ending.reason.clone(),
                _ if stopped => "CANCELED: the run was stopped".to_owned(),
                _ => "CANCELED: the run was cancelled".to_owned(),
            };
            return self.fail_turn(step, key, &error);
        }
        self.finish_turn(step, key, text, crate::domain::turn::cancelled_extra());
    }
}
