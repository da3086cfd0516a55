use serde_json::{Value, json};

use super::{End, Speaker, Usage, data};
use crate::seal;

pub struct Gemini {
    model: String,
    /// The signature for the next part.
    signature: Option<String>,
    malformed: bool,
}

impl Gemini {
    pub fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            signature: None,
            malformed: false,
        }
    }

    fn chunk(&self, parts: &Value) -> String {
        let content = json!({"role": "model", "parts": parts});
        data(&json!({"candidates": [{"index": 0, "content": content}], "modelVersion": self.model, "responseId": "r1"}))
    }

    fn part(&mut self, mut part: Value) -> String {
        if let Some(signature) = self.signature.take() {
            part["thoughtSignature"] = signature.into();
        }
        self.chunk(&json!([part]))
    }
}

impl Speaker for Gemini {
    fn begin(&mut self, _: Usage) -> String {
        String::new()
    }

    fn text(&mut self, text: &str) -> String {
        self.part(json!({"text": text}))
    }

    fn think(&mut self, text: &str) -> String {
        self.signature = Some(seal::of(&self.model, text));
        self.chunk(&json!([{"text": text, "thought": true}]))
    }

    /// Arguments that are no object never leave this provider: it ends its answer instead.
    fn call(&mut self, _: u64, name: &str, arguments: &str) -> String {
        match serde_json::from_str::<Value>(arguments) {
            Ok(arguments) if arguments.is_object() => {
                self.part(json!({"functionCall": {"name": name, "args": arguments}}))
            }
            _ => {
                self.malformed = true;
                String::new()
            }
        }
    }

    fn end(&mut self, end: End, usage: Usage) -> String {
        let reason = match end {
            _ if self.malformed => "MALFORMED_FUNCTION_CALL",
            End::Stop | End::Calls => "STOP",
            End::Length => "MAX_TOKENS",
            End::Filter => "SAFETY",
        };
        let total = usage.input + usage.output;
        let counted = json!({
            "promptTokenCount": usage.input, "candidatesTokenCount": usage.output, "totalTokenCount": total,
        });
        data(&json!({
            "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": reason}],
            "usageMetadata": counted, "modelVersion": self.model, "responseId": "r1",
        }))
    }
}
