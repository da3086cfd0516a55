//! Assembles an answer: the pieces that are passed on, and the complete answer at the end.
//!
//! The pieces together are the whole, byte for byte, and each says where it begins.

/// What the model daemon sends about an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelEvent {
    Text(String),
    /// The model thinks, and has said nothing by that.
    Thought,
    Usage {
        input: u32,
        output: u32,
    },
    /// The model has finished. Some servers say the text only here.
    Complete {
        text: String,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerUpdate {
    Nothing,
    /// `index` is the byte at which this piece stands in the answer.
    Delta {
        index: usize,
        text: String,
    },
    Done(CompleteAnswer),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompleteAnswer {
    pub text: String,
    pub model: String,
    pub finish: Finish,
    /// Where the answer was cut short: by what, and what to do about it.
    pub cut_short: Option<String>,
    pub input_tokens: u32,
    pub output_tokens: u32,
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
    thought: bool,
    complete: bool,
}

impl Answer {
    pub fn new(limits: Limits) -> Self {
        Answer {
            limits,
            whole: CompleteAnswer::default(),
            thought: false,
            complete: false,
        }
    }

    /// After `Done` or an error there is nothing more to be said.
    pub fn step(&mut self, heard: ModelEvent) -> Result<AnswerUpdate, Error> {
        match heard {
            ModelEvent::Text(text) => self.grow(text),
            ModelEvent::Thought => {
                self.thought = true;
                Ok(AnswerUpdate::Nothing)
            }
            ModelEvent::Usage { input, output } => {
                self.whole.input_tokens = input;
                self.whole.output_tokens = output;
                Ok(AnswerUpdate::Nothing)
            }
            ModelEvent::Complete {
                text,
                model,
                finish,
                usage,
            } => {
                self.complete = true;
                if let Some((input, output)) = usage {
                    self.whole.input_tokens = input;
                    self.whole.output_tokens = output;
                }
                self.whole.model = model;
                self.whole.finish = finish;
                if finish == Finish::Error {
                    return Err(Error::Faulty);
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
            ModelEvent::End if self.whole.text.is_empty() => Err(Error::Empty {
                finish: self.whole.finish,
                thought: self.thought,
                limits: self.limits,
            }),
            ModelEvent::End => {
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
            model: "m".into(),
            finish: Finish::Stop,
            usage: None,
        }
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
                answer.step(ModelEvent::Thought).unwrap();
            }
            let ends = ModelEvent::Complete {
                text: String::new(),
                model: "m".into(),
                finish: Finish::Length,
                usage: None,
            };
            answer.step(ends).unwrap();
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
