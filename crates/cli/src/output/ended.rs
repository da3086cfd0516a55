//! Says below an answer how it ended, where that is not the usual way.

use nexus_proto::{
    orchestrator::v1::{Message, MessageRole},
    words::extra,
};

use super::clean;

/// Another end than the usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Stopped,
    /// It failed in the middle, with this error.
    Incomplete(String),
    /// It is whole as far as it goes: by what it was cut short, and what helps.
    CutShort(String),
}

/// `None` for an answer that ended as it should, and for whatever is no answer.
pub fn ended(message: &Message) -> Option<Ended> {
    if message.role() != MessageRole::Assistant {
        return None;
    }
    let marks = &message.metadata.as_ref()?.extra;
    let text = |name: &str| marks.get(name).map(String::as_str).filter(|text| !text.is_empty());
    if text(extra::CANCELLED) == Some("true") {
        return Some(Ended::Stopped);
    }
    if text(extra::INCOMPLETE) == Some("true") {
        return Some(Ended::Incomplete(
            text(extra::ERROR).unwrap_or("it broke off").to_owned(),
        ));
    }
    // Assistants that do not say it in words give the reason alone.
    let by_reason = || match text(extra::FINISH_REASON)? {
        "length" => Some("the answer reached its limit of tokens; raise agent.answer_tokens"),
        "filter" => Some("the provider's content filter ended the answer, or the model refused it"),
        _ => None,
    };
    let why = text(extra::CUT_SHORT).or_else(by_reason)?;
    Some(Ended::CutShort(why.to_owned()))
}

impl Ended {
    /// A line for people; whatever others wrote in it is made harmless.
    pub fn line(&self) -> String {
        match self {
            Ended::Stopped => "(stopped)".to_owned(),
            Ended::Incomplete(error) => format!("(incomplete: {})", clean(error)),
            Ended::CutShort(why) => format!("(cut short: {})", clean(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use nexus_proto::orchestrator::v1::MessageMetadata;

    use super::*;

    fn line(extra: &[(&str, &str)]) -> Option<String> {
        let extra = extra
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let metadata = MessageMetadata {
            extra,
            ..MessageMetadata::default()
        };
        let message = Message {
            role: MessageRole::Assistant.into(),
            metadata: Some(metadata),
            ..Message::default()
        };
        ended(&message).map(|ended| ended.line())
    }

    #[test]
    fn every_unusual_end_has_a_line_and_the_usual_one_has_none() {
        assert_eq!(line(&[("finish_reason", "stop")]), None);
        assert_eq!(
            line(&[("cancelled", "true"), ("finish_reason", "cancelled")]).unwrap(),
            "(stopped)"
        );
        assert_eq!(
            line(&[("incomplete", "true"), ("error", "x\u{1b}[2J")]).unwrap(),
            "(incomplete: x␛[2J)"
        );
        assert!(
            line(&[("finish_reason", "length")])
                .unwrap()
                .contains("agent.answer_tokens")
        );
        assert!(line(&[("finish_reason", "filter")]).unwrap().contains("content filter"));
        let told = [("finish_reason", "length"), ("cut_short", "limit of 5 tokens")];
        assert_eq!(line(&told).unwrap(), "(cut short: limit of 5 tokens)");
    }
}
