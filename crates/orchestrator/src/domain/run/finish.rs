//! A model finished a step: the run ends with its answer, or its calls are decided.

use std::collections::HashMap;

use nexus_proto::common::v1::TokenUsage;
use nexus_proto::llm::v1::{Block, block};
use nexus_proto::orchestrator::v1::{FinishStepRequest, RunEnd, RunState, RunStep};
use nexus_proto::words;

use super::{Guard, MAX_STEPS, Run, run_id};
use crate::domain::event::timestamp;
use crate::domain::turn::{Phase, Turn};
use crate::domain::{Error, Fact, State, Step};

/// Where a finished step belongs.
#[derive(Clone, Copy, Debug)]
pub struct FinishedStep {
    pub session: u64,
    pub n: u64,
}

impl State {
    /// Takes the answer of a model in a step. With calls the run goes on; without, it has ended.
    pub fn finish_step(
        &mut self,
        step: &mut Step<'_>,
        agent: u64,
        request: FinishStepRequest,
    ) -> Result<FinishedStep, Error> {
        self.sweep();
        let over = || Error::StepOver {
            run: request.run_id.clone(),
            step: request.step,
            attempt: request.attempt,
        };
        let (key, n) = self.open_run(&request.run_id).ok_or_else(over)?;
        let session = self.sessions.get(key).ok_or_else(over)?;
        let turn = session.turn().filter(|turn| turn.n == n).ok_or_else(over)?;
        let runs = matches!(turn.phase, Phase::Running { agent: with, .. } if with == agent);
        if !runs || turn.step != request.step.max(1) || i64::from(turn.attempt) != i64::from(request.attempt.max(1)) {
            return Err(over());
        }
        let place = FinishedStep { session: key, n };
        self.forget_note(step, key);
        if !request.error.is_empty() {
            let incomplete = !text_of(&request.blocks).is_empty();
            if incomplete {
                self.show_text(key, text_of(&request.blocks));
            }
            self.break_off_turn(step, key, &request.error);
            return Ok(place);
        }
        let calls = request
            .blocks
            .iter()
            .filter(|block| matches!(block.kind, Some(block::Kind::ToolCall(_))));
        if calls.count() == 0 {
            let extra = extra_of(&request);
            self.record_last_step(step, key, n, &request);
            self.finish_turn(step, key, text_of(&request.blocks), extra);
            return Ok(place);
        }
        // It was asked to report without tools.
        if self.runs.get(key, n).is_some_and(State::is_last) {
            self.record_last_step(step, key, n, &request);
            let error =
                format!("budget: the run reached {MAX_STEPS} steps or an hour of work, and still asks for tools");
            self.show_text(key, text_of(&request.blocks));
            self.break_off_turn(step, key, &error);
            return Ok(place);
        }
        self.begin_calls(step, key, n, agent, request);
        Ok(place)
    }

    /// The step asked for calls: they are decided, and those that may run are started, in the same commit.
    fn begin_calls(&mut self, step: &mut Step<'_>, key: u64, n: u64, agent: u64, request: FinishStepRequest) {
        self.agents.turn_ended(agent, key);
        let driver = self.agents.get(agent).map(|a| a.id.to_string()).unwrap_or_default();
        let turn = self.front(key);
        let began = turn.began.unwrap_or(step.now);
        turn.phase = Phase::Calls;
        let turn = turn.clone();
        if self.runs.get(key, n).is_none() {
            let run = self.new_run(key, &turn, step);
            self.runs.insert(run);
        }
        for old in self.runs.get(key, n).map(|run| run.calls.clone()).unwrap_or_default() {
            self.calls.retire(old);
        }
        let run = self.runs.get_mut(key, n).expect("it was just inserted");
        run.wire.agent_id = driver;
        run.wire.set_state(RunState::Tools);
        run.wire.step_count = request.step.max(1);
        add_usage(&mut run.wire.usage, request.usage.as_ref());
        run.wire.work_ns += step.now.saturating_sub(began);
        run.working = Some(step.now);
        run.next = None;
        run.step = finished(&request, began, step.now);
        run.calls.clear();
        let blocks = run.step.blocks.clone();
        self.propose_calls(step, key, n, &blocks, &request.stop_reason);
        step.fact(Fact::RunStep { session: key, n });
        step.fact(Fact::Run { session: key, n });
        step.fact(Fact::Turn { session: key, n });
        self.run_moved(step, key, n);
        self.step_news(step, key, n);
        self.start_calls(step, key);
        self.step_may_go_on(step, key, n);
        // The assistant has room for another session's turn.
        if let Some(next) = self.agents.waiting.pop_first() {
            step.effect(crate::domain::Effect::Dispatch { session: next });
        }
    }

    fn new_run(&self, key: u64, turn: &Turn, step: &Step<'_>) -> Run {
        let session = self.sessions.get(key).expect("its turn was just seen");
        Run {
            session: key,
            n: turn.n,
            wire: nexus_proto::orchestrator::v1::Run {
                id: run_id(key, turn),
                session_id: session.id.to_string(),
                message_id: turn.message_id.to_string(),
                answer_id: turn.answer_id.to_string(),
                created_at: Some(timestamp(turn.began.unwrap_or(step.now))),
                started_at: Some(timestamp(turn.began.unwrap_or(step.now))),
                ..Default::default()
            },
            step: RunStep::default(),
            calls: Vec::new(),
            next: None,
            working: None,
            ending: None,
            guard: Guard::default(),
        }
    }

    /// The last step of a run that has others: it is stored beside the answer.
    fn record_last_step(&mut self, step: &mut Step<'_>, key: u64, n: u64, request: &FinishStepRequest) {
        let began = self.front(key).began.unwrap_or(step.now);
        let Some(run) = self.runs.get_mut(key, n) else { return };
        add_usage(&mut run.wire.usage, request.usage.as_ref());
        run.wire.work_ns += step.now.saturating_sub(began);
        run.step = finished(request, began, step.now);
        run.next = None;
        let old = std::mem::take(&mut run.calls);
        old.into_iter().for_each(|call| self.calls.retire(call));
        step.fact(Fact::RunStep { session: key, n });
        self.step_news(step, key, n);
    }

    /// The answer of a run with calls came as a message: it is the last step.
    pub(in crate::domain) fn record_answer(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        n: u64,
        content: &str,
        extra: &HashMap<String, String>,
    ) {
        if self.runs.get(key, n).is_none() {
            return;
        }
        let turn = self.front(key);
        let (number, attempt) = (turn.step, i32::try_from(turn.attempt).unwrap_or(i32::MAX));
        let word = |name: &str| extra.get(name).cloned().unwrap_or_default();
        let count = |name: &str| word(name).parse::<i32>().unwrap_or_default();
        let (input_tokens, output_tokens) = (count("input_tokens"), count("output_tokens"));
        let request = FinishStepRequest {
            step: number,
            attempt,
            provider: word("provider"),
            model: word("model"),
            blocks: vec![Block {
                kind: Some(block::Kind::Text(content.into())),
            }],
            usage: (input_tokens > 0 || output_tokens > 0).then(|| TokenUsage {
                input_tokens,
                output_tokens,
                total_tokens: input_tokens.saturating_add(output_tokens),
            }),
            stop_reason: word(words::extra::FINISH_REASON),
            ..FinishStepRequest::default()
        };
        self.record_last_step(step, key, n, &request);
    }

    /// A turn is over, and so is its run.
    pub(in crate::domain) fn end_run(&mut self, step: &mut Step<'_>, key: u64, n: u64, end: RunEnd, error: &str) {
        let Some(run) = self.runs.get_mut(key, n) else { return };
        let ending = run.ending.take();
        run.wire.set_state(RunState::Ended);
        run.wire.set_end(ending.map_or(end, |ending| ending.end));
        if run.wire.end() == RunEnd::Failed {
            error.clone_into(&mut run.wire.error);
        }
        run.wire.ended_at = Some(timestamp(step.now));
        run.wire.step_count = run.wire.step_count.max(run.step.number);
        let calls = run.calls.clone();
        for call in calls {
            self.abandon_call(step, call, "the run has ended");
            self.calls.retire(call);
        }
        self.runs.retire(key, n);
        self.approvals.forget_run(key, n);
        let id = self.id_of_run(key, n);
        self.end_grants(step, 0, Some(&id));
        step.fact(Fact::Run { session: key, n });
        self.run_event(step, key, n, words::event::RUN_ENDED);
        self.run_moved(step, key, n);
    }

    /// The text of a step that broke off, where its pieces did not come before.
    fn show_text(&mut self, key: u64, whole: String) {
        if let Phase::Running { text, .. } = &mut self.front(key).phase
            && text.is_empty()
        {
            *text = whole;
        }
    }
}

fn finished(request: &FinishStepRequest, began: i64, now: i64) -> RunStep {
    RunStep {
        number: request.step.max(1),
        attempt: request.attempt.max(1),
        provider: request.provider.clone(),
        model: request.model.clone(),
        started_at: Some(timestamp(began)),
        finished_at: Some(timestamp(now)),
        blocks: request.blocks.clone(),
        usage: request.usage,
        stop_reason: request.stop_reason.clone(),
        calls: Vec::new(),
        notes: Vec::new(),
    }
}

fn add_usage(sum: &mut Option<TokenUsage>, usage: Option<&TokenUsage>) {
    let Some(usage) = usage else { return };
    let sum = sum.get_or_insert_default();
    sum.input_tokens = sum.input_tokens.saturating_add(usage.input_tokens);
    sum.output_tokens = sum.output_tokens.saturating_add(usage.output_tokens);
    sum.total_tokens = sum.total_tokens.saturating_add(usage.total_tokens);
}

/// The text of an answer, without what only its provider understands.
pub(super) fn text_of(blocks: &[Block]) -> String {
    let texts = blocks.iter().filter_map(|block| match &block.kind {
        Some(block::Kind::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

/// What of a step is kept with the answer that it ends with.
fn extra_of(request: &FinishStepRequest) -> HashMap<String, String> {
    const OWN: [&str; 2] = [words::extra::IN_REPLY_TO, words::extra::CANCELLED];
    let mut extra = request.extra.clone();
    extra.retain(|name, _| !OWN.contains(&name.as_str()));
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            extra.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    };
    put("model", &request.model);
    put("provider", &request.provider);
    put(words::extra::FINISH_REASON, &request.stop_reason);
    if let Some(usage) = &request.usage {
        put("input_tokens", &usage.input_tokens.to_string());
        put("output_tokens", &usage.output_tokens.to_string());
    }
    extra
}
