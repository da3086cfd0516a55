//! What a model is shown in a run: the instructions, the conversation before the question, the question, and the steps
//! so far with the results of their calls.
//!
//! ```text
//!   system text │ summary │ past messages │ question │ step 1: said, results │ step 2: said, results │ ...
//!   └──────────── never changes within a run, so that providers can cache it ────────┘
//! ```
//!
//! Only compaction changes what stands before the end.

use std::collections::BTreeSet;

use nexus_proto::{
    llm::v1::{Block, ToolResult, block::Kind},
    orchestrator::v1::{RunCall, RunStep},
};

use super::{
    compaction::Summary,
    window::{Entry, Role, in_turns, tokens},
};

/// A picture costs about this much, whatever its size.
const IMAGE_TOKENS: u64 = 1_600;

/// A message of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastMessage {
    /// Its place in the session; 0 where that is not known.
    pub sequence: u64,
    pub entry: Entry,
}

/// A message as a model gets it.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptMessage {
    Text(Entry),
    /// What a model said in a step, as received, and who it was.
    Said {
        provider: String,
        blocks: Vec<Block>,
    },
    /// The results of the calls before it, and notes after them.
    Results(Vec<Block>),
}

/// A run as far as it has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    pub system: String,
    /// What is known of everything older than `past`.
    pub summary: Option<Summary>,
    /// Oldest first.
    pub past: Vec<PastMessage>,
    pub question: PastMessage,
    /// Lines for the model beside the question.
    pub notes: Vec<String>,
    /// Finished steps that are not in the summary, oldest first. Every call of them has its result.
    pub steps: Vec<RunStep>,
    /// Calls whose result is shown as one line.
    pub(super) reduced: BTreeSet<String>,
    /// The first step whose usage tells how large the conversation is as it is shown now.
    pub(super) measured_from: i32,
    /// Compactions in a row that freed next to nothing.
    pub(super) fruitless: u32,
}

impl Conversation {
    pub fn new(system: String, question: PastMessage) -> Self {
        Conversation {
            system,
            summary: None,
            past: Vec::new(),
            question,
            notes: Vec::new(),
            steps: Vec::new(),
            reduced: BTreeSet::new(),
            measured_from: 0,
            fruitless: 0,
        }
    }

    /// Takes in steps that this process did not see; their usage was of prompts that it does not know.
    pub fn restore(&mut self, steps: Vec<RunStep>) {
        self.measured_from = steps.last().map_or(0, |step| step.number.saturating_add(1));
        self.steps = steps;
    }

    /// Takes in a finished step with its results. A step that is here already is replaced.
    pub fn add_step(&mut self, step: RunStep) {
        self.steps.retain(|known| known.number < step.number);
        self.steps.push(step);
    }

    /// The number of the last step that is known, in the summary or after it.
    pub fn last_step(&self) -> i32 {
        let summarised = self.summary.as_ref().map_or(0, |summary| summary.through_step);
        self.steps.last().map_or(summarised, |step| step.number)
    }

    pub fn messages(&self) -> Vec<PromptMessage> {
        let standing = self.standing();
        let standing = (!standing.trim().is_empty()).then_some(standing);
        let summary = self
            .summary
            .as_ref()
            .map(|summary| Entry::new(Role::User, summary.render()));
        let past = self.past.iter().map(|message| message.entry.clone());
        let spoken = summary
            .into_iter()
            .chain(past)
            .filter(|entry| !entry.text.trim().is_empty());
        let question = std::iter::once(self.asked());
        let mut messages: Vec<PromptMessage> = in_turns(standing, spoken.chain(question))
            .into_iter()
            .map(PromptMessage::Text)
            .collect();
        for step in &self.steps {
            messages.push(PromptMessage::Said {
                provider: step.provider.clone(),
                blocks: step.blocks.clone(),
            });
            let results = self.results(step);
            if !results.is_empty() {
                messages.push(PromptMessage::Results(results));
            }
        }
        messages
    }

    /// The system text with the instructions of messages that are summed up.
    fn standing(&self) -> String {
        let more = self.summary.iter().flat_map(|summary| &summary.instructions);
        let parts: Vec<&str> = [self.system.as_str()]
            .into_iter()
            .chain(more.map(String::as_str))
            .collect();
        parts.join("\n\n")
    }

    /// The question with the notes beside it.
    fn asked(&self) -> Entry {
        let mut text = self.question.entry.text.clone();
        for note in &self.notes {
            text.push_str("\n\n");
            text.push_str(&noted(note));
        }
        Entry::new(Role::User, text)
    }

    fn results(&self, step: &RunStep) -> Vec<Block> {
        let results = step.calls.iter().map(|call| self.result(call));
        let notes = step.notes.iter().filter(|note| !note.trim().is_empty());
        results.chain(notes.map(|note| text_block(noted(note)))).collect()
    }

    fn result(&self, call: &RunCall) -> Block {
        let content = if self.reduced.contains(&call.id) {
            vec![text_block(reduced_line(call))]
        } else if call.result.is_empty() && !call.code.is_empty() {
            vec![text_block(format!(
                "error {}: the call has no further result.",
                call.code
            ))]
        } else {
            call.result.clone()
        };
        Block {
            kind: Some(Kind::ToolResult(ToolResult {
                tool_call_id: call.tool_call_id.clone(),
                name: call.tool.clone(),
                content,
                is_error: !call.code.is_empty(),
            })),
        }
    }

    /// About how many tokens the next request has: what the provider counted last, and a careful guess of what came
    /// since. `tools` is what the definitions of tools cost.
    pub fn estimate(&self, tools: u64) -> u64 {
        if let Some(last) = self.steps.last()
            && last.number >= self.measured_from
            && let Some(usage) = last.usage.as_ref().filter(|usage| usage.input_tokens > 0)
        {
            let count = |tokens: i32| u64::try_from(tokens).unwrap_or(0);
            let counted = count(usage.input_tokens) + count(usage.output_tokens);
            return counted + self.results(last).iter().map(block_tokens).sum::<u64>();
        }
        tools + self.guess()
    }

    /// The guess alone, without the definitions of tools.
    pub(super) fn guess(&self) -> u64 {
        let summary = self.summary.as_ref().map_or(0, |summary| tokens(&summary.render()));
        let past: u64 = self.past.iter().map(|message| tokens(&message.entry.text)).sum();
        let steps: u64 = self.steps.iter().map(|step| self.step_tokens(step)).sum();
        tokens(&self.standing()) + summary + past + tokens(&self.asked().text) + steps
    }

    pub(super) fn step_tokens(&self, step: &RunStep) -> u64 {
        let said: u64 = step.blocks.iter().map(block_tokens).sum();
        said + self.results(step).iter().map(block_tokens).sum::<u64>()
    }
}

/// What the orchestrator adds is marked, so that it is not taken for words of the user.
fn noted(note: &str) -> String {
    format!("[note] {note}")
}

/// What stands in the place of a result that is no longer shown.
pub(super) fn reduced_line(call: &RunCall) -> String {
    let bytes = call
        .output_bytes
        .max(call.result.iter().map(block_bytes).sum::<usize>() as u64);
    let rest = match call.spill.as_str() {
        "" => "call the tool again if you need it".to_owned(),
        spill => format!("read {spill} if you need it"),
    };
    let code = match call.code.as_str() {
        "" => String::new(),
        code => format!(", error {code}"),
    };
    format!(
        "[a result of {} with {bytes} bytes{code}, no longer shown: {rest}]",
        call.tool
    )
}

fn block_bytes(block: &Block) -> usize {
    match &block.kind {
        Some(Kind::Text(text)) => text.len(),
        Some(Kind::Image(image)) => image.data.len(),
        _ => 0,
    }
}

pub fn block_tokens(block: &Block) -> u64 {
    match &block.kind {
        Some(Kind::Text(text)) => tokens(text),
        Some(Kind::Image(_)) => IMAGE_TOKENS,
        Some(Kind::ToolCall(call)) => tokens(&call.arguments) + tokens(&call.name),
        // No block of a result holds results, so this goes one level deep.
        Some(Kind::ToolResult(result)) => {
            let of = |block: &Block| match &block.kind {
                Some(Kind::Text(text)) => tokens(text),
                Some(Kind::Image(_)) => IMAGE_TOKENS,
                _ => 0,
            };
            result.content.iter().map(of).sum::<u64>() + tokens(&result.name)
        }
        Some(Kind::Opaque(opaque)) => (opaque.data.len() as u64).div_ceil(3),
        None => 0,
    }
}

pub fn text_block(text: impl Into<String>) -> Block {
    Block {
        kind: Some(Kind::Text(text.into())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use nexus_proto::{common::v1::TokenUsage, llm::v1::ToolCall};

    use super::*;

    pub fn message(sequence: u64, role: Role, text: &str) -> PastMessage {
        PastMessage {
            sequence,
            entry: Entry::new(role, text),
        }
    }

    /// A step that asks for one call, with its result.
    pub fn step(number: i32, tool: &str, arguments: &str, result: &str) -> RunStep {
        RunStep {
            number,
            attempt: 1,
            provider: "p".into(),
            model: "m".into(),
            blocks: vec![
                text_block(format!("step {number}")),
                Block {
                    kind: Some(Kind::ToolCall(ToolCall {
                        id: format!("t{number}"),
                        name: tool.into(),
                        arguments: arguments.into(),
                        malformed: false,
                    })),
                },
            ],
            calls: vec![RunCall {
                id: format!("call-{number}"),
                tool_call_id: format!("t{number}"),
                tool: tool.into(),
                arguments_json: arguments.into(),
                result: vec![text_block(result)],
                output_bytes: result.len() as u64,
                ..RunCall::default()
            }],
            ..RunStep::default()
        }
    }

    pub fn conversation(question: &str) -> Conversation {
        Conversation::new("be kind".into(), message(9, Role::User, question))
    }

    #[test]
    fn results_follow_their_calls_in_order_and_notes_come_last() {
        let mut it = conversation("fix it");
        it.past = vec![message(1, Role::User, "hi"), message(2, Role::Assistant, "hello")];
        let mut one = step(1, "grep", "{}", "found");
        one.calls.push(RunCall {
            id: "call-2".into(),
            tool_call_id: "t2".into(),
            tool: "exec".into(),
            code: "denied".into(),
            ..RunCall::default()
        });
        one.notes = vec!["half of the budget is used".into()];
        it.add_step(one.clone());
        let messages = it.messages();
        assert_eq!(messages.len(), 6);
        assert_eq!(messages[3], PromptMessage::Text(Entry::new(Role::User, "fix it")));
        let PromptMessage::Said { blocks, provider } = &messages[4] else {
            panic!("{messages:?}")
        };
        assert_eq!((blocks, provider.as_str()), (&one.blocks, "p"));
        let PromptMessage::Results(results) = &messages[5] else {
            panic!("{messages:?}")
        };
        let ids: Vec<_> = results
            .iter()
            .map(|block| match block.kind.as_ref().unwrap() {
                Kind::ToolResult(result) => (result.tool_call_id.as_str(), result.is_error, result.content.len()),
                Kind::Text(text) => (text.as_str(), false, 0),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            ids,
            [
                ("t1", false, 1),
                ("t2", true, 1),
                ("[note] half of the budget is used", false, 0)
            ]
        );
    }

    #[test]
    fn what_the_provider_counted_is_the_estimate_plus_what_came_since() {
        let mut it = conversation("fix it");
        let mut one = step(1, "grep", "{}", &"x".repeat(300));
        one.usage = Some(TokenUsage {
            input_tokens: 5_000,
            output_tokens: 50,
            total_tokens: 5_050,
        });
        it.add_step(one.clone());
        let came_since = tokens(&"x".repeat(300)) + tokens("grep");
        assert_eq!(it.estimate(77), 5_050 + came_since);
        // Of a prompt that this process did not build, nothing is counted.
        let mut restored = conversation("fix it");
        restored.restore(vec![one]);
        assert_eq!(restored.estimate(77), 77 + restored.guess());
    }

    #[test]
    fn a_step_offered_twice_is_there_once() {
        let mut it = conversation("fix it");
        it.add_step(step(1, "grep", "{}", "a"));
        it.add_step(step(2, "grep", "{}", "b"));
        it.add_step(step(2, "grep", "{}", "c"));
        assert_eq!(it.steps.len(), 2);
        assert_eq!(it.last_step(), 2);
    }
}
