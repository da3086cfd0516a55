//! An answer as it grows: what is passed on piece by piece, and what it is in the end.
//!
//! The pieces together are the whole, byte for byte, and each says where it begins.

/// What the model's side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Text(String),
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

/// What follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Nothing,
    /// `index` is the byte at which this piece stands in the answer.
    Delta {
        index: usize,
        text: String,
    },
    Done(Whole),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    pub text: String,
    pub model: String,
    pub finish: Finish,
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
    #[error("the model gave an empty answer")]
    Empty,
    #[error("the model ended its answer with an error")]
    Faulty,
    #[error("the answer outgrew {limit} bytes")]
    TooLong { limit: usize },
}

#[derive(Debug)]
pub struct Answer {
    limit: usize,
    whole: Whole,
    complete: bool,
}

impl Answer {
    /// An answer of more than `limit` bytes is an error: nothing that is held may grow without end.
    pub fn new(limit: usize) -> Self {
        Answer {
            limit,
            whole: Whole::default(),
            complete: false,
        }
    }

    /// After `Done` or an error there is nothing more to be said.
    pub fn step(&mut self, heard: Heard) -> Result<Said, Error> {
        match heard {
            Heard::Text(text) => self.grow(text),
            Heard::Usage { input, output } => {
                self.whole.input_tokens = input;
                self.whole.output_tokens = output;
                Ok(Said::Nothing)
            }
            Heard::Complete {
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
                Ok(Said::Nothing)
            }
            Heard::Failed {
                code,
                message,
                retryable,
            } => Err(Error::Model {
                code,
                message,
                retryable,
            }),
            Heard::End if !self.complete => Err(Error::BrokeOff),
            Heard::End if self.whole.text.is_empty() => Err(Error::Empty),
            Heard::End => Ok(Said::Done(std::mem::take(&mut self.whole))),
        }
    }

    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn grow(&mut self, text: String) -> Result<Said, Error> {
        let index = self.whole.text.len();
        if text.is_empty() {
            return Ok(Said::Nothing);
        }
        if index + text.len() > self.limit {
            return Err(Error::TooLong { limit: self.limit });
        }
        self.whole.text.push_str(&text);
        Ok(Said::Delta { index, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn complete(text: &str) -> Heard {
        Heard::Complete {
            text: text.into(),
            model: "m".into(),
            finish: Finish::Stop,
            usage: None,
        }
    }

    #[test]
    fn an_answer_told_only_at_the_end_still_comes_as_a_piece() {
        let mut answer = Answer::new(100);
        assert_eq!(
            answer.step(complete("all")).unwrap(),
            Said::Delta {
                index: 0,
                text: "all".into()
            }
        );
        assert!(matches!(answer.step(Heard::End), Ok(Said::Done(whole)) if whole.text == "all"));
    }

    #[test]
    fn an_end_without_completion_is_no_answer() {
        let mut answer = Answer::new(100);
        answer.step(Heard::Text("half".into())).unwrap();
        assert_eq!(answer.step(Heard::End), Err(Error::BrokeOff));
    }

    #[test]
    fn nothing_at_all_is_no_answer() {
        let mut answer = Answer::new(100);
        answer.step(complete("")).unwrap();
        assert_eq!(answer.step(Heard::End), Err(Error::Empty));
    }

    #[test]
    fn no_answer_grows_without_end() {
        let mut answer = Answer::new(5);
        answer.step(Heard::Text("12345".into())).unwrap();
        assert_eq!(answer.step(Heard::Text("6".into())), Err(Error::TooLong { limit: 5 }));
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_whole(pieces in prop::collection::vec("[a-zäöü€]{0,9}", 1..50)) {
            let mut answer = Answer::new(usize::MAX);
            let mut built = String::new();
            for piece in &pieces {
                match answer.step(Heard::Text(piece.clone())).unwrap() {
                    Said::Delta { index, text } => {
                        prop_assert_eq!(index, built.len());
                        built.push_str(&text);
                    }
                    other => prop_assert!(piece.is_empty(), "{other:?}"),
                }
            }
            answer.step(Heard::Usage { input: 3, output: 4 }).unwrap();
            answer.step(complete("ignored when pieces came")).unwrap();
            prop_assume!(!built.is_empty());
            match answer.step(Heard::End).unwrap() {
                Said::Done(whole) => {
                    prop_assert_eq!(whole.text, built);
                    prop_assert_eq!((whole.input_tokens, whole.output_tokens), (3, 4));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
