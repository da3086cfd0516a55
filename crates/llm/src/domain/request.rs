//! A checked request, as the domain's own type.

use std::time::Duration;

use serde_json::Value;

use super::{block::Block, budget::Scope, error::Error};

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

    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub role: Role,
    pub blocks: Vec<Block>,
    /// The provider that wrote it, where the caller says so (`extra["provider"]`): its ids of calls are that
    /// provider's.
    pub origin: Option<String>,
}

impl Message {
    pub fn new(role: Role, blocks: Vec<Block>) -> Self {
        Self {
            role,
            blocks,
            origin: None,
        }
    }

    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self::new(role, vec![Block::Text(content.into())])
    }

    /// All of its text, without results of tools.
    pub fn joined_text(&self) -> String {
        let texts = self.blocks.iter().filter_map(|block| match block {
            Block::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// How much of a request it makes up, for an estimate of its tokens.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(Block::bytes).sum()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// A JSON schema of type object.
    pub schema: Value,
}

impl Tool {
    fn bytes(&self) -> usize {
        self.name.len() + self.description.len() + self.schema.to_string().len()
    }
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

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    #[default]
    Auto,
    None,
    /// Any tool, but one at least.
    Required,
    /// This one.
    Named(String),
}

impl ToolChoice {
    pub fn parse(text: &str) -> Self {
        match text {
            "" | "auto" => Self::Auto,
            "none" => Self::None,
            "required" => Self::Required,
            name => Self::Named(name.to_owned()),
        }
    }

    /// The model has to call a tool.
    pub fn is_forced(&self) -> bool {
        matches!(self, Self::Required | Self::Named(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    Low,
    Medium,
    High,
}

impl Effort {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "low" => Some(Self::Low),
            "medium" => Some(Self::Medium),
            "high" => Some(Self::High),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }

    /// For providers that want a number.
    fn tokens(self) -> u32 {
        match self {
            Self::Low => 2_048,
            Self::Medium => 8_192,
            Self::High => 24_576,
        }
    }
}

/// How much the model may think before it answers. One of the two is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thinking {
    Tokens(u32),
    Effort(Effort),
}

impl Thinking {
    pub fn tokens(self) -> u32 {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Effort(effort) => effort.tokens(),
        }
    }

    /// For providers that want a word.
    pub fn effort(self) -> Effort {
        match self {
            Self::Effort(effort) => effort,
            Self::Tokens(..=4_096) => Effort::Low,
            Self::Tokens(..=16_384) => Effort::Medium,
            Self::Tokens(_) => Effort::High,
        }
    }
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
    pub tool_choice: ToolChoice,
    /// Whether the model may ask for several calls at once; `None` is the provider's default.
    pub parallel_tool_calls: Option<bool>,
    pub thinking: Option<Thinking>,
    /// The conversation it belongs to: a key for the provider's cache, and what usage is counted by.
    pub session: String,
    /// Who asks.
    pub agent: String,
    /// Every budget that it counts against.
    pub scopes: Vec<Scope>,
    /// The whole time this request may take; `None` is the setting's.
    pub timeout: Option<Duration>,
}

impl Request {
    /// How much is sent, for an estimate of its tokens.
    pub fn bytes(&self) -> usize {
        let messages: usize = self.messages.iter().map(Message::bytes).sum();
        let tools: usize = self.tools.iter().map(Tool::bytes).sum();
        messages + tools
    }

    /// How many tokens the input has at most, as providers count: three bytes a token, and what they write around it.
    pub fn estimated_tokens(&self) -> u64 {
        const AROUND_ALL: usize = 300;
        const AROUND_ONE: usize = 80;
        let blocks: usize = self.messages.iter().map(|message| 1 + message.blocks.len()).sum();
        let bytes = self.bytes() + AROUND_ALL + AROUND_ONE * (blocks + self.tools.len());
        (bytes as u64).div_ceil(3)
    }

    /// A budget can only be kept if an answer has an end.
    pub fn bound_output(&mut self, longest: u32) {
        if !self.scopes.is_empty() {
            self.parameters.max_tokens.get_or_insert(longest);
        }
    }

    /// With nothing in it yet.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            model: String::new(),
            provider: String::new(),
            fallbacks: Vec::new(),
            messages: Vec::new(),
            tools: Vec::new(),
            parameters: Parameters::default(),
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: None,
            thinking: None,
            session: String::new(),
            agent: String::new(),
            scopes: Vec::new(),
            timeout: None,
        }
    }

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
            if let Some(wrong) = wrong_in(message) {
                return invalid(format!("messages[{place}]: {wrong}"));
            }
        }
        if let Some(tool) = self.tools.iter().find(|tool| tool.name.is_empty()) {
            return invalid(format!("a tool has no name (its description: {:?})", tool.description));
        }
        if let ToolChoice::Named(name) = &self.tool_choice
            && !self.tools.iter().any(|tool| tool.name == *name)
        {
            return invalid(format!("tool_choice: no tool is called {name:?}"));
        }
        if self.tool_choice == ToolChoice::Required && self.tools.is_empty() {
            return invalid("tool_choice: a tool is required, and there is none".into());
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

/// What a message of this role cannot hold.
fn wrong_in(message: &Message) -> Option<String> {
    for block in &message.blocks {
        let wrong = match (block, message.role) {
            (Block::Result(result), Role::Tool | Role::User) if result.call_id.is_empty() => {
                "role tool needs extra[\"tool_call_id\"], or a tool_result with its tool_call_id".to_owned()
            }
            (Block::Result(result), Role::Tool | Role::User) => {
                match result.content.iter().find_map(|part| part.image()?.wrong()) {
                    Some(wrong) => wrong,
                    None => continue,
                }
            }
            (Block::Text(_), _) | (Block::Call(_) | Block::Opaque(_), Role::Assistant) => continue,
            (Block::Image(image), Role::User | Role::Tool) => match image.wrong() {
                Some(wrong) => wrong,
                None => continue,
            },
            (block, role) => format!("role {} cannot hold {}", role.name(), block.name()),
        };
        return Some(wrong);
    }
    let is_result = |block: &Block| matches!(block, Block::Result(_));
    (message.role == Role::Tool && !message.blocks.iter().any(is_result))
        .then(|| "role tool needs extra[\"tool_call_id\"], or a tool_result with its tool_call_id".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(messages: Vec<Message>) -> Request {
        Request {
            messages,
            ..Request::new("r")
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
