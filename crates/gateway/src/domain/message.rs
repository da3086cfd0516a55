//! Messages to and from the orchestrator, as the gateway's own types.

use nexus_proto::words;
use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Role {
    User,
    System,
    Assistant,
}

/// A message as the client gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Empty: we choose one.
    pub id: String,
    pub time: Option<i64>,
    pub role: Role,
    pub content: String,
    pub correlation_id: String,
    /// Empty: the assistant's own choice.
    pub model: String,
    pub extra: BTreeMap<String, String>,
}

impl Asked {
    /// `id` is used if the client chose none.
    pub fn outgoing(self, id: impl FnOnce() -> String) -> Outgoing {
        let mut extra = self.extra;
        for (key, value) in [
            ("model", self.model),
            (words::extra::CORRELATION_ID, self.correlation_id),
        ] {
            if !value.is_empty() {
                extra.insert(key.into(), value);
            }
        }
        let id = if self.id.is_empty() { id() } else { self.id };
        Outgoing {
            id,
            time: self.time,
            role: self.role,
            content: self.content,
            extra,
            traceparent: None,
        }
    }
}

/// A message on its way to the orchestrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outgoing {
    /// Always set, so that sending it again is safe.
    pub id: String,
    /// As the client gave it.
    pub time: Option<i64>,
    pub role: Role,
    pub content: String,
    /// What the orchestrator keeps beside the content: the model asked for and the correlation id among it.
    pub extra: BTreeMap<String, String>,
    /// Where it belongs in a trace, if somebody traces.
    #[serde(skip)]
    pub traceparent: Option<String>,
}

/// A message of the orchestrator's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMessage {
    pub id: String,
    /// Its place in the session, from 1; 0 if the orchestrator does not say.
    pub sequence: u64,
    pub content: String,
    pub extra: BTreeMap<String, String>,
}

impl StoredMessage {
    pub fn in_reply_to(&self) -> &str {
        self.extra.get(words::extra::IN_REPLY_TO).map_or("", String::as_str)
    }

    /// What it failed with in the middle, if it did.
    pub fn broke_off(&self) -> Option<&str> {
        let incomplete = self
            .extra
            .get(words::extra::INCOMPLETE)
            .is_some_and(|value| value == "true");
        incomplete.then(|| {
            self.extra
                .get(words::extra::ERROR)
                .map_or("the answer broke off", String::as_str)
        })
    }

    /// By what it was cut short, and what helps; of an assistant that does not say it in words, the reason alone.
    pub fn cut_short(&self) -> Option<&str> {
        let text = |name: &str| self.extra.get(name).map(String::as_str).filter(|text| !text.is_empty());
        text(words::extra::CUT_SHORT).or_else(|| match text(words::extra::FINISH_REASON)? {
            "length" => Some("the answer reached its limit of tokens; raise agent.answer_tokens"),
            "filter" => Some("the provider's content filter ended the answer, or the model refused it"),
            _ => None,
        })
    }

    /// It ends where someone stopped it.
    pub fn is_cancelled(&self) -> bool {
        self.extra
            .get(words::extra::CANCELLED)
            .is_some_and(|value| value == "true")
    }
}

/// A frame of the orchestrator's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A message is stored.
    Ack {
        id: String,
    },
    /// A piece of a coming answer; `index` is its byte offset.
    Delta {
        answer: String,
        index: usize,
        text: String,
        in_reply_to: Option<String>,
    },
    Answer(StoredMessage),
    /// A message that is not an answer.
    Other {
        sequence: u64,
    },
    /// A turn failed.
    Failed {
        message_id: Option<String>,
        error: String,
    },
    /// Nothing for us.
    Nothing,
}
