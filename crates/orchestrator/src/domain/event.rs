//! Events by name, and what each looks like on the wire. Names that the enum of the contract has no value for travel in
//! `Event.name` alone.

use std::collections::HashMap;

use nexus_proto::Timestamp;
use nexus_proto::common::v1::Priority;
use nexus_proto::orchestrator::v1::{Event, EventMetadata, EventType, Message, MessageRole};
use nexus_proto::words;

use super::{Step, Time};

pub const ORCHESTRATOR: &str = "orchestrator.grpc";
pub const AGENT: &str = "agent.grpc";
pub const SYSTEM: &str = "orchestrator";
pub const TOOL: &str = "tool.grpc";

pub const MESSAGE_SENT: &str = words::event::MESSAGE_SENT;
pub const TURN_FAILED: &str = words::event::TURN_FAILED;
pub const SESSION_DELETED: &str = words::event::SESSION_DELETED;

/// The value of the contract's enum for a name; UNSPECIFIED where it has none.
pub fn type_of(name: &str) -> EventType {
    match name {
        words::event::CONTAINER_CREATED => EventType::ContainerCreated,
        words::event::CONTAINER_STARTED => EventType::ContainerStarted,
        words::event::CONTAINER_STOPPED => EventType::ContainerStopped,
        words::event::CONTAINER_REMOVED => EventType::ContainerRemoved,
        words::event::CONTAINER_ERROR => EventType::ContainerError,
        words::event::SESSION_CREATED => EventType::SessionCreated,
        words::event::SESSION_UPDATED => EventType::SessionUpdated,
        words::event::SESSION_CLOSED => EventType::SessionClosed,
        words::event::TASK_CREATED => EventType::TaskCreated,
        words::event::TASK_UPDATED => EventType::TaskUpdated,
        words::event::TASK_COMPLETED => EventType::TaskCompleted,
        words::event::TASK_FAILED | TURN_FAILED => EventType::TaskFailed,
        words::event::IPC_MESSAGE => EventType::IpcMessage,
        words::event::POLICY_VIOLATION => EventType::PolicyViolation,
        words::event::RESOURCE_THRESHOLD => EventType::ResourceThreshold,
        words::event::SYSTEM_STARTUP => EventType::SystemStartup,
        words::event::SYSTEM_SHUTDOWN => EventType::SystemShutdown,
        _ => EventType::Unspecified,
    }
}

pub fn timestamp(time: Time) -> Timestamp {
    Timestamp {
        seconds: time.div_euclid(1_000_000_000),
        nanos: time.rem_euclid(1_000_000_000) as i32,
    }
}

/// Nanoseconds since the epoch; what lies outside of what fits is cut to it.
pub fn time(timestamp: &Timestamp) -> Time {
    timestamp
        .seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(timestamp.nanos))
}

/// About whom or what an event is, beside its data.
#[derive(Clone, Debug, Default)]
pub struct About {
    pub session_id: String,
    pub user_id: String,
    pub labels: HashMap<String, String>,
    pub high: bool,
}

/// An event of this name, happening now.
pub fn build(step: &mut Step<'_>, name: &str, source: &str, about: About, data: &[(&str, &str)]) -> Event {
    let priority = if about.high { Priority::High } else { Priority::Normal };
    Event {
        id: step.ids.plain(),
        r#type: type_of(name).into(),
        source: source.into(),
        timestamp: Some(timestamp(step.now)),
        data: data.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        metadata: Some(EventMetadata {
            session_id: about.session_id,
            user_id: about.user_id,
            labels: about.labels,
            priority: priority.into(),
            ..EventMetadata::default()
        }),
        name: name.into(),
        ..Event::default()
    }
}

/// The event that a stored message is. It is never stored itself: the message's row stands for both. It happened when the
/// message was stored, whatever time its sender gave it.
pub fn of_message(message: &Message, session_id: &str, stored: Time) -> Event {
    let data = [
        (words::data::MESSAGE_ID.to_owned(), message.id.clone()),
        ("role".to_owned(), role_name(message.role).to_owned()),
        ("session_id".to_owned(), session_id.to_owned()),
    ];
    Event {
        id: message.id.clone(),
        source: ORCHESTRATOR.into(),
        timestamp: Some(timestamp(stored)),
        data: data.into(),
        metadata: Some(EventMetadata {
            session_id: session_id.into(),
            priority: Priority::Normal.into(),
            ..EventMetadata::default()
        }),
        name: MESSAGE_SENT.into(),
        ..Event::default()
    }
}

pub fn role_name(role: i32) -> &'static str {
    match MessageRole::try_from(role) {
        Ok(MessageRole::System) => "system",
        Ok(MessageRole::Assistant) => "assistant",
        Ok(MessageRole::Tool) => "tool",
        Ok(MessageRole::User | MessageRole::Unspecified) | Err(_) => "user",
    }
}
