//! Parses answers of OpenAI's chat API, and of servers that claim to be compatible.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::calls::Calls;
use crate::{
    domain::{
        answer::{Finish, Piece},
        failure::Failure,
    },
    provider::{
        http::ProviderError,
        reply::{self, Dialect},
        sse::Event,
    },
};

#[derive(Default)]
pub struct Chunks {
    calls: Calls,
    /// What was thought since the last text or call, under the names that the server has for it.
    thought: Map<String, Value>,
    refused: bool,
    finished: bool,
    done: bool,
}

impl Dialect for Chunks {
    fn read(&mut self, event: &Event, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if event.data.trim() == "[DONE]" {
            // A few endpoints end so without having given a reason.
            if !self.finished {
                self.finish(Finish::Stop, out);
            }
            self.done = true;
            return Ok(());
        }
        match reply::json(event)? {
            Some(chunk) => self.chunk(&chunk, out),
            None => Ok(()),
        }
    }

    fn whole(&mut self, document: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if !document["choices"].is_array() {
            return Err(reply::no_answer(document));
        }
        self.chunk(document, out)?;
        if !self.finished {
            self.finish(Finish::Stop, out);
        }
        self.done = true;
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.finished
    }

    fn is_done(&self) -> bool {
        self.done
    }

    /// Some endpoints forget `[DONE]`; a finish reason says as much.
    fn at_end(&mut self, _: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if self.finished { Ok(()) } else { Err(reply::cut()) }
    }
}

impl Chunks {
    fn chunk(&mut self, chunk: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        // Sent with no choices by most, with the last one by some.
        if let Some(usage) = chunk["usage"].as_object() {
            let count = |field: &str| usage.get(field).and_then(Value::as_u64);
            out.push_back(Piece::Usage {
                input: count("prompt_tokens"),
                output: count("completion_tokens"),
            });
            out.extend(reply::read_from_cache(
                &chunk["usage"]["prompt_tokens_details"]["cached_tokens"],
            ));
        }
        let choice = &chunk["choices"][0];
        // A whole answer has a message where a stream has deltas.
        let delta = if choice["delta"].is_object() {
            &choice["delta"]
        } else {
            &choice["message"]
        };
        for detail in delta["reasoning_details"].as_array().into_iter().flatten() {
            self.detail(detail);
        }
        for field in ["reasoning_content", "reasoning", "thinking"] {
            if let Some(text) = delta[field].as_str().filter(|text| !text.is_empty()) {
                out.push_back(Piece::Thinking(text.to_owned()));
                self.thinks(field, text);
                // Some give the same words under two names.
                break;
            }
        }
        let mut said = VecDeque::new();
        content(&delta["content"], &mut said);
        if said.iter().any(|piece| matches!(piece, Piece::Text(_))) {
            self.end_thought(out);
        }
        out.append(&mut said);
        if let Some(text) = delta["refusal"].as_str().filter(|text| !text.is_empty()) {
            self.refused = true;
            out.push_back(Piece::Text(text.to_owned()));
        }
        for (place, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
            self.end_thought(out);
            out.push_back(self.calls.take(place, call));
        }
        if let Some(told) = ProviderError::within(choice) {
            return Err(told.failure());
        }
        if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            let finish = finish(reason).ok_or_else(|| reply::unknown_end(reason))?;
            self.finish(finish, out);
        }
        Ok(())
    }

    fn thinks(&mut self, field: &str, more: &str) {
        match self.thought.get_mut(field) {
            Some(Value::String(text)) => text.push_str(more),
            _ => _ = self.thought.insert(field.to_owned(), more.into()),
        }
    }

    /// A router's list of what the model behind it thought. Neighbours of one kind and index are one entry in pieces.
    fn detail(&mut self, detail: &Value) {
        let list = self
            .thought
            .entry("reasoning_details")
            .or_insert_with(|| Value::Array(Vec::new()));
        let Some(list) = list.as_array_mut() else { return };
        let same = |one: &&mut Value| one["type"] == detail["type"] && one["index"] == detail["index"];
        let Some(before) = list.last_mut().filter(same) else {
            return list.push(detail.clone());
        };
        for (field, more) in detail.as_object().into_iter().flatten() {
            match (&mut before[field], more) {
                (_, Value::Null) => {}
                (Value::String(text), Value::String(more)) if matches!(field.as_str(), "text" | "summary" | "data") => {
                    text.push_str(more);
                }
                (value, more) => *value = more.clone(),
            }
        }
    }

    /// It is passed back where it stood.
    fn end_thought(&mut self, out: &mut VecDeque<Piece>) {
        if !self.thought.is_empty() {
            let thought = Value::Object(std::mem::take(&mut self.thought));
            out.push_back(Piece::Opaque(thought.to_string().into_bytes()));
        }
    }

    fn finish(&mut self, finish: Finish, out: &mut VecDeque<Piece>) {
        self.finished = true;
        self.end_thought(out);
        out.extend(self.calls.finish());
        let refused = self.refused && finish == Finish::Stop && self.calls.is_empty();
        out.push_back(Piece::Finish(if refused { Finish::Filter } else { finish }));
    }
}

/// A text, or a list of parts; thinking may be a part that holds parts itself, one level deep.
fn content(content: &Value, out: &mut VecDeque<Piece>) {
    let mut say = |text: &str, thinks: bool| {
        if !text.is_empty() {
            let text = text.to_owned();
            out.push_back(if thinks {
                Piece::Thinking(text)
            } else {
                Piece::Text(text)
            });
        }
    };
    if let Some(text) = content.as_str() {
        return say(text, false);
    }
    for part in content.as_array().into_iter().flatten() {
        if let Some(text) = part.as_str() {
            say(text, false);
            continue;
        }
        let thinks = matches!(part["type"].as_str(), Some("thinking" | "reasoning"));
        for field in ["text", "thinking", "reasoning"] {
            if let Some(text) = part[field].as_str() {
                say(text, thinks);
            }
            for inner in part[field].as_array().into_iter().flatten() {
                say(inner["text"].as_str().unwrap_or_default(), thinks);
            }
        }
    }
}

/// The names that OpenAI has for its reasons, and those that others have for the same.
fn finish(reason: &str) -> Option<Finish> {
    match reason.to_ascii_lowercase().as_str() {
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" | "complete" | "completed" => Some(Finish::Stop),
        "length" | "max_tokens" | "model_length" | "max_output_tokens" => Some(Finish::Length),
        "tool_calls" | "tool_call" | "function_call" | "tool_use" => Some(Finish::ToolUses),
        "content_filter" | "refusal" | "safety" | "sensitive" | "recitation" => Some(Finish::Filter),
        _ => None,
    }
}
