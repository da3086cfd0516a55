//! Assembles an answer from the pieces that a provider sends.

use super::block::{Block, Opaque, ToolCall};

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
    /// The arguments of this call are whole.
    ToolEnd {
        id: String,
    },
    /// What has to be passed back to this provider and model untouched, at its place in the answer.
    Opaque(Vec<u8>),
    Usage {
        input: Option<u64>,
        output: Option<u64>,
    },
    /// How much of the input came from the provider's cache, or went into it.
    Cached(Cached),
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

/// How much of the input came from the provider's cache, or went into it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cached {
    pub read: u64,
    pub written: u64,
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
    /// What came after what.
    order: Vec<Place>,
    /// Which of the calls, by their place, are whole.
    ended: Vec<bool>,
    /// Bytes of thinking and of what is opaque; the thinking itself is passed on and not kept.
    thinking: usize,
    input: Option<u64>,
    output: Option<u64>,
    cached: Cached,
    finish: Option<Finish>,
}

#[derive(Debug, Clone)]
enum Place {
    /// A range of the content.
    Text {
        from: usize,
        to: usize,
    },
    Call(usize),
    Opaque(Vec<u8>),
}

impl Answer {
    pub fn add(&mut self, piece: &Piece) {
        match piece {
            Piece::Text(text) => self.add_text(text),
            Piece::Opaque(data) => {
                self.thinking = self.thinking.saturating_add(data.len());
                self.order.push(Place::Opaque(data.clone()));
            }
            Piece::Thinking(text) => self.thinking = self.thinking.saturating_add(text.len()),
            Piece::ToolEnd { .. } | Piece::Alive => {}
            Piece::Tool { id, name, arguments } => match self.place_of(id) {
                Some(call) => self.tool_calls[call].arguments.push_str(arguments),
                None => {
                    self.order.push(Place::Call(self.tool_calls.len()));
                    self.ended.push(false);
                    self.tool_calls.push(ToolCall {
                        id: id.clone(),
                        name: name.clone(),
                        arguments: arguments.clone(),
                    });
                }
            },
            Piece::Usage { input, output } => {
                self.input = input.or(self.input);
                self.output = output.or(self.output);
            }
            Piece::Cached(cached) => self.cached = *cached,
            Piece::Finish(finish) => self.finish = Some(*finish),
        }
    }

    fn add_text(&mut self, text: &str) {
        let from = self.content.len();
        self.content.push_str(text);
        match self.order.last_mut() {
            Some(Place::Text { to, .. }) => *to = self.content.len(),
            _ => self.order.push(Place::Text {
                from,
                to: self.content.len(),
            }),
        }
    }

    /// Which of the answer's calls it is, from 0.
    pub fn place_of(&self, id: &str) -> Option<usize> {
        // Nearly always the newest.
        self.tool_calls.iter().rposition(|call| call.id == id)
    }

    /// Notes that a call, by its place, is whole; false if that was known.
    pub fn end(&mut self, call: usize) -> bool {
        self.ended
            .get_mut(call)
            .is_some_and(|ended| !std::mem::replace(ended, true))
    }

    /// All of it in the order in which it came. `provider` and `model` are those that answered.
    pub fn blocks(&self, provider: &str, model: &str) -> Vec<Block> {
        let block = |place: &Place| match place {
            Place::Text { from, to } => Block::Text(self.content[*from..*to].to_owned()),
            Place::Call(call) => Block::Call(self.tool_calls[*call].clone()),
            Place::Opaque(data) => Block::Opaque(Opaque {
                provider: provider.to_owned(),
                model: model.to_owned(),
                data: data.clone(),
            }),
        };
        self.order.iter().map(block).collect()
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

    pub fn cached(&self) -> Cached {
        self.cached
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
    fn everything_stays_in_the_order_in_which_it_came() {
        let mut answer = Answer::default();
        for piece in [
            Piece::Opaque(b"sealed".to_vec()),
            Piece::Text("let me ".into()),
            tool("a", "{}"),
            Piece::Text("see".into()),
            Piece::Text("!".into()),
            tool("a", " "),
        ] {
            answer.add(&piece);
        }
        let call = ToolCall {
            id: "a".into(),
            name: "delegate".into(),
            arguments: "{} ".into(),
        };
        let opaque = Opaque {
            provider: "p".into(),
            model: "m".into(),
            data: b"sealed".to_vec(),
        };
        let want = [
            Block::Opaque(opaque),
            Block::Text("let me ".into()),
            Block::Call(call),
            Block::Text("see!".into()),
        ];
        assert_eq!(answer.blocks("p", "m"), want);
        assert_eq!([answer.end(0), answer.end(0), answer.end(1)], [true, false, false]);
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
