//! Assembles an answer: the pieces that are passed on, and the complete answer at the end.
//!
//! The pieces together are the whole, byte for byte, and each says where it begins. An answer may ask for tool calls;
//! its blocks are kept as the model sent them.

use nexus_proto::llm::v1::{Block, ToolCall, block::Kind};

/// What the model daemon sends about an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent {
    Text(String),
    /// What the model thinks; no part of the answer.
    Thought(String),
    Usage {
        input: u32,
        output: u32,
    },
    /// The model has finished. Some servers say the text only here.
    Complete {
        text: String,
        /// Everything in order, where the server knows blocks.
        blocks: Vec<Block>,
        /// The tool calls, where it does not.
        calls: Vec<ToolCall>,
        provider: String,
        model: String,
        finish: Finish,
        usage: Option<(u32, u32)>,
    },
    Failed {
        code: String,
        message: String,
        retryable: bool,
    },
    /// The call is over.
    End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finish {
    #[default]
    Stop,
    Length,
    ToolUses,
    Filter,
    Error,
}

impl Finish {
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::ToolUses => "tool_uses",
            Finish::Filter => "filter",
            Finish::Error => "error",
        }
    }
}

/// What the turn passes on.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerUpdate {
    Nothing,
    /// `index` is the byte at which this piece stands in the answer.
    Delta {
        index: usize,
        text: String,
    },
    /// The same of what the model thinks.
    Thought {
        index: usize,
        text: String,
    },
    Done(CompleteAnswer),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompleteAnswer {
    pub text: String,
    /// Text, calls, and what has to go back to the provider untouched: as received, in order.
    pub blocks: Vec<Block>,
    pub provider: String,
    pub model: String,
    pub finish: Finish,
    /// Where the answer was cut short: by what, and what to do about it.
    pub cut_short: Option<String>,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

impl CompleteAnswer {
    /// The model asks for tools.
    pub fn has_calls(&self) -> bool {
        self.blocks
            .iter()
            .any(|block| matches!(block.kind, Some(Kind::ToolCall(_))))
    }

    /// Takes the calls out of an answer that may not have any.
    pub fn drop_calls(&mut self) {
        self.blocks
            .retain(|block| !matches!(block.kind, Some(Kind::ToolCall(_))));
    }

    fn call_bytes(&self) -> usize {
        let bytes = |block: &Block| match &block.kind {
            Some(Kind::ToolCall(call)) => call.arguments.len() + call.name.len(),
            _ => 0,
        };
        self.blocks.iter().map(bytes).sum()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{message}")]
    Model {
        code: String,
        message: String,
        retryable: bool,
    },
    #[error("the model's answer broke off")]
    BrokeOff,
    #[error("{}", empty(*.finish, *.thought, .limits))]
    Empty {
        finish: Finish,
        /// It thought before that.
        thought: bool,
        limits: Limits,
    },
    #[error("the model ended its answer with an error")]
    Faulty,
    #[error("the answer is larger than {limit} bytes (agent.answer_bytes)")]
    TooLong { limit: usize },
}

/// How long an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// An answer of more bytes is an error: nothing that is held may grow without end.
    pub bytes: usize,
    /// What the model was told.
    pub tokens: u64,
    /// The setting asks for more tokens than the model's window leaves.
    pub by_window: bool,
}

impl Limits {
    fn remedy(&self) -> &'static str {
        if self.by_window {
            "the model's window leaves no more: ask a model with a larger one"
        } else {
            "raise agent.answer_tokens"
        }
    }
}

fn empty(finish: Finish, thought: bool, limits: &Limits) -> String {
    let Limits { tokens, .. } = limits;
    match (finish, thought) {
        (Finish::Length, true) => format!(
            "the model used up its limit of {tokens} tokens by thinking, before it said anything; {}",
            limits.remedy()
        ),
        (Finish::Length, false) => {
            format!(
                "the model reached its limit of {tokens} tokens before it said anything; {}",
                limits.remedy()
            )
        }
        (Finish::Filter, _) => format!("{FILTERED}, and the answer is empty"),
        (_, true) => "the model thought, and then gave an empty answer".to_owned(),
        (_, false) => "the model gave an empty answer".to_owned(),
    }
}

const FILTERED: &str = "the provider's content filter ended the answer, or the model refused it";

#[derive(Debug)]
pub struct Answer {
    limits: Limits,
    whole: CompleteAnswer,
    /// Bytes of thinking so far.
    thought: usize,
    complete: bool,
}

impl Answer {
    pub fn new(limits: Limits) -> Self {
        Answer {
            limits,
            whole: CompleteAnswer::default(),
            thought: 0,
            complete: false,
        }
    }

    /// After `Done` or an error there is nothing more to be said.
    pub fn step(&mut self, heard: ModelEvent) -> Result<AnswerUpdate, Error> {
        match heard {
            ModelEvent::Text(text) => self.grow(text),
            ModelEvent::Thought(text) => {
                let index = self.thought;
                self.thought += text.len();
                Ok(AnswerUpdate::Thought { index, text })
            }
            ModelEvent::Usage { input, output } => {
                self.whole.input_tokens = input;
                self.whole.output_tokens = output;
                Ok(AnswerUpdate::Nothing)
            }
            ModelEvent::Complete {
                text,
                blocks,
                calls,
                provider,
                model,
                finish,
                usage,
            } => {
                self.complete = true;
                if let Some((input, output)) = usage {
                    self.whole.input_tokens = input;
                    self.whole.output_tokens = output;
                }
                self.whole.provider = provider;
                self.whole.model = model;
                self.whole.finish = finish;
                if finish == Finish::Error {
                    return Err(Error::Faulty);
                }
                self.whole.blocks = if blocks.is_empty() {
                    calls.into_iter().map(Kind::ToolCall).map(block).collect()
                } else {
                    blocks
                };
                if self.whole.call_bytes() > self.limits.bytes {
                    return Err(Error::TooLong {
                        limit: self.limits.bytes,
                    });
                }
                if self.whole.text.is_empty() {
                    return self.grow(text);
                }
                Ok(AnswerUpdate::Nothing)
            }
            ModelEvent::Failed {
                code,
                message,
                retryable,
            } => Err(Error::Model {
                code,
                message,
                retryable,
            }),
            ModelEvent::End if !self.complete => Err(Error::BrokeOff),
            ModelEvent::End => {
                if self.whole.finish == Finish::Filter {
                    self.whole.drop_calls();
                }
                if self.whole.text.is_empty() && !self.whole.has_calls() {
                    return Err(Error::Empty {
                        finish: self.whole.finish,
                        thought: self.thought > 0,
                        limits: self.limits,
                    });
                }
                // Of a server that knows no blocks.
                let has_text = |block: &Block| matches!(block.kind, Some(Kind::Text(_)));
                if !self.whole.text.is_empty() && !self.whole.blocks.iter().any(has_text) {
                    let text = Kind::Text(self.whole.text.clone());
                    self.whole.blocks.insert(0, block(text));
                }
                self.whole.cut_short = self.cut_short();
                Ok(AnswerUpdate::Done(std::mem::take(&mut self.whole)))
            }
        }
    }

    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn cut_short(&self) -> Option<String> {
        match self.whole.finish {
            Finish::Length => {
                let Limits { tokens, .. } = self.limits;
                Some(format!(
                    "the answer reached its limit of {tokens} tokens; {}",
                    self.limits.remedy()
                ))
            }
            Finish::Filter => Some(FILTERED.to_owned()),
            Finish::Stop | Finish::ToolUses | Finish::Error => None,
        }
    }

    fn grow(&mut self, text: String) -> Result<AnswerUpdate, Error> {
        let index = self.whole.text.len();
        if text.is_empty() {
            return Ok(AnswerUpdate::Nothing);
        }
        if index + text.len() > self.limits.bytes {
            return Err(Error::TooLong {
                limit: self.limits.bytes,
            });
        }
        self.whole.text.push_str(&text);
        Ok(AnswerUpdate::Delta { index, text })
    }
}

fn block(kind: Kind) -> Block {
    Block { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(bytes: usize) -> Limits {
        Limits {
            bytes,
            tokens: 50,
            by_window: false,
        }
    }

    fn complete(text: &str) -> ModelEvent {
        ModelEvent::Complete {
            text: text.into(),
            blocks: Vec::new(),
            calls: Vec::new(),
            provider: "p".into(),
            model: "m".into(),
            finish: Finish::Stop,
            usage: None,
        }
    }

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall {
            id: "1".into(),
            name: name.into(),
            arguments: arguments.into(),
            malformed: false,
        }
    }

    fn asks(blocks: Vec<Block>, calls: Vec<ToolCall>, finish: Finish) -> ModelEvent {
        ModelEvent::Complete {
            text: String::new(),
            blocks,
            calls,
            provider: "p".into(),
            model: "m".into(),
            finish,
            usage: Some((7, 8)),
        }
    }

    fn end(answer: &mut Answer) -> CompleteAnswer {
        match answer.step(ModelEvent::End).unwrap() {
            AnswerUpdate::Done(whole) => whole,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_that_asks_for_calls_keeps_its_blocks_as_they_came() {
        let opaque = Kind::Opaque(nexus_proto::llm::v1::Opaque {
            provider: "p".into(),
            model: "m".into(),
            data: vec![1, 2].into(),
        });
        let blocks = vec![
            block(opaque),
            block(Kind::Text("I look.".into())),
            block(Kind::ToolCall(call("grep", "{}"))),
        ];
        let mut answer = Answer::new(limits(100));
        answer.step(ModelEvent::Text("I look.".into())).unwrap();
        answer.step(asks(blocks.clone(), Vec::new(), Finish::ToolUses)).unwrap();
        let whole = end(&mut answer);
        assert!(whole.has_calls());
        assert_eq!(whole.blocks, blocks);
    }

    #[test]
    fn a_server_without_blocks_gives_text_and_then_its_calls() {
        let mut answer = Answer::new(limits(100));
        answer.step(ModelEvent::Text("I look.".into())).unwrap();
        answer
            .step(asks(Vec::new(), vec![call("grep", "{}")], Finish::ToolUses))
            .unwrap();
        assert_eq!(
            end(&mut answer).blocks,
            [
                block(Kind::Text("I look.".into())),
                block(Kind::ToolCall(call("grep", "{}")))
            ]
        );
    }

    #[test]
    fn calls_of_a_filtered_answer_do_not_run() {
        let mut answer = Answer::new(limits(100));
        answer.step(ModelEvent::Text("Well".into())).unwrap();
        answer
            .step(asks(Vec::new(), vec![call("grep", "{}")], Finish::Filter))
            .unwrap();
        assert!(!end(&mut answer).has_calls());
    }

    #[test]
    fn arguments_count_against_the_longest_answer() {
        let mut answer = Answer::new(limits(10));
        let long = call("write_file", &"x".repeat(20));
        assert_eq!(
            answer.step(asks(Vec::new(), vec![long], Finish::ToolUses)),
            Err(Error::TooLong { limit: 10 })
        );
    }

    #[test]
    fn an_answer_told_only_at_the_end_still_comes_as_a_piece() {
        let mut answer = Answer::new(limits(100));
        assert_eq!(
            answer.step(complete("all")).unwrap(),
            AnswerUpdate::Delta {
                index: 0,
                text: "all".into()
            }
        );
        assert!(matches!(answer.step(ModelEvent::End), Ok(AnswerUpdate::Done(whole)) if whole.text == "all"));
    }

    #[test]
    fn an_end_without_completion_is_no_answer() {
        let mut answer = Answer::new(limits(100));
        answer.step(ModelEvent::Text("half".into())).unwrap();
        assert_eq!(answer.step(ModelEvent::End), Err(Error::BrokeOff));
    }

    #[test]
    fn nothing_at_all_is_no_answer() {
        let mut answer = Answer::new(limits(100));
        answer.step(complete("")).unwrap();
        assert!(matches!(answer.step(ModelEvent::End), Err(Error::Empty { .. })));
    }

    #[test]
    fn a_limit_that_thinking_used_up_is_told_as_that() {
        for (thinks, by_window, told) in [
            (
                true,
                false,
                "by thinking, before it said anything; raise agent.answer_tokens",
            ),
            (false, false, "limit of 50 tokens before it said anything; raise"),
            (true, true, "a model with a larger one"),
        ] {
            let mut answer = Answer::new(Limits {
                by_window,
                ..limits(100)
            });
            if thinks {
                answer.step(ModelEvent::Thought("hm".into())).unwrap();
            }
            answer.step(asks(Vec::new(), Vec::new(), Finish::Length)).unwrap();
            let error = answer.step(ModelEvent::End).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn no_answer_grows_without_end() {
        let mut answer = Answer::new(limits(5));
        answer.step(ModelEvent::Text("12345".into())).unwrap();
        assert_eq!(
            answer.step(ModelEvent::Text("6".into())),
            Err(Error::TooLong { limit: 5 })
        );
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_whole(pieces in prop::collection::vec("[a-zäöü€]{0,9}", 1..50)) {
            let mut answer = Answer::new(limits(usize::MAX));
            let mut built = String::new();
            for piece in &pieces {
                match answer.step(ModelEvent::Text(piece.clone())).unwrap() {
                    AnswerUpdate::Delta { index, text } => {
                        prop_assert_eq!(index, built.len());
                        built.push_str(&text);
                    }
                    other => prop_assert!(piece.is_empty(), "{other:?}"),
                }
            }
            answer.step(ModelEvent::Usage { input: 3, output: 4 }).unwrap();
            answer.step(complete("ignored when pieces came")).unwrap();
            prop_assume!(!built.is_empty());
            match answer.step(ModelEvent::End).unwrap() {
                AnswerUpdate::Done(whole) => {
                    prop_assert_eq!(whole.text, built);
                    prop_assert_eq!((whole.input_tokens, whole.output_tokens), (3, 4));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
