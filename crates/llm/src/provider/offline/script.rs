//! Answers of the offline model from a file, so that tools can be shown and tried without a key.
//!
//! ```toml
//! [[step]]
//! user = "count"          # the user's last message contains it
//! number = 1              # the first request for that message; each round of tool calls is one more
//! text = "I count the files. "
//! calls = [{ name = "exec", arguments = { command = "ls | wc -l" } }]
//!
//! [[step]]
//! last = "exit code 0"    # what came last, the user's words or results of tools, contains it
//! text = "Done."
//! ```
//!
//! The first step whose conditions are all met is said; without conditions a step is always met.

use std::{io::Read, path::Path};

use serde::Deserialize;

use crate::domain::{
    answer::{Finish, Piece},
    block::{Block, Part},
    failure::{Failure, Kind},
    request::{Message, Request, Role},
};

const LARGEST_FILE: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    #[serde(default, rename = "step")]
    steps: Vec<Step>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Step {
    user: String,
    last: String,
    number: Option<usize>,
    think: String,
    text: String,
    calls: Vec<Call>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    name: String,
    /// A text is taken as it is: it may be no JSON.
    #[serde(default)]
    arguments: Option<toml::Value>,
}

/// Where a conversation stands.
struct Situation {
    user: String,
    last: String,
    number: usize,
}

impl Script {
    /// Waits for the disk.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::new(Kind::Invalid, format!("script {} {what}", path.display()));
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(LARGEST_FILE + 1).read_to_string(&mut text))
            .map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if text.len() as u64 > LARGEST_FILE {
            return Err(wrong(format!("is larger than {LARGEST_FILE} bytes")));
        }
        toml::from_str(&text).map_err(|error| wrong(format!("is wrong: {}", error.to_string().trim_end())))
    }

    pub fn answer(&self, request: &Request) -> Result<Vec<Piece>, Failure> {
        let now = Situation::of(&request.messages);
        let step = self.steps.iter().find(|step| step.is_met(&now)).ok_or_else(|| {
            let last: String = now.last.chars().take(80).collect();
            let text = format!(
                "the script has no step for request {} of this message, after {last:?}",
                now.number
            );
            Failure::new(Kind::Invalid, text)
        })?;
        let mut pieces = Vec::new();
        if !step.think.is_empty() {
            pieces.push(Piece::Thinking(step.think.clone()));
        }
        pieces.extend(
            step.text
                .split_inclusive([' ', '\n'])
                .map(|word| Piece::Text(word.to_owned())),
        );
        for (place, call) in step.calls.iter().enumerate() {
            let id = format!("offline_{}_{}", said(&request.messages), place + 1);
            pieces.push(Piece::Tool {
                id: id.clone(),
                name: call.name.clone(),
                arguments: call.arguments(),
            });
            pieces.push(Piece::ToolEnd { id });
        }
        let words = step.text.split_whitespace().count() + step.calls.len();
        pieces.push(Piece::Usage {
            input: Some(request.bytes() as u64 / 4),
            output: Some(words as u64),
        });
        pieces.push(Piece::Finish(if step.calls.is_empty() {
            Finish::Stop
        } else {
            Finish::ToolUses
        }));
        Ok(pieces)
    }
}

impl Step {
    fn is_met(&self, now: &Situation) -> bool {
        let number = self.number.is_none_or(|number| number == now.number);
        number && now.user.contains(&self.user) && now.last.contains(&self.last)
    }
}

impl Call {
    fn arguments(&self) -> String {
        match &self.arguments {
            None => "{}".to_owned(),
            Some(toml::Value::String(text)) => text.clone(),
            Some(value) => serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned()),
        }
    }
}

impl Situation {
    fn of(messages: &[Message]) -> Self {
        let asked = messages
            .iter()
            .rposition(|message| message.role == Role::User && !message.joined_text().trim().is_empty());
        let since = asked.map_or(messages, |place| &messages[place + 1..]);
        Self {
            user: asked.map(|place| messages[place].joined_text()).unwrap_or_default(),
            last: messages
                .iter()
                .rev()
                .map(read_by_model)
                .find(|text| !text.is_empty())
                .unwrap_or_default(),
            number: 1 + said(since),
        }
    }
}

fn said(messages: &[Message]) -> usize {
    messages
        .iter()
        .filter(|message| message.role == Role::Assistant)
        .count()
}

/// What others than the model said in a message.
fn read_by_model(message: &Message) -> String {
    let mut texts = Vec::new();
    for block in &message.blocks {
        match (block, message.role) {
            (Block::Text(text), Role::User | Role::Tool) => texts.push(text.as_str()),
            (Block::Result(result), _) => texts.extend(result.content.iter().filter_map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                Part::Image(_) => None,
            })),
            _ => {}
        }
    }
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::block::{ToolCall, ToolResult};

    const TEXT: &str = r#"
        [[step]]
        last = "exit code 0"
        text = "Done."

        [[step]]
        user = "count"
        number = 1
        text = "I count."
        calls = [{ name = "exec", arguments = { command = "ls" } }, { name = "look" }, { name = "bad", arguments = "{" }]
    "#;

    fn messages(result: Option<&str>) -> Vec<Message> {
        let mut messages = vec![Message::text(Role::User, "count the files")];
        if let Some(text) = result {
            let call = ToolCall {
                id: "a".into(),
                name: "exec".into(),
                arguments: "{}".into(),
            };
            let result = ToolResult {
                call_id: "a".into(),
                name: "exec".into(),
                content: vec![Part::Text(text.into())],
                is_error: false,
            };
            messages.push(Message::new(Role::Assistant, vec![Block::Call(call)]));
            messages.push(Message::new(Role::Tool, vec![Block::Result(result)]));
        }
        messages
    }

    fn answer(messages: Vec<Message>) -> Result<Vec<Piece>, Failure> {
        let script: Script = toml::from_str(TEXT).expect("valid");
        script.answer(&Request {
            messages,
            ..Request::new("r")
        })
    }

    #[test]
    fn a_step_is_found_by_its_number_and_by_what_came_last() {
        let first = answer(messages(None)).expect("a step");
        let arguments: Vec<_> = first
            .iter()
            .filter_map(|piece| match piece {
                Piece::Tool { arguments, .. } => Some(arguments.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(arguments, ["{\"command\":\"ls\"}", "{}", "{"]);
        assert_eq!(first.last(), Some(&Piece::Finish(Finish::ToolUses)));
        let second = answer(messages(Some("3\nexit code 0"))).expect("a step");
        assert_eq!(second.first(), Some(&Piece::Text("Done.".into())));
        assert_eq!(second.last(), Some(&Piece::Finish(Finish::Stop)));
        let failure = answer(messages(Some("exit code 2"))).expect_err("no step");
        assert!(
            failure
                .message
                .contains("request 2 of this message, after \"exit code 2\""),
            "{failure}"
        );
    }

    #[test]
    fn a_file_that_is_wrong_is_named_with_its_line() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("script.toml");
        assert!(
            Script::read(&path)
                .expect_err("none")
                .message
                .contains("cannot be read")
        );
        std::fs::write(&path, "[[step]]\ntxt = \"x\"\n").expect("write");
        let told = Script::read(&path).expect_err("wrong").message;
        assert!(
            told.contains("script.toml is wrong") && told.contains("line 2"),
            "{told}"
        );
    }
}
