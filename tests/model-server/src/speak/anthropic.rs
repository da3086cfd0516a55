use serde_json::{Value, json};

use super::{End, Speaker, Usage, halves, named};
use crate::seal;

pub struct Anthropic {
    model: String,
    next: u64,
    /// The block of text that goes on.
    open: Option<u64>,
}

impl Anthropic {
    pub fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            next: 0,
            open: None,
        }
    }

    fn start(&mut self, block: &Value) -> (u64, String) {
        let mut out = self.stop();
        let index = self.next;
        self.next += 1;
        out += &event(&json!({"type": "content_block_start", "index": index, "content_block": block}));
        (index, out)
    }

    fn stop(&mut self) -> String {
        match self.open.take() {
            Some(index) => stop(index),
            None => String::new(),
        }
    }
}

fn event(value: &Value) -> String {
    named(value["type"].as_str().unwrap_or_default(), value)
}

fn delta(index: u64, delta: &Value) -> String {
    event(&json!({"type": "content_block_delta", "index": index, "delta": delta}))
}

fn stop(index: u64) -> String {
    event(&json!({"type": "content_block_stop", "index": index}))
}

impl Speaker for Anthropic {
    fn begin(&mut self, usage: Usage) -> String {
        let message = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null,
            "usage": {"input_tokens": usage.input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1},
        });
        event(&json!({"type": "message_start", "message": message})) + &event(&json!({"type": "ping"}))
    }

    fn text(&mut self, text: &str) -> String {
        let mut out = String::new();
        let index = match self.open {
            Some(index) => index,
            None => {
                let (index, start) = self.start(&json!({"type": "text", "text": ""}));
                self.open = Some(index);
                out = start;
                index
            }
        };
        out + &delta(index, &json!({"type": "text_delta", "text": text}))
    }

    fn think(&mut self, text: &str) -> String {
        let (index, start) = self.start(&json!({"type": "thinking", "thinking": "", "signature": ""}));
        let signature = seal::of(&self.model, text);
        start
            + &delta(index, &json!({"type": "thinking_delta", "thinking": text}))
            + &delta(index, &json!({"type": "signature_delta", "signature": signature}))
            + &stop(index)
    }

    fn call(&mut self, id: u64, name: &str, arguments: &str) -> String {
        let block = json!({"type": "tool_use", "id": format!("toolu_{id:024}"), "name": name, "input": {}});
        let (index, mut out) = self.start(&block);
        for piece in halves(arguments) {
            out += &delta(index, &json!({"type": "input_json_delta", "partial_json": piece}));
        }
        out + &stop(index)
    }

    fn end(&mut self, end: End, usage: Usage) -> String {
        let reason = match end {
            End::Stop => "end_turn",
            End::Calls => "tool_use",
            End::Length => "max_tokens",
            End::Filter => "refusal",
        };
        let message = json!({
            "type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null},
            "usage": {"output_tokens": usage.output},
        });
        self.stop() + &event(&message) + &event(&json!({"type": "message_stop"}))
    }
}
