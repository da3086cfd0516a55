//! What a provider signs or encrypts, to be passed back untouched: the model and what was sealed, so that a check needs
//! no memory.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Gemini's documented stand-in for a signature that no model has given.
pub const NO_SIGNATURE: &str = "skip_thought_signature_validator";

pub fn of(model: &str, content: &str) -> String {
    STANDARD.encode(format!("{model}\n{content}"))
}

/// What was sealed, if this model did it.
pub fn opened(model: &str, seal: &str) -> Option<String> {
    let text = String::from_utf8(STANDARD.decode(seal).ok()?).ok()?;
    let (by, content) = text.split_once('\n')?;
    (by == model).then(|| content.to_owned())
}

pub fn is_base64(text: &str) -> bool {
    !text.is_empty() && STANDARD.decode(text).is_ok()
}
