use serde_json::{Value, json};

use super::{End, Speaker, Usage, halves, named};
use crate::seal;

pub struct Responses {
    model: String,
    /// All items, as the last event repeats them.
    items: Vec<Value>,
    /// The message that goes on, as an item that is not among them yet.
    text: Option<String>,
    number: u64,
}

impl Responses {
    pub fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            items: Vec::new(),
            text: None,
            number: 0,
        }
    }

    fn event(&mut self, mut value: Value) -> String {
        value["sequence_number"] = self.number.into();
        self.number += 1;
        named(value["type"].as_str().unwrap_or_default(), &value)
    }

    fn added(&mut self, item: &Value) -> String {
        let index = self.items.len();
        self.event(json!({"type": "response.output_item.added", "output_index": index, "item": item}))
    }

    fn done(&mut self, item: Value) -> String {
        let index = self.items.len();
        self.items.push(item.clone());
        self.event(json!({"type": "response.output_item.done", "output_index": index, "item": item}))
    }

    fn close(&mut self) -> String {
        let Some(text) = self.text.take() else {
            return String::new();
        };
        let index = self.items.len();
        let id = format!("msg_{index}");
        let end = self.event(json!({
            "type": "response.output_text.done", "item_id": id, "output_index": index, "content_index": 0, "text": text,
        }));
        let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
        end + &self
            .done(json!({"type": "message", "id": id, "role": "assistant", "status": "completed", "content": content}))
    }

    fn whole(&self, status: &str, usage: Value, why: Value) -> Value {
        json!({
            "id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": self.model,
            "output": self.items, "error": null, "incomplete_details": why, "usage": usage,
        })
    }
}

impl Speaker for Responses {
    fn begin(&mut self, _: Usage) -> String {
        let whole = self.whole("in_progress", Value::Null, Value::Null);
        self.event(json!({"type": "response.created", "response": whole}))
    }

    fn text(&mut self, text: &str) -> String {
        let mut out = String::new();
        let index = self.items.len();
        if self.text.is_none() {
            let id = format!("msg_{index}");
            out = self.added(
                &json!({"type": "message", "id": id, "role": "assistant", "status": "in_progress", "content": []}),
            );
        }
        self.text.get_or_insert_default().push_str(text);
        out + &self.event(json!({
            "type": "response.output_text.delta", "item_id": format!("msg_{index}"), "output_index": index,
            "content_index": 0, "delta": text,
        }))
    }

    fn think(&mut self, text: &str) -> String {
        let mut out = self.close();
        let index = self.items.len();
        let id = format!("rs_{index}");
        out += &self.added(&json!({"type": "reasoning", "id": id, "summary": []}));
        out += &self.event(json!({
            "type": "response.reasoning_summary_text.delta", "item_id": id, "output_index": index, "summary_index": 0,
            "delta": text,
        }));
        let sealed = seal::of(&self.model, text);
        let summary = json!([{"type": "summary_text", "text": text}]);
        out + &self.done(json!({"type": "reasoning", "id": id, "summary": summary, "encrypted_content": sealed}))
    }

    fn call(&mut self, id: u64, name: &str, arguments: &str) -> String {
        let mut out = self.close();
        let index = self.items.len();
        let item = |arguments: &str, status: &str| {
            json!({
                "type": "function_call", "id": format!("fc_{index}"), "call_id": format!("call_{id:024}"), "name": name,
                "arguments": arguments, "status": status,
            })
        };
        out += &self.added(&item("", "in_progress"));
        for piece in halves(arguments) {
            out += &self.event(json!({
                "type": "response.function_call_arguments.delta", "item_id": format!("fc_{index}"), "output_index": index,
                "delta": piece,
            }));
        }
        out += &self.event(json!({
            "type": "response.function_call_arguments.done", "item_id": format!("fc_{index}"), "output_index": index,
            "arguments": arguments,
        }));
        out + &self.done(item(arguments, "completed"))
    }

    fn end(&mut self, end: End, usage: Usage) -> String {
        let out = self.close();
        let counted = json!({
            "input_tokens": usage.input, "output_tokens": usage.output, "total_tokens": usage.input + usage.output,
        });
        let (status, why) = match end {
            End::Stop | End::Calls => ("completed", Value::Null),
            End::Length => ("incomplete", json!({"reason": "max_output_tokens"})),
            End::Filter => ("incomplete", json!({"reason": "content_filter"})),
        };
        let whole = self.whole(status, counted, why);
        out + &self.event(json!({"type": format!("response.{status}"), "response": whole}))
    }
}
