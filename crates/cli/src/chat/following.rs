//! Knows of the run that answers one message: which run that is, which of its calls run, what it has used.

use std::collections::{BTreeMap, HashMap, HashSet};

use nexus_proto::{
    common::v1::TokenUsage,
    orchestrator::v1::{CallState, Message, Run, RunCall, RunEnd, RunEvent, RunState, RunStep, run_event::Kind},
};

use super::limits::Limits;
use crate::output::calls::is_over;

/// Bytes of the last line of output that are kept of a running call.
const LAST_LINE: usize = 400;

#[derive(Debug, Default)]
pub struct Following {
    message_id: String,
    /// No other run can be in the session: it was begun with this message.
    sole: bool,
    id: Option<String>,
    others: HashSet<String>,
    calls: BTreeMap<String, Running>,
    finished: HashSet<String>,
    step: i32,
    /// By step; a run that is over says the sum.
    used: HashMap<i32, TokenUsage>,
    total: Option<TokenUsage>,
    end: Option<RunEnd>,
    error: String,
    /// It was told of as a run, so that its end is too.
    told: bool,
}

/// A call that has begun and has not ended.
#[derive(Debug)]
pub struct Running {
    pub call: RunCall,
    pub bytes: u64,
    pub last_line: String,
}

/// Whether an event is of the run that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Ours,
    Other,
    /// GetRun tells.
    Unknown,
}

/// What changed with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Began,
    Ended,
    Nothing,
}

impl Following {
    pub fn new(message_id: &str, sole: bool) -> Following {
        Following {
            message_id: message_id.to_owned(),
            sole,
            ..Following::default()
        }
    }

    pub fn whose(&mut self, event: &RunEvent) -> Whose {
        if let Some(Kind::Run(run)) = &event.kind {
            self.learn(run);
        }
        if event.run_id.is_empty() || self.others.contains(&event.run_id) {
            return Whose::Other;
        }
        match &self.id {
            Some(id) if *id == event.run_id => Whose::Ours,
            Some(_) => Whose::Other,
            None if self.sole => {
                self.id = Some(event.run_id.clone());
                Whose::Ours
            }
            None => Whose::Unknown,
        }
    }

    /// Which message a run answers.
    pub fn learn(&mut self, run: &Run) {
        if run.message_id == self.message_id {
            self.others.remove(&run.id);
            self.id = Some(run.id.clone());
        } else {
            self.others.insert(run.id.clone());
            if self.id.as_ref() == Some(&run.id) {
                self.id = None;
            }
        }
    }

    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub fn run(&mut self, run: &Run) {
        self.told = true;
        self.step = self.step.max(run.step_count);
        if run.state() == RunState::Ended {
            self.end = Some(run.end());
            self.error.clone_from(&run.error);
            self.total = run.usage.or(self.total);
        }
    }

    /// The final message says what its model used; a run of several steps says more.
    pub fn answered(&mut self, message: &Message) {
        let extra = message.metadata.as_ref().map(|metadata| &metadata.extra);
        let count = |name: &str| extra.and_then(|extra| extra.get(name)?.parse::<i32>().ok());
        if let (Some(input_tokens), Some(output_tokens)) = (count("input_tokens"), count("output_tokens")) {
            let last = self.step.max(1);
            self.used.entry(last).or_insert(TokenUsage {
                input_tokens,
                output_tokens,
                total_tokens: input_tokens.saturating_add(output_tokens),
            });
        }
    }

    pub fn step(&mut self, step: &RunStep) {
        self.step = self.step.max(step.number);
        if let Some(usage) = step.usage {
            self.used.insert(step.number, usage);
        }
    }

    pub fn text(&mut self, step: i32) {
        self.step = self.step.max(step);
    }

    /// Takes a call's state. One that came before, or after the end, changes nothing.
    pub fn call(&mut self, call: &RunCall) -> Change {
        if self.finished.contains(&call.id) {
            return Change::Nothing;
        }
        if is_over(call.state()) {
            self.finished.insert(call.id.clone());
            self.calls.remove(&call.id);
            return Change::Ended;
        }
        if !matches!(call.state(), CallState::Started | CallState::Running) {
            return Change::Nothing;
        }
        let new = !self.calls.contains_key(&call.id);
        let running = self.calls.entry(call.id.clone()).or_insert_with(|| Running {
            call: call.clone(),
            bytes: 0,
            last_line: String::new(),
        });
        running.call = call.clone();
        if new { Change::Began } else { Change::Nothing }
    }

    pub fn output(&mut self, call_id: &str, offset: u64, data: &[u8]) {
        let Some(running) = self.calls.get_mut(call_id) else {
            return;
        };
        running.bytes = running.bytes.max(offset.saturating_add(data.len() as u64));
        let text = String::from_utf8_lossy(data);
        if let Some(line) = text.lines().rfind(|line| !line.trim().is_empty()) {
            running.last_line = line[..line.floor_char_boundary(LAST_LINE)].to_owned();
        }
    }

    pub fn running(&self) -> impl Iterator<Item = &Running> {
        self.calls.values()
    }

    pub fn steps(&self) -> i32 {
        self.step
    }

    /// What is known of it so far.
    pub fn usage(&self) -> Option<TokenUsage> {
        if self.total.is_some() || self.used.is_empty() {
            return self.total;
        }
        let add = |mut sum: TokenUsage, usage: &TokenUsage| {
            sum.input_tokens = sum.input_tokens.saturating_add(usage.input_tokens);
            sum.output_tokens = sum.output_tokens.saturating_add(usage.output_tokens);
            sum.total_tokens = sum.total_tokens.saturating_add(usage.total_tokens);
            sum
        };
        Some(self.used.values().fold(TokenUsage::default(), add))
    }

    pub fn end(&self) -> Option<(RunEnd, &str)> {
        self.end.map(|end| (end, self.error.as_str()))
    }

    /// It was told of as a run, so that its end will be too.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// The limit that it has passed, in words.
    pub fn beyond(&self, limits: &Limits) -> Option<String> {
        limits.passed(self.step, self.usage().as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(run_id: &str, kind: Kind) -> RunEvent {
        RunEvent {
            run_id: run_id.into(),
            kind: Some(kind),
            ..RunEvent::default()
        }
    }

    fn run(id: &str, message: &str) -> Run {
        Run {
            id: id.into(),
            message_id: message.into(),
            ..Run::default()
        }
    }

    fn call(state: CallState) -> RunCall {
        RunCall {
            id: "c".into(),
            state: state.into(),
            ..RunCall::default()
        }
    }

    #[test]
    fn the_run_of_our_message_is_told_from_others() {
        let mut following = Following::new("m", false);
        assert_eq!(
            following.whose(&event("r1", Kind::Step(RunStep::default()))),
            Whose::Unknown
        );
        assert_eq!(following.whose(&event("r0", Kind::Run(run("r0", "x")))), Whose::Other);
        assert_eq!(following.whose(&event("r1", Kind::Run(run("r1", "m")))), Whose::Ours);
        assert_eq!(
            following.whose(&event("r1", Kind::Step(RunStep::default()))),
            Whose::Ours
        );
        assert_eq!(
            following.whose(&event("r2", Kind::Step(RunStep::default()))),
            Whose::Other
        );
        assert_eq!(
            following.whose(&event("", Kind::Step(RunStep::default()))),
            Whose::Other
        );
    }

    #[test]
    fn in_a_session_of_our_own_the_first_run_is_ours_unless_it_says_otherwise() {
        let mut following = Following::new("m", true);
        assert_eq!(
            following.whose(&event("r1", Kind::Step(RunStep::default()))),
            Whose::Ours
        );
        assert_eq!(following.whose(&event("r1", Kind::Run(run("r1", "x")))), Whose::Other);
        assert_eq!(following.id(), None);
    }

    #[test]
    fn a_call_begins_and_ends_once() {
        let mut following = Following::new("m", true);
        let states = [
            CallState::Proposed,
            CallState::Started,
            CallState::Running,
            CallState::Done,
            CallState::Running,
            CallState::Done,
        ];
        let changes = states.map(|state| following.call(&call(state)));
        use Change::{Began, Ended, Nothing};
        assert_eq!(changes, [Nothing, Began, Nothing, Ended, Nothing, Nothing]);
        assert_eq!(following.running().count(), 0);
    }

    #[test]
    fn usage_is_summed_over_steps_until_the_run_says_it() {
        let mut following = Following::new("m", true);
        assert_eq!(following.usage(), None);
        let used = |total_tokens| {
            Some(TokenUsage {
                total_tokens,
                ..TokenUsage::default()
            })
        };
        for (number, total) in [(1, 10), (2, 20), (2, 25)] {
            following.step(&RunStep {
                number,
                usage: used(total),
                ..RunStep::default()
            });
        }
        assert_eq!(following.usage(), used(35));
        following.run(&Run {
            state: RunState::Ended.into(),
            end: RunEnd::Done.into(),
            usage: used(36),
            step_count: 2,
            ..Run::default()
        });
        assert_eq!((following.usage(), following.steps()), (used(36), 2));
    }
}
