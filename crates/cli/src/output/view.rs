//! What the wire carries, in the shape that `--json` prints. Field names are those of the protocol; enums are their
//! last part in lower case.

use std::collections::{BTreeMap, HashMap};

use nexus_proto::words;
use nexus_proto::{
    agent::v1 as agent,
    llm::v1::ModelInfo,
    orchestrator::v1::{self as orchestrator, EventGap},
};
use serde::Serialize;

use super::time::exact;

/// `SESSION_STATE_ACTIVE` as `active`.
pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

fn sorted(map: &HashMap<String, String>) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[derive(Debug, Serialize)]
pub struct Session {
    pub id: String,
    pub name: String,
    pub description: String,
    pub state: String,
    pub owner_id: String,
    pub labels: BTreeMap<String, String>,
    pub tags: Vec<String>,
    pub created_at: Option<String>,
    pub updated_at: Option<String>,
    pub expires_at: Option<String>,
    pub closed_at: Option<String>,
}

pub fn session(session: &orchestrator::Session) -> Session {
    let metadata = session.metadata.clone().unwrap_or_default();
    Session {
        id: session.id.clone(),
        name: metadata.name,
        description: metadata.description,
        state: word(session.state().as_str_name(), "SESSION_STATE_"),
        owner_id: metadata.owner_id,
        labels: sorted(&metadata.labels),
        tags: metadata.tags,
        created_at: exact(session.created_at.as_ref()),
        updated_at: exact(session.updated_at.as_ref()),
        expires_at: exact(session.expires_at.as_ref()),
        closed_at: exact(session.closed_at.as_ref()),
    }
}

#[derive(Debug, Serialize)]
pub struct Message {
    pub id: String,
    pub sequence: u64,
    pub role: String,
    pub content: String,
    pub timestamp: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

pub fn message(message: &orchestrator::Message) -> Message {
    Message {
        id: message.id.clone(),
        sequence: message.sequence,
        role: word(message.role().as_str_name(), "MESSAGE_ROLE_"),
        content: message.content.clone(),
        timestamp: exact(message.timestamp.as_ref()),
        extra: message.metadata.as_ref().map(|m| sorted(&m.extra)).unwrap_or_default(),
    }
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Event {
    Gap { gap: Gap },
    One(EventView),
}

#[derive(Debug, Serialize)]
pub struct Gap {
    pub first: u64,
    pub last: u64,
}

#[derive(Debug, Serialize)]
pub struct EventView {
    pub sequence: u64,
    pub id: String,
    pub name: String,
    pub source: String,
    pub timestamp: Option<String>,
    pub session_id: Option<String>,
    pub data: BTreeMap<String, String>,
}

pub fn event(event: &orchestrator::Event) -> Event {
    if let Some(EventGap { first, last }) = event.gap {
        return Event::Gap {
            gap: Gap { first, last },
        };
    }
    Event::One(EventView {
        sequence: event.sequence,
        id: event.id.clone(),
        name: event_name(event),
        source: event.source.clone(),
        timestamp: exact(event.timestamp.as_ref()),
        session_id: event
            .metadata
            .as_ref()
            .map(|m| m.session_id.clone())
            .filter(|id| !id.is_empty()),
        data: sorted(&event.data),
    })
}

/// The full name; a server without that extension has the enum only.
pub fn event_name(event: &orchestrator::Event) -> String {
    if event.name.is_empty() {
        word(event.r#type().as_str_name(), "EVENT_TYPE_").replacen('_', ".", 1)
    } else {
        event.name.clone()
    }
}

#[derive(Debug, Serialize)]
pub struct Agent {
    pub id: String,
    pub name: String,
    pub r#type: String,
    pub state: String,
    pub version: String,
    pub pid: String,
    pub labels: BTreeMap<String, String>,
    pub active_tasks: Vec<String>,
    pub registered_at: Option<String>,
    pub last_heartbeat: Option<String>,
}

pub fn agent(agent: &agent::Agent) -> Agent {
    let metadata = agent.metadata.clone().unwrap_or_default();
    let version = match metadata.labels.get(words::label::VERSION) {
        Some(version) if metadata.version.is_empty() => version.clone(),
        _ => metadata.version,
    };
    Agent {
        id: agent.id.clone(),
        name: agent.name.clone(),
        r#type: word(agent.r#type().as_str_name(), "AGENT_TYPE_"),
        state: word(agent.state().as_str_name(), "AGENT_STATE_"),
        version,
        pid: metadata.pid,
        labels: sorted(&metadata.labels),
        active_tasks: agent.active_tasks.clone(),
        registered_at: exact(agent.registered_at.as_ref()),
        last_heartbeat: exact(agent.last_heartbeat.as_ref()),
    }
}

#[derive(Debug, Serialize)]
pub struct Model {
    pub id: String,
    pub name: String,
    pub provider: String,
    pub streaming: bool,
    pub tools: bool,
    pub vision: bool,
    pub thinking: bool,
    pub metadata: BTreeMap<String, String>,
}

pub fn model(model: &ModelInfo) -> Model {
    let can = model.capabilities.unwrap_or_default();
    Model {
        id: model.id.clone(),
        name: model.name.clone(),
        provider: model.provider.clone(),
        streaming: can.streaming,
        tools: can.tools,
        vision: can.vision,
        thinking: can.thinking,
        metadata: sorted(&model.metadata),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_without_a_name_is_called_by_its_type() {
        let mut one = orchestrator::Event {
            r#type: orchestrator::EventType::SessionCreated.into(),
            ..Default::default()
        };
        assert_eq!(event_name(&one), "session.created");
        one.name = "agent.lost".into();
        assert_eq!(event_name(&one), "agent.lost");
    }

    #[test]
    fn a_gap_is_told_apart_from_an_event() {
        let one = orchestrator::Event {
            gap: Some(EventGap { first: 3, last: 9 }),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&event(&one)).unwrap(),
            r#"{"gap":{"first":3,"last":9}}"#
        );
    }
}
