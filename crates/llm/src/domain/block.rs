//! The parts that a message is made of.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    Text(String),
    Image(Image),
    Call(ToolCall),
    Result(ToolResult),
    Opaque(Opaque),
}

impl Block {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Image(_) => "an image",
            Self::Call(_) => "a tool call",
            Self::Result(_) => "a tool result",
            Self::Opaque(_) => "an opaque block",
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Image(_) => Image::COUNTS_AS,
            Self::Call(call) => call.name.len() + call.arguments.len(),
            Self::Result(result) => result.content.iter().map(Part::bytes).sum(),
            Self::Opaque(opaque) => opaque.data.len(),
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    pub media_type: String,
    pub data: Vec<u8>,
}

impl Image {
    const MEDIA_TYPES: [&str; 4] = ["image/png", "image/jpeg", "image/webp", "image/gif"];
    /// Providers count an image by its size in pixels, up to about 1,600 tokens.
    const COUNTS_AS: usize = 4_800;

    pub fn wrong(&self) -> Option<String> {
        if !Self::MEDIA_TYPES.contains(&self.media_type.as_str()) {
            let known = Self::MEDIA_TYPES.join(", ");
            return Some(format!(
                "media type {:?} of an image is none of {known}",
                self.media_type
            ));
        }
        self.data.is_empty().then(|| "an image is empty".to_owned())
    }
}

/// Without its bytes: a log is no place for a picture.
impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}, {} bytes)", self.media_type, self.data.len())
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
pub struct ToolResult {
    pub call_id: String,
    pub name: String,
    pub content: Vec<Part>,
    pub is_error: bool,
}

/// What users say and tools give back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Image(Image),
}

impl Part {
    pub fn image(&self) -> Option<&Image> {
        match self {
            Self::Image(image) => Some(image),
            Self::Text(_) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Image(_) => Image::COUNTS_AS,
        }
    }
}

/// What only its provider and model understand, such as signed thinking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opaque {
    pub provider: String,
    /// As the provider calls it.
    pub model: String,
    pub data: Vec<u8>,
}
