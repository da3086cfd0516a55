//! The messages of StreamAgent as this daemon's own types: what the orchestrator sends, and what it is sent.

use std::{collections::HashMap, time::SystemTime};

use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, ControlCommand, DataMessage, EventMessage, MessageType, StreamAgentRequest,
    agent_message::Payload, stream_agent_request,
};
use nexus_proto::words;

use crate::domain::assistant::{answer::CompleteAnswer, turn_queue::TurnId};

const ORCHESTRATOR: &str = "orchestrator";
const ERROR_TYPE: &str = "application/vnd.nexus.error+text";

/// One message to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub turn: TurnId,
    pub session_id: String,
    pub text: String,
    /// The user message's id, if the orchestrator says it.
    pub message_id: Option<String>,
    /// What every daemon's log calls it, if the orchestrator says it.
    pub followed_by: Option<String>,
    /// Where the turn belongs in a trace, if somebody traces.
    pub traceparent: Option<String>,
    pub model: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    Offer(Offer),
    Cancel {
        turn: Option<TurnId>,
        session_id: String,
    },
    /// A turn that cannot be answered as it stands; the sender is told why.
    Malformed {
        turn: TurnId,
        session_id: String,
        reason: &'static str,
    },
    /// Nothing for us, and why.
    Ignored(&'static str),
}

/// Why a turn has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub retryable: bool,
    /// What came of the answer is all that will come of it, so it is to be kept, marked as incomplete. Not so where a
    /// daemon went away: the same question, asked again, starts over.
    pub keeps_answer: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound {
    Delta { index: usize, text: String },
    Answer(CompleteAnswer),
    Refusal(Refusal),
}

impl Inbound {
    pub fn decode(message: AgentMessage, agent_id: &str) -> Inbound {
        if !["", ORCHESTRATOR].contains(&message.source_id.as_str()) {
            return Inbound::Ignored("not from the orchestrator");
        }
        if !["", agent_id].contains(&message.target_id.as_str()) {
            return Inbound::Ignored("for another agent");
        }
        let kind = message.r#type();
        let metadata = message.metadata.unwrap_or_default();
        match (kind, message.payload) {
            (MessageType::Data, Some(Payload::DataMessage(data))) => offer(metadata, data),
            (MessageType::Control, Some(Payload::ControlMessage(control))) => match control.command() {
                ControlCommand::Cancel => Inbound::Cancel {
                    turn: some(metadata.correlation_id).map(TurnId),
                    session_id: metadata.session_id,
                },
                _ => Inbound::Ignored("no such command here"),
            },
            _ => Inbound::Ignored("neither a question nor a command"),
        }
    }
}

fn offer(metadata: AgentMessageMetadata, data: DataMessage) -> Inbound {
    let mut headers = metadata.headers;
    let mut either = |own: String, name: &str| {
        some(own)
            .or_else(|| data.headers.get(name).cloned())
            .or_else(|| headers.remove(name))
            .unwrap_or_default()
    };
    let turn = TurnId(either(metadata.correlation_id, words::extra::CORRELATION_ID));
    let session_id = either(metadata.session_id, "session_id");
    let message_id = some(either(String::new(), words::data::MESSAGE_ID));
    let followed_by = some(either(String::new(), words::metadata::CORRELATION_ID));
    let traceparent = some(either(String::new(), words::metadata::TRACEPARENT));
    let model = some(either(String::new(), "model"));
    if turn.0.is_empty() {
        return Inbound::Ignored("a question without a correlation id");
    }
    let malformed = |reason| Inbound::Malformed {
        turn: turn.clone(),
        session_id: session_id.clone(),
        reason,
    };
    if session_id.is_empty() {
        return malformed("the question names no session");
    }
    match String::from_utf8(data.data.into()) {
        Err(_) => malformed("the question is not UTF-8 text"),
        Ok(text) if text.trim().is_empty() => malformed("the question is empty"),
        Ok(text) => Inbound::Offer(Offer {
            turn,
            session_id,
            text,
            message_id,
            followed_by,
            traceparent,
            model,
        }),
    }
}

impl Outbound {
    pub fn encode(self, agent_id: &str, turn: &TurnId, session_id: &str) -> StreamAgentRequest {
        let (kind, payload) = match self {
            Outbound::Delta { index, text } => (
                MessageType::Event,
                Payload::EventMessage(EventMessage {
                    event_type: "delta".into(),
                    source: agent_id.to_owned(),
                    data: HashMap::from([("delta".to_owned(), text), ("index".to_owned(), index.to_string())]),
                }),
            ),
            Outbound::Answer(whole) => (MessageType::Data, answer(whole, turn, session_id)),
            Outbound::Refusal(refusal) => (
                MessageType::Error,
                Payload::DataMessage(DataMessage {
                    content_type: ERROR_TYPE.into(),
                    data: refusal.message.into(),
                    headers: named(
                        turn,
                        session_id,
                        [
                            ("code", refusal.code),
                            ("retryable", refusal.retryable.to_string()),
                            (
                                words::extra::INCOMPLETE,
                                if refusal.keeps_answer {
                                    "true".into()
                                } else {
                                    String::new()
                                },
                            ),
                        ],
                    ),
                }),
            ),
        };
        StreamAgentRequest {
            agent_id: agent_id.to_owned(),
            payload: Some(stream_agent_request::Payload::Message(AgentMessage {
                id: new_id(),
                r#type: kind.into(),
                timestamp: Some(SystemTime::now().into()),
                source_id: agent_id.to_owned(),
                target_id: ORCHESTRATOR.into(),
                metadata: Some(AgentMessageMetadata {
                    correlation_id: turn.0.clone(),
                    session_id: session_id.to_owned(),
                    ..AgentMessageMetadata::default()
                }),
                payload: Some(payload),
            })),
        }
    }
}

fn answer(whole: CompleteAnswer, turn: &TurnId, session_id: &str) -> Payload {
    let headers = named(
        turn,
        session_id,
        [
            ("model", whole.model),
            (words::extra::FINISH_REASON, whole.finish.name().to_owned()),
            (words::extra::CUT_SHORT, whole.cut_short.unwrap_or_default()),
            ("input_tokens", whole.input_tokens.to_string()),
            ("output_tokens", whole.output_tokens.to_string()),
        ],
    );
    Payload::DataMessage(DataMessage {
        content_type: "text/plain".into(),
        data: whole.text.into(),
        headers,
    })
}

/// The ids stand in the headers too, where other orchestrators look for them.
fn named<const N: usize>(turn: &TurnId, session_id: &str, more: [(&str, String); N]) -> HashMap<String, String> {
    let ids = [
        (words::extra::CORRELATION_ID, turn.0.clone()),
        ("session_id", session_id.to_owned()),
    ];
    ids.into_iter()
        .chain(more)
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// 32 hex digits, as all ids of this system.
pub fn new_id() -> String {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("the system gives random bytes once it has started");
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> AgentMessage {
        AgentMessage {
            r#type: MessageType::Data.into(),
            source_id: ORCHESTRATOR.into(),
            target_id: "a1".into(),
            metadata: Some(AgentMessageMetadata {
                correlation_id: "c".into(),
                session_id: "s".into(),
                headers: HashMap::from([("model".into(), "m".into()), ("message_id".into(), "u".into())]),
                ..AgentMessageMetadata::default()
            }),
            payload: Some(Payload::DataMessage(DataMessage {
                data: "hi".into(),
                ..DataMessage::default()
            })),
            ..AgentMessage::default()
        }
    }

    #[test]
    fn a_question_is_read_with_its_headers() {
        assert_eq!(
            Inbound::decode(question(), "a1"),
            Inbound::Offer(Offer {
                turn: TurnId("c".into()),
                session_id: "s".into(),
                text: "hi".into(),
                message_id: Some("u".into()),
                followed_by: None,
                traceparent: None,
                model: Some("m".into()),
            })
        );
    }

    #[test]
    fn what_is_for_others_is_ignored_and_what_is_broken_is_answered() {
        let mut foreign = question();
        foreign.source_id = "x".into();
        assert!(matches!(Inbound::decode(foreign, "a1"), Inbound::Ignored(_)));
        assert!(matches!(Inbound::decode(question(), "a2"), Inbound::Ignored(_)));
        let mut empty = question();
        empty.payload = Some(Payload::DataMessage(DataMessage::default()));
        assert!(matches!(Inbound::decode(empty, "a1"), Inbound::Malformed { .. }));
        let mut nowhere = question();
        nowhere.metadata.as_mut().unwrap().session_id.clear();
        assert!(matches!(Inbound::decode(nowhere, "a1"), Inbound::Malformed { .. }));
    }
}
