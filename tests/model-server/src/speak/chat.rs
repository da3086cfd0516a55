use serde_json::{Value, json};

use super::{End, Speaker, Usage, data, halves};
use crate::seal;

pub struct Chat {
    model: String,
    calls: u64,
    thought: bool,
}

impl Chat {
    pub fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            calls: 0,
            thought: false,
        }
    }

    fn chunk(&self, delta: &Value, reason: Option<&str>) -> String {
        data(&json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}], "usage": null,
        }))
    }
}

impl Speaker for Chat {
    fn begin(&mut self, _: Usage) -> String {
        self.chunk(&json!({"role": "assistant", "content": "", "refusal": null}), None)
    }

    fn text(&mut self, text: &str) -> String {
        self.chunk(&json!({"content": text}), None)
    }

    /// The words are sealed ones, so that they can be told from others when they come back.
    fn think(&mut self, text: &str) -> String {
        let space = if self.thought { " " } else { "" };
        self.thought = true;
        let sealed = format!("{space}{}", seal::of(&self.model, text));
        self.chunk(&json!({"reasoning_content": sealed}), None)
    }

    fn call(&mut self, id: u64, name: &str, arguments: &str) -> String {
        let index = self.calls;
        self.calls += 1;
        let function = json!({"name": name, "arguments": ""});
        let first = json!({"index": index, "id": format!("call_{id:024}"), "type": "function", "function": function});
        let mut out = self.chunk(&json!({"tool_calls": [first]}), None);
        for piece in halves(arguments) {
            let more = json!({"index": index, "function": {"arguments": piece}});
            out += &self.chunk(&json!({"tool_calls": [more]}), None);
        }
        out
    }

    fn end(&mut self, end: End, usage: Usage) -> String {
        let reason = match end {
            End::Stop => "stop",
            End::Calls => "tool_calls",
            End::Length => "length",
            End::Filter => "content_filter",
        };
        let total = usage.input + usage.output;
        let counted = json!({"prompt_tokens": usage.input, "completion_tokens": usage.output, "total_tokens": total});
        let last = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.model, "choices": [],
            "usage": counted,
        });
        self.chunk(&json!({}), Some(reason)) + &data(&last) + "data: [DONE]\n\n"
    }
}
