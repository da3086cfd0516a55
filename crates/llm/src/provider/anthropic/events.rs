//! Parses answers of the Messages API, streamed or whole.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use crate::{
    domain::{
        answer::{Cached, Finish, Piece},
        failure::Failure,
    },
    provider::{
        reply::{self, Dialect},
        sse::Event,
    },
};

#[derive(Default)]
pub struct Events {
    /// Open tool calls by block.
    tools: BTreeMap<u64, Tool>,
    /// Open blocks of thinking.
    thoughts: BTreeMap<u64, Thought>,
    /// Ids of all calls: each call has one of its own, whatever the server sends.
    ids: Vec<String>,
    input: u64,
    finished: bool,
    done: bool,
}

struct Tool {
    id: String,
    name: String,
    /// Sent with the block's start by servers that do not stream it.
    input: Value,
    begun: bool,
}

#[derive(Default)]
struct Thought {
    text: String,
    signature: String,
}

impl Dialect for Events {
    fn read(&mut self, event: &Event, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        let Some(data) = reply::json(event)? else { return Ok(()) };
        let block = data["index"].as_u64().unwrap_or_default();
        match data["type"].as_str().unwrap_or(&event.name) {
            "message_start" => {
                out.extend(self.usage(&data["message"]["usage"]));
                out.extend(cached(&data["message"]["usage"]));
            }
            "content_block_start" => self.block_starts(block, &data["content_block"], out),
            "content_block_delta" => self.delta(block, &data["delta"], out),
            "content_block_stop" => self.block_ends(block, out),
            "message_delta" => {
                out.extend(self.usage(&data["usage"]));
                self.reason(&data["delta"]["stop_reason"], out)?;
            }
            "message_stop" => {
                self.end_blocks(out);
                self.done = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn whole(&mut self, document: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        let Some(blocks) = document["content"].as_array() else {
            return Err(reply::no_answer(document));
        };
        for (block, content) in (0..).zip(blocks) {
            self.block_starts(block, content, out);
            self.block_ends(block, out);
        }
        out.extend(self.usage(&document["usage"]));
        out.extend(cached(&document["usage"]));
        self.reason(&document["stop_reason"], out)?;
        self.done = true;
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.finished
    }

    fn is_done(&self) -> bool {
        self.done
    }

    /// Some servers forget `message_stop`; a stop reason says as much.
    fn at_end(&mut self, _: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if self.done || self.finished {
            Ok(())
        } else {
            Err(reply::cut())
        }
    }
}

impl Events {
    fn block_starts(&mut self, block: u64, content: &Value, out: &mut VecDeque<Piece>) {
        match content["type"].as_str() {
            Some("tool_use") => {
                // A server that gives no index starts the next block where one is open.
                self.block_ends(block, out);
                let id = self.own_id(content["id"].as_str().unwrap_or_default());
                let name = content["name"].as_str().unwrap_or_default().to_owned();
                out.push_back(Piece::Tool {
                    id: id.clone(),
                    name: name.clone(),
                    arguments: String::new(),
                });
                let input = content["input"].clone();
                let tool = Tool {
                    id,
                    name,
                    input,
                    begun: false,
                };
                self.tools.insert(block, tool);
            }
            Some("text") => out.extend(text(&content["text"]).map(Piece::Text)),
            Some("thinking") => {
                self.block_ends(block, out);
                let thought = Thought {
                    text: text(&content["thinking"]).unwrap_or_default(),
                    signature: text(&content["signature"]).unwrap_or_default(),
                };
                out.extend(text(&content["thinking"]).map(Piece::Thinking));
                self.thoughts.insert(block, thought);
            }
            Some("redacted_thinking") => {
                let block = json!({"type": "redacted_thinking", "data": content["data"]});
                out.push_back(Piece::Opaque(block.to_string().into_bytes()));
            }
            _ => {}
        }
    }

    fn delta(&mut self, block: u64, delta: &Value, out: &mut VecDeque<Piece>) {
        match (delta["type"].as_str(), self.tools.get_mut(&block)) {
            (Some("text_delta"), _) => out.extend(text(&delta["text"]).map(Piece::Text)),
            (Some("thinking_delta"), _) => {
                if let Some(text) = text(&delta["thinking"]) {
                    self.thoughts.entry(block).or_default().text.push_str(&text);
                    out.push_back(Piece::Thinking(text));
                }
            }
            (Some("signature_delta"), _) => {
                let signature = text(&delta["signature"]).unwrap_or_default();
                self.thoughts.entry(block).or_default().signature.push_str(&signature);
            }
            (Some("input_json_delta"), Some(tool)) => {
                let arguments = match &delta["partial_json"] {
                    Value::String(text) => text.clone(),
                    Value::Null => String::new(),
                    whole => whole.to_string(),
                };
                if !arguments.is_empty() {
                    tool.begun = true;
                    out.push_back(Piece::Tool {
                        id: tool.id.clone(),
                        name: tool.name.clone(),
                        arguments,
                    });
                }
            }
            _ => {}
        }
    }

    /// A call without arguments has an empty object of them. Thinking is passed back with its signature or not at all.
    fn block_ends(&mut self, block: u64, out: &mut VecDeque<Piece>) {
        if let Some(thought) = self.thoughts.remove(&block)
            && !thought.signature.is_empty()
        {
            let block = json!({"type": "thinking", "thinking": thought.text, "signature": thought.signature});
            out.push_back(Piece::Opaque(block.to_string().into_bytes()));
        }
        let Some(tool) = self.tools.remove(&block) else { return };
        if !tool.begun {
            let arguments = match tool.input {
                Value::Null => "{}".to_owned(),
                input => input.to_string(),
            };
            out.push_back(Piece::Tool {
                id: tool.id.clone(),
                name: tool.name,
                arguments,
            });
        }
        out.push_back(Piece::ToolEnd { id: tool.id });
    }

    fn end_blocks(&mut self, out: &mut VecDeque<Piece>) {
        let open = |events: &Self| events.thoughts.keys().chain(events.tools.keys()).next().copied();
        while let Some(block) = open(self) {
            self.block_ends(block, out);
        }
    }

    fn own_id(&mut self, given: &str) -> String {
        let mut id = given.to_owned();
        let mut number = self.ids.len();
        while id.is_empty() || self.ids.contains(&id) {
            id = match given {
                "" => format!("call_{number}"),
                given => format!("{given}_{number}"),
            };
            number += 1;
        }
        self.ids.push(id.clone());
        id
    }

    fn reason(&mut self, reason: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        let Some(reason) = reason.as_str().filter(|reason| !reason.is_empty()) else {
            return Ok(());
        };
        let finish = finish(reason).ok_or_else(|| reply::unknown_end(reason))?;
        self.end_blocks(out);
        self.finished = true;
        out.push_back(Piece::Finish(finish));
        Ok(())
    }

    /// What was read from or written to the provider's cache was sent as well.
    fn usage(&mut self, usage: &Value) -> Option<Piece> {
        let input: u64 = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"]
            .iter()
            .filter_map(|field| usage[*field].as_u64())
            .fold(0, u64::saturating_add);
        self.input = self.input.max(input);
        let output = usage["output_tokens"].as_u64();
        (input > 0 || output.is_some()).then_some(Piece::Usage {
            input: (self.input > 0).then_some(self.input),
            output,
        })
    }
}

fn cached(usage: &Value) -> Option<Piece> {
    let count = |field: &str| usage[field].as_u64().unwrap_or_default();
    let cached = Cached {
        read: count("cache_read_input_tokens"),
        written: count("cache_creation_input_tokens"),
    };
    (cached != Cached::default()).then_some(Piece::Cached(cached))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn finish(reason: &str) -> Option<Finish> {
    match reason.to_ascii_lowercase().as_str() {
        "end_turn" | "stop_sequence" | "pause_turn" | "stop" => Some(Finish::Stop),
        "max_tokens" | "model_context_window_exceeded" | "length" => Some(Finish::Length),
        "tool_use" => Some(Finish::ToolUses),
        "refusal" | "content_filter" => Some(Finish::Filter),
        _ => None,
    }
}
