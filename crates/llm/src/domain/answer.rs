//! Assembles an answer from the pieces that a provider sends.

use super::request::ToolCall;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    Stop,
    Length,
    ToolUses,
    Filter,
}

/// What a provider says while it answers. Usage is cumulative: a later figure replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// What a model thinks before it answers; no part of the answer.
    Thinking(String),
    /// The first piece of a call brings its name; later ones with the same id go on with its arguments.
    Tool {
        id: String,
        name: String,
        arguments: String,
    },
    Usage {
        input: Option<u64>,
        output: Option<u64>,
    },
    Finish(Finish),
    /// Bytes came that say nothing: a comment, a ping, the middle of an event.
    Alive,
}

/// An answer that grows beyond this many bytes, thinking included, is a fault of its provider.
pub const LONGEST: usize = 64 << 20;
/// So is one with more calls.
pub const MOST_CALLS: usize = 1024;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
}

impl Tokens {
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub content: String,
    pub tool_calls: Vec<ToolCall>,
    /// Bytes of thinking; the text itself is passed on and not kept.
    thinking: usize,
    input: Option<u64>,
    output: Option<u64>,
    finish: Option<Finish>,
}

impl Answer {
    pub fn add(&mut self, piece: &Piece) {
        match piece {
            Piece::Text(text) => self.content.push_str(text),
            Piece::Thinking(text) => self.thinking = self.thinking.saturating_add(text.len()),
            Piece::Alive => {}
            Piece::Tool { id, name, arguments } => match self.tool_calls.iter_mut().find(|call| call.id == *id) {
                Some(call) => call.arguments.push_str(arguments),
                None => self.tool_calls.push(ToolCall {
                    id: id.clone(),
                    name: name.clone(),
                    arguments: arguments.clone(),
                }),
            },
            Piece::Usage { input, output } => {
                self.input = input.or(self.input);
                self.output = output.or(self.output);
            }
            Piece::Finish(finish) => self.finish = Some(*finish),
        }
    }

    /// Some of it has gone to the caller, so it cannot start over.
    pub fn has_begun(&self) -> bool {
        !self.content.is_empty() || !self.tool_calls.is_empty()
    }

    pub fn is_too_long(&self) -> bool {
        self.bytes() > LONGEST || self.tool_calls.len() > MOST_CALLS
    }

    fn bytes(&self) -> usize {
        let arguments: usize = self.tool_calls.iter().map(|call| call.arguments.len()).sum();
        self.content.len() + self.thinking + arguments
    }

    pub fn finish(&self) -> Finish {
        match self.finish {
            // Some endpoints say "stop" after asking for tools.
            Some(Finish::Stop) | None if !self.tool_calls.is_empty() => Finish::ToolUses,
            Some(finish) => finish,
            None => Finish::Stop,
        }
    }

    /// What was used: as the provider said, or a guess of four bytes a token where it said nothing (an answer that was
    /// cancelled, an endpoint that does not count).
    pub fn tokens(&self, asked_bytes: usize) -> Tokens {
        let said = self.bytes();
        let guess = |bytes: usize| (bytes as u64).div_ceil(4);
        // While an answer grows, the count so far may lag behind what was already sent.
        let output = match self.finish {
            Some(_) => self.output.unwrap_or_else(|| guess(said)),
            None => self.output.unwrap_or(0).max(guess(said)),
        };
        Tokens {
            input: self.input.unwrap_or_else(|| guess(asked_bytes)),
            output,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(id: &str, arguments: &str) -> Piece {
        Piece::Tool {
            id: id.into(),
            name: "delegate".into(),
            arguments: arguments.into(),
        }
    }

    #[test]
    fn split_arguments_come_together_by_call() {
        let mut answer = Answer::default();
        for piece in [
            tool("a", ""),
            tool("b", "{\"x\""),
            tool("a", "{}"),
            tool("b", ":1}"),
            Piece::Finish(Finish::Stop),
        ] {
            answer.add(&piece);
        }
        let arguments: Vec<_> = answer.tool_calls.iter().map(|call| call.arguments.as_str()).collect();
        assert_eq!(arguments, ["{}", "{\"x\":1}"]);
        assert_eq!(answer.finish(), Finish::ToolUses);
    }

    #[test]
    fn usage_is_what_the_provider_says_or_a_guess() {
        let mut answer = Answer::default();
        answer.add(&Piece::Text("12345678".into()));
        assert_eq!(answer.tokens(40), Tokens { input: 10, output: 2 });
        answer.add(&Piece::Usage {
            input: Some(3),
            output: Some(1),
        });
        answer.add(&Piece::Usage {
            input: None,
            output: Some(7),
        });
        answer.add(&Piece::Finish(Finish::Length));
        assert_eq!(answer.tokens(40), Tokens { input: 3, output: 7 });
        assert_eq!(answer.finish(), Finish::Length);
    }
}
