//! What a model says, turn by turn.
//!
//! ```json
//! {"coder": {"turns": [
//!   {"acts": [{"text": "Let me see. "}, {"call": {"name": "exec", "arguments": {"command": "make"}}}]},
//!   {"when": "exit code 2", "acts": [{"fail": {"status": 429, "retry_after": 1}}]},
//!   {"acts": [{"words": {"text": "Done. ", "count": 3, "pause_ms": 5}}]}
//! ]}}
//! ```

use serde::Deserialize;
use serde_json::Value;

/// The turns of one model. A request that is accepted takes the first turn that is left and whose `when` it meets.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    pub turns: Vec<Turn>,
    /// The last turn is said for ever.
    pub endless: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Turn {
    /// A text that the last message has to contain.
    pub when: String,
    pub acts: Vec<Act>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// One delta.
    Text(String),
    /// As many deltas.
    Words {
        text: String,
        count: usize,
        #[serde(default)]
        pause_ms: u64,
    },
    Think(String),
    /// Milliseconds of silence.
    Pause(u64),
    Call {
        name: String,
        /// A text is sent as it is: it may be no JSON.
        #[serde(default)]
        arguments: Value,
    },
    /// An error instead of an answer.
    Fail {
        status: u16,
        /// Seconds.
        #[serde(default)]
        retry_after: Option<u64>,
        #[serde(default)]
        message: String,
    },
    /// An error event, after which nothing comes.
    Error(String),
    /// The connection ends.
    Cut,
    /// The answer ends for its limit of tokens.
    Length,
    /// The answer ends for a content filter.
    Filter,
}

impl Script {
    /// One answer of text, again and again.
    pub fn says(text: &str) -> Self {
        Self::of([Turn::default().text(text)]).endless()
    }

    pub fn of(turns: impl IntoIterator<Item = Turn>) -> Self {
        Self {
            turns: turns.into_iter().collect(),
            endless: false,
        }
    }

    pub fn endless(mut self) -> Self {
        self.endless = true;
        self
    }

    /// The turn for a request whose last message is `last`.
    pub(crate) fn take(&mut self, last: &str) -> Option<Turn> {
        let place = self.turns.iter().position(|turn| last.contains(&turn.when))?;
        if self.endless && self.turns.len() == 1 {
            return Some(self.turns[place].clone());
        }
        Some(self.turns.remove(place))
    }
}

impl Turn {
    pub fn when(mut self, text: &str) -> Self {
        text.clone_into(&mut self.when);
        self
    }

    pub fn act(mut self, act: Act) -> Self {
        self.acts.push(act);
        self
    }

    pub fn text(self, text: &str) -> Self {
        self.act(Act::Text(text.to_owned()))
    }

    pub fn think(self, text: &str) -> Self {
        self.act(Act::Think(text.to_owned()))
    }

    pub fn call(self, name: &str, arguments: Value) -> Self {
        self.act(Act::Call {
            name: name.to_owned(),
            arguments,
        })
    }

    pub fn fail(self, status: u16, retry_after: Option<u64>) -> Self {
        self.act(Act::Fail {
            status,
            retry_after,
            message: String::new(),
        })
    }
}
