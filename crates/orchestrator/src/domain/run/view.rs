//! Runs as clients see them, and the news of them.

use nexus_proto::common::v1::TokenUsage;
use nexus_proto::llm::v1::{Block, block};
use nexus_proto::orchestrator::v1::{
    CallUpdate, Message, Run as Wire, RunEnd, RunEvent, RunState, RunStep, run_event::Kind,
};
use nexus_proto::words;

use super::{Run, run_id, run_id_of};
use crate::domain::event::{self, timestamp};
use crate::domain::sessions::about;
use crate::domain::turn::{Phase, Turn, TurnEnd};
use crate::domain::{Effect, Fact, State, Step, Time};

/// A piece of news for those who watch a run or its session.
pub fn run_event(now: Time, session_id: &str, run_id: &str, kind: Kind) -> RunEvent {
    RunEvent {
        cursor: 0,
        run_id: run_id.into(),
        session_id: session_id.into(),
        timestamp: Some(timestamp(now)),
        kind: Some(kind),
    }
}

impl State {
    /// An open run without its older steps, which are on disk.
    pub fn run_view(&self, key: u64, n: u64) -> Option<Wire> {
        let session = self.sessions.get(key)?;
        let turn = session.turn_of(n)?;
        let state = match (&turn.phase, self.runs.get(key, n)) {
            (Phase::Waiting { .. }, _) => RunState::Queued,
            (Phase::Running { .. }, _) => RunState::Model,
            (Phase::Calls, Some(run)) => run.wire.state(),
            (Phase::Calls, None) => RunState::Tools,
        };
        let agent = match turn.phase {
            Phase::Running { agent, .. } => self.agents.get(agent).map(|agent| agent.id.to_string()),
            _ => None,
        };
        let mut wire = match self.runs.get(key, n) {
            Some(run) => run.wire.clone(),
            None => Wire {
                id: run_id(key, turn),
                session_id: session.id.to_string(),
                message_id: turn.message_id.to_string(),
                answer_id: turn.answer_id.to_string(),
                started_at: turn.began.map(timestamp),
                step_count: i32::from(state != RunState::Queued),
                ..Wire::default()
            },
        };
        wire.set_state(state);
        if let Some(agent) = agent {
            wire.agent_id = agent;
        }
        Some(wire)
    }

    /// The step that a model answers now; `None` while calls run or nothing was offered.
    pub fn current_step(&self, key: u64, n: u64) -> Option<RunStep> {
        let turn = self.sessions.get(key)?.turn_of(n)?;
        let Phase::Running { text, .. } = &turn.phase else {
            return None;
        };
        Some(RunStep {
            number: turn.step,
            attempt: i32::try_from(turn.attempt).unwrap_or(i32::MAX),
            model: turn.model.clone().unwrap_or_default(),
            started_at: turn.began.map(timestamp),
            blocks: if text.is_empty() {
                Vec::new()
            } else {
                vec![text_block(text)]
            },
            ..RunStep::default()
        })
    }

    /// Tells those who watch that a run entered a state.
    pub(in crate::domain) fn run_moved(&self, step: &mut Step<'_>, key: u64, n: u64) {
        let Some(run) = self.runs.get(key, n) else { return };
        let wire = if run.wire.state() == RunState::Ended {
            run.wire.clone()
        } else {
            self.run_view(key, n).unwrap_or_else(|| run.wire.clone())
        };
        self.tell_run(step, run, Kind::Run(wire));
    }

    pub(in crate::domain) fn step_news(&self, step: &mut Step<'_>, key: u64, n: u64) {
        let Some(run) = self.runs.get(key, n) else { return };
        self.tell_run(step, run, Kind::Step(run.step.clone()));
    }

    fn tell_run(&self, step: &mut Step<'_>, run: &Run, kind: Kind) {
        let event = run_event(step.now, &run.wire.session_id, &run.wire.id, kind);
        step.effect(Effect::Run {
            session: run.session,
            event: Box::new(event),
        });
    }

    /// Tells those who watch that a call entered a state.
    pub(in crate::domain) fn call_moved(&self, step: &mut Step<'_>, call: u64) {
        let Some(call) = self.calls.get(call) else { return };
        let (run, number) = match call.step {
            Some((n, number)) => (self.id_of_run(call.session, n), number),
            None => ("".into(), 0),
        };
        let update = CallUpdate {
            step: number,
            call: Some(call.wire.clone()),
        };
        let event = run_event(step.now, &call.session_id, &run, Kind::Call(update));
        step.effect(Effect::Run {
            session: call.session,
            event: Box::new(event),
        });
    }

    /// Puts an event of a run into the session's log.
    pub(in crate::domain) fn run_event(&self, step: &mut Step<'_>, key: u64, n: u64, name: &str) {
        let (Some(run), Some(session)) = (self.runs.get(key, n), self.sessions.get(key)) else {
            return;
        };
        let data = [
            ("run_id", &*run.wire.id),
            ("session_id", &*run.wire.session_id),
            (words::data::MESSAGE_ID, &*run.wire.message_id),
            ("state", run.wire.state().as_str_name()),
            ("end", run.wire.end().as_str_name()),
            ("error", &*run.wire.error),
        ];
        let event = event::build(step, name, event::SYSTEM, about(session), &data);
        step.fact(Fact::Event { session: key, event });
    }
}

fn text_block(text: &str) -> Block {
    Block {
        kind: Some(block::Kind::Text(text.into())),
    }
}

/// The run of a turn that is over and asked for no calls: it is shown from the message, how the turn ended, and the
/// answer.
pub fn text_only(
    session: u64,
    session_id: &str,
    asked: &Message,
    end: &TurnEnd,
    answer: Option<&Message>,
    run_id: &str,
) -> Option<Wire> {
    let mut wire = Wire {
        id: run_id.into(),
        session_id: session_id.into(),
        message_id: asked.id.clone(),
        created_at: asked.timestamp,
        state: RunState::Ended.into(),
        ..Wire::default()
    };
    match end {
        TurnEnd::Failed { error } => {
            let cancelled = error.starts_with("CANCELED");
            wire.set_end(if cancelled { RunEnd::Cancelled } else { RunEnd::Failed });
            if !cancelled {
                wire.error.clone_from(error);
            }
        }
        TurnEnd::Answered { .. } => {
            let answer = answer?;
            if run_id_of(session, asked.sequence, &answer.id) != run_id {
                return None;
            }
            let extra = answer.metadata.as_ref().map(|metadata| &metadata.extra);
            let word = |name: &str| extra.and_then(|extra| extra.get(name)).cloned().unwrap_or_default();
            let count = |name: &str| word(name).parse().unwrap_or_default();
            let cancelled = !word(words::extra::CANCELLED).is_empty();
            wire.set_end(if cancelled { RunEnd::Cancelled } else { RunEnd::Done });
            wire.answer_id.clone_from(&answer.id);
            wire.ended_at = answer.timestamp;
            let (input_tokens, output_tokens) = (count("input_tokens"), count("output_tokens"));
            wire.usage = (input_tokens > 0 || output_tokens > 0).then_some(TokenUsage {
                input_tokens,
                output_tokens,
                total_tokens: input_tokens.saturating_add(output_tokens),
            });
            wire.step_count = 1;
            wire.steps = vec![RunStep {
                number: 1,
                attempt: 1,
                provider: word("provider"),
                model: word("model"),
                finished_at: answer.timestamp,
                blocks: vec![text_block(&answer.content)],
                usage: wire.usage,
                stop_reason: word(words::extra::FINISH_REASON),
                ..RunStep::default()
            }];
        }
    }
    Some(wire)
}

impl Turn {
    /// Tells apart what an assistant was offered of a turn: pieces of one offer are not those of another.
    pub fn revision(&self) -> u32 {
        (self.step.unsigned_abs() << 8) | (self.attempt & 0xff)
    }
}
