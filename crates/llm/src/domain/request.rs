//! A checked request, as the domain's own type.

use std::time::Duration;

use serde_json::Value;

use super::error::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "system" | "developer" => Some(Self::System),
            "user" => Some(Self::User),
            "assistant" => Some(Self::Assistant),
            "tool" => Some(Self::Tool),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// As the model wrote it: JSON, if the model made no mistake.
    pub arguments: String,
}

impl ToolCall {
    /// The arguments are not JSON. No arguments at all are none, and no mistake.
    pub fn is_malformed(&self) -> bool {
        !self.arguments.trim().is_empty() && serde_json::from_str::<serde::de::IgnoredAny>(&self.arguments).is_err()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub role: Role,
    pub content: String,
    /// What an assistant's message asked tools for; from `extra["tool_calls"]`.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool's message answers; from `extra["tool_call_id"]`.
    pub tool_call_id: String,
}

impl Message {
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            tool_calls: Vec::new(),
            tool_call_id: String::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// A JSON schema of type object.
    pub schema: Value,
}

/// On the wire zero means unset, so a temperature of exactly 0 cannot be asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    pub max_tokens: Option<u32>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<u32>,
    pub stop: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: String,
    pub model: String,
    pub provider: String,
    pub fallbacks: Vec<String>,
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub parameters: Parameters,
    /// The whole time this request may take; `None` is the setting's.
    pub timeout: Option<Duration>,
}

impl Request {
    /// What is wrong with it whatever provider is asked. An empty id is the caller's to check: its text is fixed.
    pub fn check(&self) -> Result<(), Error> {
        let invalid = |what: String| Err(Error::Invalid(what));
        if self.id.len() > MAX_ID {
            return invalid(format!("request_id is longer than {MAX_ID} bytes"));
        }
        if self.messages.is_empty() {
            return invalid("messages are required".into());
        }
        if self.messages.iter().all(|message| message.role == Role::System) {
            return invalid("messages hold nothing to answer: add one with role user".into());
        }
        for (place, message) in self.messages.iter().enumerate() {
            if message.role == Role::Tool && message.tool_call_id.is_empty() {
                return invalid(format!("messages[{place}]: role tool needs extra[\"tool_call_id\"]"));
            }
        }
        if let Some(tool) = self.tools.iter().find(|tool| tool.name.is_empty()) {
            return invalid(format!("a tool has no name (its description: {:?})", tool.description));
        }
        let numbers = [
            ("temperature", self.parameters.temperature, 2.0),
            ("top_p", self.parameters.top_p, 1.0),
        ];
        for (name, value, most) in numbers {
            if value.is_some_and(|value| !(0.0..=most).contains(&value)) {
                return invalid(format!("parameters.{name} is not between 0 and {most}"));
            }
        }
        Ok(())
    }
}

const MAX_ID: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn request(messages: Vec<Message>) -> Request {
        Request {
            id: "r".into(),
            model: String::new(),
            provider: String::new(),
            fallbacks: Vec::new(),
            messages,
            tools: Vec::new(),
            parameters: Parameters::default(),
            timeout: None,
        }
    }

    #[test]
    fn wants_something_to_answer() {
        assert!(request(vec![Message::text(Role::User, "hi")]).check().is_ok());
        for messages in [
            vec![],
            vec![Message::text(Role::System, "be kind")],
            vec![Message::text(Role::Tool, "42")],
        ] {
            assert!(matches!(request(messages).check(), Err(Error::Invalid(_))));
        }
    }

    #[test]
    fn refuses_numbers_no_provider_takes() {
        let mut request = request(vec![Message::text(Role::User, "hi")]);
        request.parameters.temperature = Some(f64::NAN);
        assert!(request.check().is_err());
        request.parameters.temperature = Some(2.0);
        request.parameters.top_p = Some(1.5);
        assert!(request.check().is_err());
    }
}
