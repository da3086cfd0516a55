//! The messages of StreamAgent as this daemon's own types: what the orchestrator sends, and what it is sent.

use std::{collections::HashMap, time::SystemTime};

use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, ControlCommand, DataMessage, EventMessage, MessageType, StreamAgentRequest,
    agent_message::Payload, stream_agent_request,
};
use nexus_proto::orchestrator::v1::StepOffer;
use nexus_proto::words;

use crate::domain::assistant::{
    answer::CompleteAnswer,
    turn_queue::TurnId,
    work::{NextStep, Offer, Outbound, StepPlace, Work},
};

const ORCHESTRATOR: &str = "orchestrator";
const ERROR_TYPE: &str = "application/vnd.nexus.error+text";

#[derive(Clone, Debug, PartialEq)]
pub enum Inbound {
    Offer(Work),
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
            (_, Some(Payload::Step(step))) => next_step(metadata, step),
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
    let note = some(either(String::new(), "note"));
    let run_id = some(either(String::new(), "run_id"));
    let step = run_id.map(|run_id| StepPlace {
        run_id,
        step: either(String::new(), "step").parse().unwrap_or(1),
        attempt: either(String::new(), "step_attempt").parse().unwrap_or(1),
        tools_digest: either(String::new(), "tools_digest"),
    });
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
        Ok(text) => Inbound::Offer(Work::Message(Box::new(Offer {
            turn,
            session_id,
            text,
            message_id,
            followed_by,
            traceparent,
            model,
            step,
            note,
        }))),
    }
}

fn next_step(metadata: AgentMessageMetadata, offer: StepOffer) -> Inbound {
    let mut headers = metadata.headers;
    let turn = TurnId(metadata.correlation_id);
    if turn.0.is_empty() || offer.run_id.is_empty() {
        return Inbound::Ignored("a step without the id of its run");
    }
    let session_id = some(offer.session_id).unwrap_or(metadata.session_id);
    let malformed = |reason| Inbound::Malformed {
        turn: turn.clone(),
        session_id: session_id.clone(),
        reason,
    };
    if session_id.is_empty() {
        return malformed("the step names no session");
    }
    let Some(previous) = offer
        .previous
        .filter(|previous| previous.number.saturating_add(1) == offer.step)
    else {
        return malformed("the step comes without the step before it");
    };
    Inbound::Offer(Work::Step(Box::new(NextStep {
        turn,
        session_id,
        followed_by: headers.remove(words::metadata::CORRELATION_ID),
        traceparent: headers.remove(words::metadata::TRACEPARENT),
        model: headers.remove("model"),
        place: StepPlace {
            run_id: offer.run_id,
            step: offer.step,
            attempt: offer.attempt,
            tools_digest: offer.tools_digest,
        },
        previous,
        last: offer.last,
    })))
}

impl Outbound {
    pub fn encode(self, agent_id: &str, turn: &TurnId, session_id: &str) -> StreamAgentRequest {
        let (kind, payload) = match self {
            Outbound::Delta { index, text } => (MessageType::Event, piece("delta", agent_id, index, text)),
            Outbound::Thought { index, text } => (MessageType::Event, piece("thinking", agent_id, index, text)),
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

fn piece(event_type: &str, agent_id: &str, index: usize, text: String) -> Payload {
    Payload::EventMessage(EventMessage {
        event_type: event_type.into(),
        source: agent_id.to_owned(),
        data: HashMap::from([("delta".to_owned(), text), ("index".to_owned(), index.to_string())]),
    })
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
    use nexus_proto::orchestrator::v1::RunStep;

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
            Inbound::Offer(Work::Message(Box::new(Offer {
                turn: TurnId("c".into()),
                session_id: "s".into(),
                text: "hi".into(),
                message_id: Some("u".into()),
                followed_by: None,
                traceparent: None,
                model: Some("m".into()),
                step: None,
                note: None,
            })))
        );
    }

    #[test]
    fn a_question_with_a_run_is_its_first_step() {
        let mut message = question();
        let headers = &mut message.metadata.as_mut().unwrap().headers;
        for (name, value) in [
            ("run_id", "r"),
            ("step", "1"),
            ("step_attempt", "2"),
            ("tools_digest", "d"),
        ] {
            headers.insert(name.into(), value.into());
        }
        let Inbound::Offer(work) = Inbound::decode(message, "a1") else {
            panic!()
        };
        let place = StepPlace {
            run_id: "r".into(),
            step: 1,
            attempt: 2,
            tools_digest: "d".into(),
        };
        assert_eq!(work.place(), Some(&place));
    }

    #[test]
    fn a_later_step_needs_the_step_before_it() {
        let mut message = question();
        let offer = StepOffer {
            run_id: "r".into(),
            session_id: "s".into(),
            step: 3,
            attempt: 1,
            previous: Some(RunStep {
                number: 2,
                ..RunStep::default()
            }),
            ..StepOffer::default()
        };
        message.r#type = MessageType::TaskUpdate.into();
        message.payload = Some(Payload::Step(offer.clone()));
        let Inbound::Offer(Work::Step(step)) = Inbound::decode(message.clone(), "a1") else {
            panic!()
        };
        assert_eq!(
            (step.place.step, step.previous.number, step.model.as_deref()),
            (3, 2, Some("m"))
        );
        message.payload = Some(Payload::Step(StepOffer {
            previous: None,
            ..offer
        }));
        assert!(matches!(Inbound::decode(message, "a1"), Inbound::Malformed { .. }));
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
