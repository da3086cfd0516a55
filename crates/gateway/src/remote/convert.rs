//! Converts between the gateway's types and the orchestrator's messages.

use nexus_proto::words;
use nexus_proto::{
    Timestamp,
    orchestrator::v1::{
        CreateSessionRequest, Event, EventType, Message, MessageMetadata, MessageRole, SessionConfig, SessionMetadata,
        StreamMessageResponse, stream_message_response::Payload,
    },
};

use crate::domain::{
    message::{Incoming, Outgoing, Role, StoredMessage},
    session::NewSession,
};

/// Labels say which gateway session it belongs to, beside the client's own.
const GATEWAY_SESSION: &str = "nexus.gateway_session";

pub(super) fn create(id: &str, requested: &NewSession) -> CreateSessionRequest {
    let metadata = &requested.metadata;
    let mut labels: std::collections::HashMap<_, _> = metadata
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(GATEWAY_SESSION.into(), id.into());
    CreateSessionRequest {
        metadata: Some(SessionMetadata {
            name: metadata.name.clone(),
            description: metadata.description.clone(),
            labels,
            owner_id: metadata.user_id.clone(),
            tags: metadata.tags.clone(),
        }),
        config: Some(SessionConfig {
            max_duration_ns: requested.timeout_ns(),
            idle_timeout_ns: requested.idle_timeout_ns(),
            ..SessionConfig::default()
        }),
    }
}

pub(super) fn outgoing(message: Outgoing) -> Message {
    let role = match message.role {
        Role::User => MessageRole::User,
        Role::System => MessageRole::System,
        Role::Assistant => MessageRole::Assistant,
    };
    Message {
        id: message.id,
        timestamp: message.time.map(timestamp),
        role: role.into(),
        content: message.content,
        metadata: Some(MessageMetadata {
            extra: message.extra.into_iter().collect(),
            ..MessageMetadata::default()
        }),
        sequence: 0,
    }
}

pub(super) fn incoming(frame: StreamMessageResponse) -> Incoming {
    match frame.payload {
        Some(Payload::Message(message)) if message.role() == MessageRole::Assistant => Incoming::Answer(said(message)),
        Some(Payload::Message(message)) => Incoming::Other {
            sequence: message.sequence,
        },
        Some(Payload::Event(event)) => event_of(event),
        Some(Payload::Heartbeat(())) | None => Incoming::Nothing,
    }
}

fn event_of(mut event: Event) -> Incoming {
    if let Some(id) = event.data.remove("ack") {
        return Incoming::Ack { id };
    }
    if let Some(error) = event.data.remove("error") {
        let message_id = event.data.remove(words::data::MESSAGE_ID).filter(|id| !id.is_empty());
        return Incoming::Failed { message_id, error };
    }
    if event.r#type() == EventType::IpcMessage
        && let (Some(text), Some(answer)) = (event.data.remove("delta"), event.data.remove(words::data::MESSAGE_ID))
    {
        let index = event
            .data
            .get("index")
            .and_then(|index| index.parse().ok())
            .unwrap_or(0);
        return Incoming::Delta {
            answer,
            index,
            text,
            in_reply_to: event.data.remove(words::extra::IN_REPLY_TO),
        };
    }
    Incoming::Nothing
}

pub(super) fn said(message: Message) -> StoredMessage {
    StoredMessage {
        id: message.id,
        sequence: message.sequence,
        content: message.content,
        extra: message
            .metadata
            .map(|metadata| metadata.extra.into_iter().collect())
            .unwrap_or_default(),
    }
}

pub(super) fn timestamp(nanos: i64) -> Timestamp {
    Timestamp {
        seconds: nanos.div_euclid(1_000_000_000),
        nanos: i32::try_from(nanos.rem_euclid(1_000_000_000)).expect("less than a billion"),
    }
}

pub(super) fn nanos(timestamp: &Timestamp) -> i64 {
    timestamp
        .seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(timestamp.nanos))
}
