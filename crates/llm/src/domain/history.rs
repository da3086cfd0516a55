//! A conversation made ready for one provider: what no provider takes is mended here, once for all of them.
//!
//! Every call has one result, right after the message that asked for it and in the order of its calls; a call without a
//! result gets one that says so, and a result without its call is left out. What is opaque goes only to the provider
//! and model that made it. Ids of calls are unique, and a provider's own ids only go back to itself. Arguments are a
//! JSON object. Nothing is empty. The same conversation always gives the same turns: providers cache their beginning.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    block::{Block, Part, ToolCall, ToolResult},
    request::{Message, Role},
};

/// Whom the turns are for.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    pub provider: &'a str,
    /// As the provider calls it.
    pub model: &'a str,
    /// The longest id of a call that it takes.
    pub longest_id: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    System(String),
    User(Vec<Part>),
    Assistant(Vec<Said>),
    /// Of all calls of the assistant's turn before it, in their order.
    Results(Vec<Answered>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Text(String),
    Call(Asked),
    /// In the words of its provider.
    Opaque(Vec<u8>),
}

/// A call as it can be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub id: String,
    pub name: String,
    /// An object.
    pub arguments: Value,
    /// The same as the model wrote it, where that is an object.
    pub text: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    pub id: String,
    pub name: String,
    /// Texts that are not blank, and images; empty where the tool said nothing.
    pub content: Vec<Part>,
    pub is_error: bool,
}

/// How ids begin that are ours: no provider gave them.
pub const OURS: &str = "nexus_call_";

/// What a model is told of a call whose result nobody has.
const INTERRUPTED: &str =
    "error interrupted: the call has no result. Its outcome is unknown: look before you repeat it.";

/// The longest name of a tool that every provider takes.
const LONGEST_NAME: usize = 63;

pub fn turns(messages: &[Message], to: Recipient<'_>) -> Vec<Turn> {
    let mut calls = Calls::of(messages, to);
    let mut turns = Vec::new();
    for (place, message) in messages.iter().enumerate() {
        match message.role {
            Role::System => {
                let text = message.joined_text();
                turns.extend((!text.trim().is_empty()).then_some(Turn::System(text)));
            }
            Role::User | Role::Tool => {
                let said: Vec<Part> = message.blocks.iter().filter_map(part).collect();
                turns.extend((!said.is_empty()).then_some(Turn::User(said)));
            }
            Role::Assistant => {
                let mut results = Vec::new();
                let said: Vec<Said> = message
                    .blocks
                    .iter()
                    .enumerate()
                    .filter_map(|(block, one)| said(one, to, || calls.take(place, block, &mut results)))
                    .collect();
                turns.extend((!said.is_empty()).then_some(Turn::Assistant(said)));
                turns.extend((!results.is_empty()).then_some(Turn::Results(results)));
            }
        }
    }
    turns
}

/// The place of the last turn in which a person speaks; what follows is the loop of calls and results that answers it.
pub fn last_user_turn(turns: &[Turn]) -> Option<usize> {
    turns.iter().rposition(|turn| matches!(turn, Turn::User(_)))
}

fn part(block: &Block) -> Option<Part> {
    match block {
        Block::Text(text) if !text.trim().is_empty() => Some(Part::Text(text.clone())),
        Block::Image(image) => Some(Part::Image(image.clone())),
        Block::Text(_) | Block::Call(_) | Block::Result(_) | Block::Opaque(_) => None,
    }
}

fn said(block: &Block, to: Recipient<'_>, call: impl FnOnce() -> Option<Asked>) -> Option<Said> {
    match block {
        Block::Text(text) if !text.trim().is_empty() => Some(Said::Text(text.clone())),
        Block::Opaque(opaque) if opaque.provider == to.provider && opaque.model == to.model => {
            Some(Said::Opaque(opaque.data.clone()))
        }
        Block::Call(_) => call().map(Said::Call),
        Block::Text(_) | Block::Image(_) | Block::Result(_) | Block::Opaque(_) => None,
    }
}

/// The calls of a conversation with their results, in order.
struct Calls<'a> {
    all: Vec<Call<'a>>,
    next: usize,
}

struct Call<'a> {
    message: usize,
    block: usize,
    call: &'a ToolCall,
    id: String,
    result: Option<&'a ToolResult>,
}

impl<'a> Calls<'a> {
    fn of(messages: &'a [Message], to: Recipient<'_>) -> Self {
        let mut all: Vec<Call<'a>> = Vec::new();
        for (message, one) in messages.iter().enumerate() {
            for (block, one) in one.blocks.iter().enumerate() {
                match one {
                    Block::Call(call) if messages[message].role == Role::Assistant => all.push(Call {
                        message,
                        block,
                        call,
                        id: String::new(),
                        result: None,
                    }),
                    Block::Result(result) => answer(&mut all, result),
                    _ => {}
                }
            }
        }
        name(&mut all, messages, to);
        Self { all, next: 0 }
    }

    /// The call at this place; its result is put with the others of its message.
    fn take(&mut self, message: usize, block: usize, results: &mut Vec<Answered>) -> Option<Asked> {
        let call = self.all.get(self.next)?;
        debug_assert_eq!(
            (call.message, call.block),
            (message, block),
            "calls are taken in their order"
        );
        self.next += 1;
        let name = plain_name(&call.call.name);
        let content = match call.result {
            Some(result) => result.content.iter().filter(|part| !is_blank(part)).cloned().collect(),
            None => vec![Part::Text(INTERRUPTED.to_owned())],
        };
        results.push(Answered {
            id: call.id.clone(),
            name: name.clone(),
            content,
            is_error: call.result.is_none_or(|result| result.is_error),
        });
        let (arguments, text) = arguments(&call.call.arguments);
        Some(Asked {
            id: call.id.clone(),
            name,
            arguments,
            text,
        })
    }
}

/// A result belongs to the newest message with a call of its id that has none yet, and there to the first such call.
fn answer<'a>(calls: &mut [Call<'a>], result: &'a ToolResult) {
    let is_open = |call: &Call<'_>| call.result.is_none() && call.call.id == result.call_id;
    let Some(newest) = calls.iter().rev().find(|call| is_open(call)).map(|call| call.message) else {
        return;
    };
    if let Some(call) = calls.iter_mut().find(|call| call.message == newest && is_open(call)) {
        call.result = Some(result);
    }
}

/// Gives each call the id it is sent with. One of the recipient's own, or of unknown origin, stays unless it is taken.
fn name(calls: &mut [Call<'_>], messages: &[Message], to: Recipient<'_>) {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (place, call) in calls.iter_mut().enumerate() {
        let given = call.call.id.as_str();
        let is_plain = !given.is_empty() && given.len() <= to.longest_id && given.bytes().all(is_plain);
        let is_foreign = origin(&messages[call.message]).is_some_and(|origin| origin != to.provider);
        let id = if is_plain && !is_foreign && !taken.contains(given) {
            given.to_owned()
        } else {
            let mut ours = (place + 1..).map(|number| format!("{OURS}{number}"));
            ours.find(|id| !taken.contains(id)).expect("numbers have no end")
        };
        taken.insert(id.clone());
        call.id = id;
    }
}

/// Who wrote a message: as its caller says, else as its opaque parts do.
fn origin(message: &Message) -> Option<&str> {
    let opaque = || {
        message.blocks.iter().find_map(|block| match block {
            Block::Opaque(opaque) => Some(opaque.provider.as_str()),
            _ => None,
        })
    };
    message.origin.as_deref().or_else(opaque)
}

/// What the model wrote goes back to it unrepaired; what is no object goes within one.
fn arguments(text: &str) -> (Value, String) {
    if text.trim().is_empty() {
        return (json!({}), "{}".to_owned());
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() => (value, text.to_owned()),
        _ => {
            let value = json!({"malformed_arguments": text});
            let text = value.to_string();
            (value, text)
        }
    }
}

/// A model may ask for a tool whose name no provider would take back.
fn plain_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii() && is_plain(c as u8) { c } else { '_' };
    let name: String = name.chars().take(LONGEST_NAME).map(plain).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn is_blank(part: &Part) -> bool {
    matches!(part, Part::Text(text) if text.trim().is_empty())
}

#[cfg(test)]
mod tests;
